"""Log probabilities in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Callable

from bros.brosd.protocol.wire import Logprobs, unpack_floats, unpack_ids
from bros.brosd.tokenizer.openai.errors import Json

TokenBytes = Callable[[int], bytes]
TokenLogprobs = tuple[int, Logprobs]  # a token and the log probabilities at its place


def chat_logprobs(tokens: list[TokenLogprobs], token_bytes: TokenBytes) -> Json | None:
    """The `logprobs` of a chat choice; None if there are none."""
    if not tokens:
        return None
    content = [
        _entry(token_bytes(token), item.logprob)
        | {"top_logprobs": [_entry(token_bytes(top), value) for top, value in _top(item)]}
        for token, item in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(content: bytes, logprob: float) -> Json:
    return {"token": _text(content), "logprob": logprob, "bytes": list(content)}


class CompletionLogprobs:
    """The `logprobs` of one choice of a completion, whose offsets go on from piece to piece."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._offset = 0

    def add(self, tokens: list[TokenLogprobs]) -> Json | None:
        if not tokens:
            return None
        texts = [_text(self._token_bytes(token)) for token, _ in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [item.logprob for _, item in tokens],
            "top_logprobs": [self._likeliest(token, item) for token, item in tokens],
            "text_offset": offsets,
        }

    def _likeliest(self, token: int, item: Logprobs) -> dict[str, float]:
        """The likeliest tokens and the sampled one, which may be one of them."""
        found = {_text(self._token_bytes(top)): value for top, value in _top(item)}
        return found | {_text(self._token_bytes(token)): item.logprob}


def _top(item: Logprobs) -> list[tuple[int, float]]:
    ids, values = unpack_ids(item.top_ids).tolist(), unpack_floats(item.top).tolist()
    return list(zip(ids, values, strict=True))


def _text(content: bytes) -> str:
    return content.decode(errors="replace")
