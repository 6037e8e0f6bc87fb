"""Token ids to text, piece by piece: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections import deque
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


class StopAutomaton:
    """Finds a request's stop strings in a text, in one pass (Aho and Corasick, 1975).

    A state stands for a beginning of a stop string: the longest that the text ends with. State 0
    is the empty one. The choices of a request share the automaton; each keeps its own state.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]  # by state: the state after one more character
        self._shorter = [0]  # by state: that of its longest proper end that is a state
        self.held = [0]  # by state: its length
        self.found = [0]  # by state: the length of the longest stop string that is complete; or 0
        for stop in stops:
            self._add(stop)
        self._link()

    def _add(self, stop: str) -> None:
        state = 0
        for char in stop:
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._shorter.append(0)
                self.held.append(self.held[state] + 1)
                self.found.append(0)
            state = self._next[state][char]
        self.found[state] = len(stop)

    def _link(self) -> None:
        """Fill in `_shorter`, shortest states first."""
        states = deque(self._next[0].values())
        while states:
            state = states.popleft()
            for char, longer in self._next[state].items():
                self._shorter[longer] = self.after(self._shorter[state], char)
                states.append(longer)
            self.found[state] = self.found[state] or self.found[self._shorter[state]]

    def after(self, state: int, char: str) -> int:
        """Return the state after one more character."""
        while state and char not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(char, 0)


NO_STOPS = StopAutomaton([])


class StopMatcher:
    """Passes text on up to the first stop string to be complete; holds back what may begin one."""

    def __init__(self, stops: StopAutomaton) -> None:
        self._stops = stops
        self._state = 0
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of the text so far that is certain to precede any stop string."""
        if self.stopped:
            return ""
        for index, char in enumerate(text):
            self._state = self._stops.after(self._state, char)
            if found := self._stops.found[self._state]:
                self.stopped = True
                self._held += text[: index + 1]
                return self._release(found, discard=True)
        self._held += text
        return self._release(self._stops.held[self._state])

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        return "" if self.stopped else self._release(0)

    def _release(self, keep: int, *, discard: bool = False) -> str:
        cut = len(self._held) - keep
        released, rest = self._held[:cut], self._held[cut:]
        self._held = "" if discard else rest
        return released


class TextStream:
    """Tokens in, text out, cut at the first stop string."""

    def __init__(self, decode: Decode, stops: StopAutomaton = NO_STOPS) -> None:
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
