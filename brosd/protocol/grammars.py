"""Grammars, made in one way for both who try them and who follow them.

The tokenizer process tries each grammar before a worker sees it. A trial says something about a
worker only if both use the same tokenizer and the same limits, which are therefore here.
"""

from __future__ import annotations

from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from bros.brosd.protocol.end_tokens import end_tokens

# Half of llguidance's defaults or less. At its own figures of speed (14 units of fuel and 20 items
# in a microsecond), a mask costs 10 ms at most.
LIMITS = LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=25_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


class GrammarError(ValueError):
    """A grammar cannot be followed, or not any further; the text is one line."""


def load_tokenizer(folder: Path) -> LLTokenizer:
    """Return the model's tokenizer in the form that grammars need.

    It has the vocabulary of `tokenizer.json`, which may be larger or smaller than the model's.
    Raise GrammarError if there is no such file, or llguidance cannot use it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise GrammarError("this model's tokenizer does not support grammars: no tokenizer.json")
    text = path.read_text()
    try:
        # An id that the tokenizer lacks ends no answer of a grammar; llguidance would refuse it.
        known = LLTokenizer(text).vocab_size
        ends = [token for token in end_tokens(folder) if token < known]
        return LLTokenizer(text, eos_token=ends or None)
    except ValueError as error:
        raise GrammarError(f"this model's tokenizer does not support grammars: {error}") from None


def make_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Return a grammar's state before the first token. Raise GrammarError if it has none."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    check(matcher)
    return matcher


def check(matcher: LLMatcher) -> None:
    """Raise GrammarError if the matcher has failed: then its masks mean nothing."""
    if matcher.is_error():
        lines = str(matcher.get_error()).removeprefix("ERROR: ").splitlines()
        raise GrammarError(" ".join(line for line in lines if line != "<non-verbose/>").strip())
