"""Token ids to text, piece by piece: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

REPLACEMENT = "\ufffd"  # what decoding puts for bytes that are no character, or not yet
MAX_HELD_CHARS = 3  # as many replacements can become one character: its bytes less the last
WINDOW_TOKENS = 64  # decoded again and again while no character ends
TAIL_TOKENS = 8  # more bytes than a character has


class Detokenizer:
    """The text of a growing list of tokens; all pieces together are the decoded whole.

    Decoding a token alone is not enough: it may hold half a character, and what a decoder does
    with a space depends on the token before. So a short window is decoded; what is longer than the
    text already sent is new.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._sent = 0  # characters of the window's text
        self._settled = 0  # tokens of the window whose text was sent in full

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._window.append(token)
        text = self._decode(self._window)
        held = min(len(text) - len(text.rstrip(REPLACEMENT)), MAX_HELD_CHARS)
        new = text[self._sent : len(text) - held]
        self._sent += len(new)
        if held == 0:
            self._slide(self._settled, held)
            self._settled = len(self._window)
        elif len(self._window) > WINDOW_TOKENS:
            self._slide(len(self._window) - TAIL_TOKENS, held)
        return new

    def finish(self) -> str:
        """What was held back for a character that was never completed."""
        return self._decode(self._window)[self._sent :]

    def _slide(self, start: int, held: int) -> None:
        """Forget the tokens before `start`, unless the rest alone has no text to measure by."""
        tail = self._window[start:]
        length = len(self._decode(tail))
        if length > held:
            self._window = tail
            self._sent = length - held
            self._settled = max(0, self._settled - start)


class StopMatcher:
    """Passes text on up to the first stop string to be complete; holds back what may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._automata = [_StopAutomaton(stop) for stop in stops]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of the text so far that is certain to precede any stop string."""
        if not self._automata or self.stopped:
            return "" if self.stopped else text
        for index, char in enumerate(text):
            found = max((a.length for a in self._automata if a.feed(char)), default=0)
            if found:
                self.stopped = True
                self._held += text[: index + 1]
                return self._release(found, discard=True)
        self._held += text
        return self._release(max(automaton.matched for automaton in self._automata))

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        return "" if self.stopped else self._release(0)

    def _release(self, keep: int, *, discard: bool = False) -> str:
        cut = len(self._held) - keep
        released, rest = self._held[:cut], self._held[cut:]
        self._held = "" if discard else rest
        return released


class _StopAutomaton:
    """Knuth-Morris-Pratt: how much of one stop string the text ends with."""

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self.length = len(stop)
        self.matched = 0
        self._borders = [0]  # for each prefix: its longest proper prefix that is also its end
        for char in stop[1:]:
            self._borders.append(self._extend(self._borders[-1], char))

    def _extend(self, matched: int, char: str) -> int:
        while matched and self._stop[matched] != char:
            matched = self._borders[matched - 1]
        return matched + (self._stop[matched] == char)

    def feed(self, char: str) -> bool:
        """Whether the stop string is complete with `char`. Not called again once it is."""
        self.matched = self._extend(self.matched, char)
        return self.matched == self.length


class TextStream:
    """Tokens in, text out, cut at the first stop string."""

    def __init__(self, decode: Decode, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode)
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; no more text comes."""
        return self._matcher.stopped

    def push(self, token: int) -> str:
        return self._matcher.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """The rest of the text. A stop string may still be completed by it."""
        return self._matcher.push(self._detokenizer.finish()) + self._matcher.finish()
