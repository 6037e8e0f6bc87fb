"""Turn a request body into the submissions it asks for: text to tokens, defaults, limits."""

from __future__ import annotations

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from bros.brosd.config import SloConfig
from bros.brosd.protocol.wire import Sampling, Slo
from bros.brosd.tokenizer.generation.codec import ChatOptions, Codec
from bros.brosd.tokenizer.generation.detokenize import StopAutomaton
from bros.brosd.tokenizer.generation.grammar_trial import GrammarTrial
from bros.brosd.tokenizer.generation.live_requests import Submission
from bros.brosd.tokenizer.openai.errors import OpenAIError, invalid
from bros.brosd.tokenizer.openai.schema import (
    MAX_PROMPTS,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    SloMs,
    TokenizeRequest,
    ToolCall,
    refuse_unsupported,
)
from bros.brosd.tokenizer.openai.structured_output import Tool, answer_grammar, call_grammar
from bros.kv import Klass

COMPLETION_TOKENS = 16  # of a completion without `max_tokens`, as OpenAI's
GREEDY_BELOW = 1e-5  # dividing logits by a lower temperature overflows
SEED_MASK = 2**63 - 1
SHORT_CHARS = 2048  # encoded at once; a longer text would keep streams waiting
ENCODER_THREADS = 2


@dataclass(frozen=True)
class ModelSizes:
    """What the workers say of the model: tokens of a sequence, and tokens of its vocabulary.

    A tokenizer may have more tokens: some that were added to it later, which the model cannot read.
    """

    max_len: int
    vocab_size: int


class Preparer:
    """Prepares requests for one model; has a thread pool for long texts."""

    def __init__(self, codec: Codec, slo: SloConfig) -> None:
        self._codec = codec
        self.slo = slo
        self.token_bytes = codec.token_bytes
        self._trial = GrammarTrial(codec.folder)
        self._threads = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode")

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._trial.close()

    async def prepare(
        self, request: ChatRequest | CompletionRequest, sizes: ModelSizes, *, batch: bool
    ) -> list[Submission]:
        """`n` submissions per prompt. Raise OpenAIError (400) if the request cannot be served."""
        arrived_s = time.monotonic()
        refuse_unsupported(request)
        if request.stream_options is not None and not request.stream and not batch:
            raise invalid("stream_options", "goes with 'stream': true only")
        if isinstance(request, ChatRequest):
            prompts = [
                await self._encode_chat(
                    request.messages, request.callable_tools, _chat_options(request)
                )
            ]
        else:
            prompts = await self._encode_prompts(request)
        for prompt in prompts:
            _check_known(request, prompt, sizes.vocab_size)
        choices = request.n or 1
        if len(prompts) * choices > MAX_PROMPTS:
            raise invalid("n", f"more than {MAX_PROMPTS} choices in one request")
        grammar = await self._grammar(request)
        if (
            request.num_logprobs is not None
        ):  # the first use loads the vocabulary, which takes a moment
            await asyncio.get_running_loop().run_in_executor(
                self._threads, self._codec.token_bytes, 0
            )
        stops = StopAutomaton(request.stops)  # one for all choices
        klass = Klass.BE if batch or request.service_tier == "flex" else Klass.RT
        return [
            Submission(
                klass=klass,
                arrived_s=arrived_s,
                prompt=prompt,
                max_tokens=_max_tokens(request, len(prompt), sizes.max_len),
                sampling=sampling,
                stop_ids=self._stop_ids(request),
                stops=stops,
                slo=self._objectives(request) if klass is Klass.RT else None,
                stream=bool(request.stream) and not batch,
            )
            for prompt in prompts
            for sampling in _samplings(request, choices, grammar)
        ]

    async def _grammar(self, request: ChatRequest | CompletionRequest) -> str:
        """The grammar of the answer; empty for any text. Raise OpenAIError if it is impossible."""
        field, grammar = "response_format", answer_grammar(request.response_format)
        if isinstance(request, ChatRequest) and (tools := request.callable_tools):
            if grammar:
                raise invalid("response_format", "does not go with 'tools': choose one of them")
            field, grammar = "tools", call_grammar(tools, request.tool_choice)
        if not grammar:
            return ""
        if request.ignore_eos:
            raise invalid("ignore_eos", f"does not go with '{field}'")
        if problem := await self._trial.problem_of(grammar):
            raise invalid(field, problem)
        return grammar

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """The tokens of a text or a conversation. Raise OpenAIError if it is neither, or both."""
        if request.messages is not None and request.prompt is None:
            return await self._encode_chat(
                request.messages, request.tools or [], _chat_options(request)
            )
        if request.prompt is None or request.messages is not None:
            raise invalid("prompt", "give either 'prompt' or 'messages'")
        return await self._encode(request.prompt)

    async def detokenize(self, request: DetokenizeRequest) -> str:
        """The text of tokens, special tokens included."""
        self._check_ids(request.tokens, "tokens")
        loop = asyncio.get_running_loop()
        decode = self._codec.decode_all
        return await loop.run_in_executor(self._threads, decode, request.tokens)

    async def _encode_chat(
        self, messages: list[ChatMessage], tools: list[Tool], options: ChatOptions
    ) -> list[int]:
        plain = [_plain(message, index) for index, message in enumerate(messages)]
        plain_tools = [msgspec.to_builtins(tool) for tool in tools]
        num_chars = sum(len(message["content"]) for message in plain)
        encode = partial(self._codec.encode_chat, plain, plain_tools, options)
        if num_chars <= SHORT_CHARS and not plain_tools and not options.variables:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(self._threads, encode)

    async def _encode_prompts(self, request: CompletionRequest) -> list[list[int]]:
        encoded = []
        for name, prompt in request.prompts:
            ids = await self._encode(prompt) if isinstance(prompt, str) else prompt
            if not ids:
                raise invalid(name, "is empty: give at least one token")
            self._check_ids(ids, name)
            encoded.append(ids)
        return encoded

    async def _encode(self, text: str) -> list[int]:
        if len(text) <= SHORT_CHARS:
            return self._codec.encode(text)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._codec.encode, text)

    def _check_ids(self, ids: list[int], name: str) -> None:
        limit = self._codec.vocab_size
        for position, token in enumerate(ids):
            if not 0 <= token < limit:
                field = f"{name}[{position}]"
                raise invalid(field, f"token id {token} is not in [0, {limit})")

    def _stop_ids(self, request: GenerationRequest) -> list[int]:
        asked = request.stop_token_ids or []
        self._check_ids(asked, "stop_token_ids")
        return [*asked, *([] if request.ignore_eos else self._codec.eos_ids)]

    def _objectives(self, request: GenerationRequest) -> Slo:
        asked = request.slo or SloMs()
        ttft_ms, tpot_ms = asked.ttft_ms, asked.tpot_ms
        return Slo(
            ttft_s=self.slo.ttft_s if ttft_ms is None else ttft_ms / 1000,
            tpot_s=self.slo.tpot_s if tpot_ms is None else tpot_ms / 1000,
        )


