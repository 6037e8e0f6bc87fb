"""The model's text side: its tokenizer and its chat template, loaded from a local folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from bros.brosd.protocol.end_tokens import end_tokens
from bros.brosd.tokenizer.openai.errors import invalid

log = logging.getLogger(__name__)


class TextError(RuntimeError):
    """The folder's tokenizer cannot be used; the text says why."""


@dataclass(frozen=True)
class ChatOptions:
    """How a chat template writes a conversation. `variables` are names that it may ask for."""

    variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True  # end with the opening of the assistant's turn


DEFAULT_OPTIONS = ChatOptions()


class Codec:
    """Text to token ids and back. Encoding can take long for long texts: call it in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokenizer = _load(folder)
        self._backend = self._tokenizer.backend_tokenizer
        self.vocab_size = max(self._tokenizer.get_vocab().values()) + 1
        try:
            self.eos_ids = end_tokens(folder)
        except ValueError as error:
            raise TextError(str(error)) from None

    def encode(self, text: str) -> list[int]:
        """A plain prompt, with the special tokens that the tokenizer puts around a text."""
        ids: list[int] = self._tokenizer.encode(text, verbose=False)
        return ids

    def encode_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        options: ChatOptions = DEFAULT_OPTIONS,
    ) -> list[int]:
        """A conversation as the chat template writes it.

        Control tokens that a message spells out stay plain text, so that no user can end his turn
        and speak as the system. Raise OpenAIError if there is no template, or it refuses these
        messages.
        """
        if not self._tokenizer.chat_template:
            raise invalid("messages", "this model has no chat template; use /v1/completions")
        if tools and not re.search(r"\btools\b", str(self._tokenizer.chat_template)):
            problem = "this model's chat template has no place for tools"
            raise invalid("tools", problem, "unsupported_value")
        for name in options.variables:
            if name in self._reserved:
                raise invalid(f"chat_template_kwargs.{name}", "is not for requests to set")
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                add_generation_prompt=options.add_generation_prompt,
                sanitize_control_tokens=True,
                return_dict=False,
                **options.variables,
            )
        except RecursionError:
            raise invalid("tools" if tools else "messages", "nested too deeply") from None
        except Exception as error:  # a template is a program of the model's: it may raise anything
            raise invalid("messages", f"the chat template refuses them: {error}") from None
        return ids

    @cached_property
    def _reserved(self) -> set[str]:
        """Names that mean something to the tokenizer, which a template's variables must not."""
        from transformers.utils.chat_template_utils import render_jinja_template

        functions = (self._tokenizer.apply_chat_template, render_jinja_template)
        parameters = {name for function in functions for name in signature(function).parameters}
        return {"self", "messages", *parameters, *self._tokenizer.special_tokens_map}

    @cached_property
    def _guide(self) -> LLTokenizer:
        text = self._backend.to_str()
        return LLTokenizer(text, n_vocab=self.vocab_size, eos_token=self.eos_ids or None)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, which may be a part of a character."""
        content: bytes = self._guide.decode_bytes([token])
        return content

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids that follow others, without special tokens."""
        text: str = self._backend.decode([*self._before, *ids], skip_special_tokens=True)
        return text[1:] if self._before else text

    @cached_property
    def _before(self) -> list[int]:
        """The tokens of a letter, if the decoder would take the first space of a text away.

        SentencePiece puts a space before a text, which its decoder removes. An answer is not the
        beginning of a text, and its first space is its own.
        """
        letter, both = (
            self._tokenizer.encode(text, add_special_tokens=False) for text in ("a", "a a")
        )
        second = both[len(letter) :]
        is_lost = self.decode_all(second) == "a" and self.decode_all(letter + second) == "a a"
        return letter if is_lost else []

    def decode_all(self, ids: Sequence[int]) -> str:
        """The text of ids, with special tokens."""
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text


def _load(folder: Path) -> Any:
    # Imported here because it takes most of a second, and only the tokenizer process needs it.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TextError(f"{folder} has no usable tokenizer: {error}") from None
    if not tokenizer.is_fast:
        raise TextError(f"{folder} has no tokenizer.json: convert it to a fast tokenizer first")
    return tokenizer
