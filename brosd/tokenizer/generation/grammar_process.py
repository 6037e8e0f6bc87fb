"""`python -m bros.brosd.tokenizer.generation.grammar_process FOLDER`: tries grammars.

Reads a grammar a line, as a JSON string, and answers each with a line: what is wrong with it, or
an empty string. The first line says what is wrong with the tokenizer. A grammar that takes too
long ends this process: no limit of llguidance bounds how long it takes to compile a grammar.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from random import Random

import msgspec
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from bros.brosd.protocol.child import die_with_parent
from bros.brosd.protocol.grammars import GrammarError, check, load_tokenizer, make_matcher

TOO_COMPLEX = "the schema is too complex: no grammar can be made of it in reasonable time"
COMPILE_CPU_S = 0.3  # a worker that compiles the grammar keeps all its requests waiting
CPU_S = 1.0  # for one grammar; the kernel ends the process after that
WALK_CPU_S = 0.5  # no further token is tried after that
NUM_WALKS = 4
WALK_TOKENS = 24


def main(folder: Path) -> None:
    """Serve until the input ends."""
    die_with_parent()
    try:
        tokenizer = load_tokenizer(folder)
    except GrammarError as error:
        _answer(str(error))
        return
    _answer("")
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_S)  # SIGPROF ends a process that ignores nothing
        problem = problem_of(tokenizer, msgspec.json.decode(line, type=str))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(problem)


def _answer(problem: str) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(problem) + b"\n")
    sys.stdout.buffer.flush()


def problem_of(tokenizer: LLTokenizer, grammar: str) -> str:
    """Compile a grammar and follow it along a few random texts; return what goes wrong."""
    began_s = time.process_time()
    try:
        start = make_matcher(tokenizer, grammar)
        if time.process_time() - began_s > COMPILE_CPU_S:
            return TOO_COMPLEX
        for seed in range(NUM_WALKS):
            _walk(start.deep_copy(), Random(seed), began_s + WALK_CPU_S)
    except GrammarError as error:
        return str(error)
    return ""


def _walk(matcher: LLMatcher, random: Random, until_s: float) -> None:
    """Take tokens that the grammar allows. Raise GrammarError if it fails on the way."""
    for _ in range(WALK_TOKENS):
        if matcher.is_stopped() or time.process_time() > until_s:
            return
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        check(matcher)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        if not len(allowed):
            raise GrammarError("the grammar allows no text")
        matcher.consume_token(int(random.choice(allowed)))
        check(matcher)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