def _chat_options(request: ChatRequest | TokenizeRequest) -> ChatOptions:
    return ChatOptions(
        request.chat_template_kwargs or {}, request.add_generation_prompt is not False
    )


def _plain(message: ChatMessage, index: int) -> dict[str, Any]:
    """A message as chat templates expect it: content as one text, without OpenAI's own roles."""
    if message.content is None and not message.tool_calls:
        raise invalid(f"messages[{index}].content", "is required", "missing_field")
    content = message.content or ""
    if not isinstance(content, str):
        content = "\n".join(part.text for part in content)
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": content}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            _called(call, f"messages[{index}].tool_calls[{number}]")
            for number, call in enumerate(message.tool_calls)
        ]
    return plain


def _called(call: ToolCall, field: str) -> dict[str, Any]:
    """A call as chat templates expect it: its arguments are an object instead of its JSON."""
    try:
        arguments = msgspec.json.decode(call.function.arguments)
    except msgspec.DecodeError as error:
        raise invalid(f"{field}.function.arguments", f"is no JSON: {error}") from None
    except RecursionError:
        raise invalid(f"{field}.function.arguments", "nested too deeply") from None
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _check_known(
    request: ChatRequest | CompletionRequest, prompt: list[int], vocab_size: int
) -> None:
    """Raise OpenAIError if the prompt has a token that the tokenizer has and the model has not."""
    highest = max(prompt, default=0)
    if vocab_size and highest >= vocab_size:
        field = _prompt_field(request)
        problem = f"it has token id {highest}, and this model has no ids above {vocab_size - 1}"
        raise invalid(field, problem)


def _prompt_field(request: ChatRequest | CompletionRequest) -> str:
    return "messages" if isinstance(request, ChatRequest) else "prompt"


def _max_tokens(request: ChatRequest | CompletionRequest, num_prompt: int, max_len: int) -> int:
    """How many tokens may be sampled. Raise OpenAIError if the context has no room for them."""
    left = max_len - num_prompt
    field = _prompt_field(request)
    if left < 1:
        raise _too_long(field, f"{num_prompt} of them leave no room for an answer", max_len)
    name, asked = _asked(request)
    if asked is None:
        return left if isinstance(request, ChatRequest) else min(COMPLETION_TOKENS, left)
    if asked > left:
        problem = f"{num_prompt} of {field} and {asked} of answer are {num_prompt + asked}"
        raise _too_long(name, problem, max_len)
    return asked


def _asked(request: ChatRequest | CompletionRequest) -> tuple[str, int | None]:
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        return "max_completion_tokens", request.max_completion_tokens
    return "max_tokens", request.max_tokens


def _too_long(param: str, problem: str, max_len: int) -> OpenAIError:
    """Clients look for the words "maximum context length is N tokens", which are OpenAI's."""
    message = f"This model's maximum context length is {max_len} tokens; {problem}"
    return OpenAIError(400, message, param=param, code="context_length_exceeded")


def _samplings(request: GenerationRequest, choices: int, grammar: str) -> list[Sampling]:
    """How each choice of a prompt is sampled: each has a seed of its own."""
    first = _sampling(request, grammar)
    seeds = [(first.seed + number) & SEED_MASK for number in range(choices)]
    return [msgspec.structs.replace(first, seed=seed) for seed in seeds]


def _sampling(request: GenerationRequest, grammar: str) -> Sampling:
    temperature = 1.0 if request.temperature is None else request.temperature
    seed = secrets.randbits(63) if request.seed is None else request.seed & SEED_MASK
    return Sampling(
        temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
        top_k=max(0, request.top_k or 0),
        top_p=1.0 if request.top_p is None else request.top_p,
        min_p=request.min_p or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        seed=seed,
        logprobs=request.num_logprobs,
        grammar=grammar,
    )
