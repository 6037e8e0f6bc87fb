"""What OpenAI's answers look like: the JSON objects of both endpoints, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from bros.brosd.tokenizer.generation.live_requests import Delta
from bros.brosd.tokenizer.openai.errors import Json
from bros.brosd.tokenizer.openai.logprobs import CompletionLogprobs, chat_logprobs
from bros.brosd.tokenizer.openai.tools import ToolText


def usage(num_prompt: int, num_output: int) -> Json:
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
    }


@dataclass
class ResponseBuilder(ABC):
    """Builds one answer. `prompts` are the token ids of each choice's prompt.

    A prompt that has `n` choices counts once. `tools` names what may be called.
    """

    model: str
    service_tier: str
    prompts: list[list[int]]
    token_bytes: Callable[[int], bytes]
    n: int = 1
    tools: frozenset[str] = frozenset()
    with_token_ids: bool = False
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __post_init__(self) -> None:
        self.id = self.id or f"{self.id_prefix}-{uuid.uuid4().hex}"

    @property
    def num_prompt(self) -> int:
        return sum(len(prompt) for prompt in self.prompts[:: self.n])

    def whole(self, choices: list[Delta], num_output: int) -> Json:
        """The answer to a request that does not stream: all text of choice i is in `choices[i]`."""
        body = self._frame(self.whole_object, [self.choice(choice) for choice in choices])
        return body | {"usage": usage(self.num_prompt, num_output)}

    def chunk(self, delta: Delta) -> Json:
        """A piece of one choice."""
        return self._frame(self.chunk_object, [self.choice_delta(delta)])

    @abstractmethod
    def opening(self) -> list[Json]:
        """Chunks that precede the text."""

    def closing(self, num_output: int) -> Json:
        """The chunk with the usage, after all text."""
        return self._frame(self.chunk_object, []) | {"usage": usage(self.num_prompt, num_output)}

    @abstractmethod
    def choice(self, delta: Delta) -> Json:
        """One choice of a whole answer."""

    @abstractmethod
    def choice_delta(self, delta: Delta) -> Json:
        """What a chunk adds to one choice."""

    def _frame(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": self.service_tier,
            "choices": choices,
        }

    @abstractmethod
    def logprobs(self, delta: Delta) -> Json | None:
        """The log probabilities of a choice's new tokens."""

    def _choice(self, delta: Delta, content: Json) -> Json:
        choice: Json = {"index": delta.index, **content, "logprobs": self.logprobs(delta)}
        choice["finish_reason"] = delta.finish
        if self.with_token_ids:
            choice["token_ids"] = delta.tokens
        return choice


class ChatResponseBuilder(ResponseBuilder):
    """POST /v1/chat/completions."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._texts = [ToolText(self.tools) for _ in self.prompts] if self.tools else []

    def logprobs(self, delta: Delta) -> Json | None:
        return chat_logprobs(delta.logprobs, self.token_bytes)

    def whole(self, choices: list[Delta], num_output: int) -> Json:
        return super().whole(choices, num_output) | self._prompt_ids()

    def opening(self) -> list[Json]:
        role = {"role": "assistant", "content": ""}
        choices = [
            self._choice(Delta(index, "", []), {"delta": role})
            for index in range(len(self.prompts))
        ]
        return [self._frame(self.chunk_object, choices) | self._prompt_ids()]

    def choice(self, delta: Delta) -> Json:
        text, calls = self._split(delta)
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        return self._ended(self._choice(delta, {"message": message}), calls)

    def choice_delta(self, delta: Delta) -> Json:
        text, calls = self._split(delta)
        content: Json = {"content": text} if text else {}
        if calls:
            content["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        return self._ended(self._choice(delta, {"delta": content}), calls)

    def _split(self, delta: Delta) -> tuple[str, list[Json]]:
        """The text of a delta without calls, and at the end the calls."""
        if not self._texts:
            return delta.text, []
        text = self._texts[delta.index].push(delta.text)
        if not delta.finish:
            return text, []
        rest, calls = self._texts[delta.index].finish()
        return text + rest, calls

    def _ended(self, choice: Json, calls: list[Json]) -> Json:
        if calls and choice["finish_reason"] == "stop":
            choice["finish_reason"] = "tool_calls"
        return choice

    def _prompt_ids(self) -> Json:
        return {"prompt_token_ids": self.prompts[0]} if self.with_token_ids else {}


class CompletionResponseBuilder(ResponseBuilder):
    """POST /v1/completions."""

    id_prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._logprobs = [CompletionLogprobs(self.token_bytes) for _ in self.prompts]

    def logprobs(self, delta: Delta) -> Json | None:
        return self._logprobs[delta.index].add(delta.logprobs)

    def opening(self) -> list[Json]:
        """The token ids of the prompts, if they are wanted."""
        if not self.with_token_ids:
            return []
        choices = [self.choice(Delta(index, "", [])) for index in range(len(self.prompts))]
        return [self._frame(self.chunk_object, choices)]

    def choice(self, delta: Delta) -> Json:
        choice = self.choice_delta(delta)
        if self.with_token_ids:
            choice["prompt_token_ids"] = self.prompts[delta.index]
        return choice

    def choice_delta(self, delta: Delta) -> Json:
        return self._choice(delta, {"text": delta.text})
