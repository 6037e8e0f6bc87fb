"""OpenAI's request bodies. Fields that are not named here are ignored, as vLLM does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bros.brosd.tokenizer.openai.errors import invalid
from bros.brosd.tokenizer.openai.structured_output import ResponseFormat, Tool, ToolChoice, Tools

MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_PROMPTS = 128  # and choices
MAX_MESSAGES = 2048
MAX_STOP_IDS = 256
MAX_LOGPROBS = 20

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[float, Meta(gt=0, le=86_400_000)]
Role = Literal["system", "user", "assistant", "tool", "developer"]
TemplateKwargs = dict[str, Any]  # variables of the chat template
ServiceTier = Literal["auto", "default", "priority", "flex"]
StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]


class TextPart(msgspec.Struct):
    """A piece of a message's content; text is the only kind so far."""

    type: Literal["text"]
    text: str


class CalledFunction(msgspec.Struct):
    """A function that was called; `arguments` is JSON."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(msgspec.Struct):
    """One message of a conversation."""

    role: Role
    content: str | Annotated[list[TextPart], Meta(min_length=1)] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None


class StreamOptions(msgspec.Struct):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class SloMs(msgspec.Struct):
    """Latency objectives of this request; the configuration has the default."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None


class NotYet(msgspec.Struct, kw_only=True):
    """Fields that would change the answer and are not supported: refused, never ignored."""

    best_of: Any = None
    echo: Any = None
    suffix: Any = None
    prompt_logprobs: Any = None
    logit_bias: Any = None
    functions: Any = None
    function_call: Any = None
    structured_outputs: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    min_tokens: Any = None
    bad_words: Any = None
    allowed_token_ids: Any = None
    include_stop_str_in_output: Any = None
    skip_special_tokens: Any = None
    continue_final_message: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_whitespace_pattern: Any = None
    guided_decoding_backend: Any = None
    grammar: Any = None
    json_schema: Any = None
    regex: Any = None
    ebnf: Any = None
    chat_template: Any = None
    documents: Any = None
    add_special_tokens: Any = None
    truncate_prompt_tokens: Any = None
    use_beam_search: Any = None
    length_penalty: Any = None
    early_stopping: Any = None
    logits_processors: Any = None
    cache_salt: Any = None
    reasoning_effort: Any = None
    return_tokens_as_token_ids: Any = None


# Values that ask for what happens anyway; so do None and empty lists and objects everywhere.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "min_tokens": (0,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "continue_final_message": (False,),
    "use_beam_search": (False,),
    "length_penalty": (1.0, 1),
    "early_stopping": (False,),
    "reasoning_effort": ("none",),
    "return_tokens_as_token_ids": (False,),
}


class GenerationRequest(NotYet, kw_only=True):
    """What both endpoints take."""

    model: str
    n: Annotated[int, Meta(ge=1, le=MAX_PROMPTS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[int], Meta(max_length=MAX_STOP_IDS)] | None = None
    ignore_eos: bool | None = None
    service_tier: ServiceTier | None = None
    slo: SloMs | None = None
    return_token_ids: bool | None = None
    response_format: ResponseFormat | None = None

    @property
    def num_logprobs(self) -> int | None:
        """How many likeliest tokens go with each token; None without log probabilities."""
        raise NotImplementedError

    @property
    def stops(self) -> list[str]:
        if isinstance(self.stop, str):
            return [self.stop]
        return self.stop or []


class ChatRequest(GenerationRequest, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    add_generation_prompt: bool | None = None

    @property
    def num_logprobs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "goes with 'logprobs': true only")
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that this answer may call.

        Raise OpenAIError if the answer must call a tool and there is none.
        """
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise invalid("tool_choice", "goes with 'tools' only")
        return [] if self.tool_choice == "none" else self.tools or []


class CompletionRequest(GenerationRequest, kw_only=True):
    """POST /v1/completions. One prompt, or a list of them, as text or as token ids."""

    prompt: str | list[str | int | list[int]]
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[tuple[str, str | list[int]]]:
        """The prompts, each with the name of its field. Raise OpenAIError if their kinds differ."""
        if isinstance(self.prompt, str):
            return [("prompt", self.prompt)]
        if not self.prompt:
            raise invalid("prompt", "is empty: give at least one")
        kind = type(self.prompt[0])
        for index, item in enumerate(self.prompt):
            if type(item) is not kind:
                raise invalid(f"prompt[{index}]", "is of another kind than the items before")
        if kind is int:
            return [("prompt", [item for item in self.prompt if isinstance(item, int)])]
        if len(self.prompt) > MAX_PROMPTS:
            raise invalid("prompt", f"more than {MAX_PROMPTS} prompts in one request")
        named = enumerate(self.prompt)
        return [(f"prompt[{index}]", item) for index, item in named if not isinstance(item, int)]


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """POST /tokenize: a text, or a conversation as its chat template writes it."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = (
        None
    )
    tools: Tools | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    add_generation_prompt: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]


def refuse_unsupported(request: GenerationRequest) -> None:
    """Raise OpenAIError for a field that would change the answer if it were supported."""
    for name in NotYet.__struct_fields__:
        value = getattr(request, name)
        if value not in (None, [], {}) and not _is_harmless(name, value):
            raise invalid(name, "not supported yet; leave it out", "unsupported_value")


def _is_harmless(name: str, value: Any) -> bool:
    # 0 == False and 1 == True in Python, not in JSON.
    return any(
        value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
        for allowed in HARMLESS.get(name, ())
    )
