"""Log probabilities in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Callable

from bros.brosd.protocol.wire import Logprobs, unpack_floats, unpack_ids
from bros.brosd.tokenizer.openai.errors import Json

TokenBytes = Callable[[int], bytes]
Told = tuple[int, Logprobs]  # a token and what is told of it


def chat_logprobs(told: list[Told], token_bytes: TokenBytes) -> Json | None:
    """The `logprobs` of a chat choice; None if nothing is told."""
    if not told:
        return None
    content = [
        _entry(token_bytes(token), item.logprob)
        | {"top_logprobs": [_entry(token_bytes(top), value) for top, value in _top(item)]}
        for token, item in told
    ]
    return {"content": content, "refusal": None}


def _entry(content: bytes, logprob: float) -> Json:
    return {"token": _text(content), "logprob": logprob, "bytes": list(content)}


class CompletionLogprobs:
    """The `logprobs` of one choice of a completion, whose offsets go on from piece to piece."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._offset = 0

    def add(self, told: list[Told]) -> Json | None:
        if not told:
            return None
        tokens = [_text(self._token_bytes(token)) for token, _ in told]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [item.logprob for _, item in told],
            "top_logprobs": [self._likeliest(token, item) for token, item in told],
            "text_offset": offsets,
        }

    def _likeliest(self, token: int, item: Logprobs) -> dict[str, float]:
        """The likeliest and the sampled one, whichever that is."""
        found = {_text(self._token_bytes(top)): value for top, value in _top(item)}
        return found | {_text(self._token_bytes(token)): item.logprob}


def _top(item: Logprobs) -> list[tuple[int, float]]:
    ids, values = unpack_ids(item.top_ids).tolist(), unpack_floats(item.top).tolist()
    return list(zip(ids, values, strict=True))


def _text(content: bytes) -> str:
    return content.decode(errors="replace")
