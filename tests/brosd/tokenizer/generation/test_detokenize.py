"""Text that streams is the text that is; stop strings cut it where they should."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bros.brosd.tokenizer.generation.codec import Codec
from bros.brosd.tokenizer.generation.detokenize import (
    Detokenizer,
    StopAutomaton,
    StopMatcher,
    TextStream,
)


@pytest.fixture(scope="module")
def codec(model_dir: Path) -> Codec:
    return Codec(model_dir)


def streamed(codec: Codec, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(codec.decode)
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "naïve café — “quoted”",
        "日本語のテキスト",
        "👩‍👩‍👧‍👦 family 🇫🇷 flags",
        "a\n\n  b\tc",
        " x",
    ],
)
def test_pieces_make_the_whole(codec: Codec, text: str) -> None:
    ids = codec.encode(text)
    assert "".join(streamed(codec, ids)) == codec.decode(ids) == text


@given(ids=st.lists(st.integers(3, 49151), max_size=150))
@settings(max_examples=150, deadline=None)
def test_pieces_of_any_tokens_make_the_whole(codec: Codec, ids: list[int]) -> None:
    assert "".join(streamed(codec, ids)) == codec.decode(ids)


def test_half_a_character_is_held_back(codec: Codec) -> None:
    ids = codec.encode("👩")
    assert len(ids) > 1
    pieces = streamed(codec, ids)
    assert pieces[: len(ids)] == [""] * (len(ids) - 1) + ["👩"]


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=20),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
@settings(deadline=None)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(StopAutomaton(stops))
    out = "".join(matcher.push(piece) for piece in pieces) + matcher.finish()
    text = "".join(pieces)
    # The first stop string is the one that is complete first; of those, the longest.
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    assert matcher.stopped == bool(ends)
    expected = text
    if ends:
        end, negative_length = min(ends)
        expected = text[: end + negative_length]
    assert out == expected


def test_nothing_that_may_begin_a_stop_string_gets_out(codec: Codec) -> None:
    stream = TextStream(codec.decode, StopAutomaton([" is over"]))
    pieces = [stream.push(token) for token in codec.encode("It is over now")]
    assert "".join(pieces) == "It"
    assert stream.stopped


def test_choices_share_the_stop_strings_and_nothing_else() -> None:
    stops = StopAutomaton(["abab", "ba!"])
    first, second = StopMatcher(stops), StopMatcher(stops)
    assert first.push("xab") == "x"
    assert second.push("ba") == ""
    assert first.push("ac") == "abac"
    assert second.push("!b") == ""
    assert (first.stopped, second.stopped) == (False, True)
