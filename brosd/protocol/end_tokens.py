"""Which tokens end an answer: the tokenizer process and the workers must agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

File = TypeVar("File", bound=msgspec.Struct)
Ids = int | list[int] | None


class _Text(msgspec.Struct):
    """The part of a model of several senses that concerns text."""

    eos_token_id: Ids = None


class _Configuration(msgspec.Struct):
    """The part of a model's configurations that names its end tokens."""

    eos_token_id: Ids = None
    text_config: _Text | None = None


class _Token(msgspec.Struct):
    """A token by its text; `id` where the file says it."""

    content: str
    id: int | None = None


class _TokenizerConfig(msgspec.Struct):
    """The part of a tokenizer's configurations that names its end token."""

    eos_token: str | _Token | None = None


class _Vocabulary(msgspec.Struct):
    """The tokens that are not added ones."""

    vocab: Any = None  # ids by token, in most kinds of tokenizer


class _Tokenizer(msgspec.Struct):
    """The part of `tokenizer.json` that says which id a token has."""

    added_tokens: list[_Token] = []
    model: _Vocabulary | None = None


def end_tokens(folder: Path) -> list[int]:
    """Return the ids of a model's end tokens: those that any of its files names, in order.

    Raise ValueError if a file is not what it should be.
    """
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        config = _read(folder / name, _Configuration)
        text = config.text_config or _Text()
        ids |= {*_each(config.eos_token_id), *_each(text.eos_token_id)}
    return sorted({*ids, *_of_tokenizer(folder)} - {-1})  # some models say so that there is none


def _each(ids: Ids) -> list[int]:
    return [ids] if isinstance(ids, int) else ids or []


def _of_tokenizer(folder: Path) -> Iterator[int]:
    names = ("tokenizer_config.json", "special_tokens_map.json")
    ends = [_read(folder / name, _TokenizerConfig).eos_token for name in names]
    contents = {end if isinstance(end, str) else end.content for end in ends if end}
    if not contents:
        return
    tokenizer = _read(folder / "tokenizer.json", _Tokenizer)
    ids = {token.content: token.id for token in tokenizer.added_tokens}
    vocabulary = tokenizer.model.vocab if tokenizer.model else None
    for content in contents:
        found = ids.get(content)
        if found is None and isinstance(vocabulary, dict):
            found = vocabulary.get(content)
        if found is not None:
            yield found


def _read(path: Path, kind: type[File]) -> File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return kind()
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from None
