"""Grammars are tried where no harm is done, and each gets its own verdict."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from llguidance import LLMatcher

from bros.brosd.protocol.grammars import load_tokenizer
from bros.brosd.tokenizer.generation import grammar_process
from bros.brosd.tokenizer.generation.grammar_process import TOO_COMPLEX, problem_of
from bros.brosd.tokenizer.generation.grammar_trial import GrammarTrial


def grammar_of(schema: object) -> str:
    grammar: str = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return grammar


GOOD = grammar_of({"type": "object", "properties": {"a": {"type": "integer"}}})
ENDLESS = grammar_of({"type": "integer", "multipleOf": 3000017})
IMPOSSIBLE = grammar_of({"type": "integer", "minimum": 2, "maximum": 1})


def children() -> set[int]:
    own = os.getpid()
    return {int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()}


async def verdicts(folder: Path, grammars: list[str]) -> list[str]:
    """Ask for all verdicts at once."""
    trial = GrammarTrial(folder)
    try:
        return await asyncio.gather(*(trial.problem_of(grammar) for grammar in grammars))
    finally:
        await trial.close()


def test_each_grammar_gets_its_own_verdict(model_dir: Path) -> None:
    asked = [GOOD, ENDLESS, IMPOSSIBLE, "no grammar", ENDLESS, GOOD]
    found = asyncio.run(verdicts(model_dir, asked))
    assert [found[0], found[1], found[4], found[5]] == ["", TOO_COMPLEX, TOO_COMPLEX, ""]
    assert "minimum" in found[2]
    assert found[3] not in ("", TOO_COMPLEX)


def test_a_caller_that_leaves_takes_no_answer_of_the_next(model_dir: Path) -> None:
    async def leave_and_ask() -> str:
        trial = GrammarTrial(model_dir)
        try:
            await trial.problem_of(GOOD)
            leaving = asyncio.create_task(trial.problem_of(ENDLESS))
            await asyncio.sleep(0.1)
            leaving.cancel()
            return await trial.problem_of(grammar_of({"type": "boolean"}))
        finally:
            await trial.close()

    assert asyncio.run(leave_and_ask()) == ""


def test_a_process_that_was_killed_is_not_held_against_the_next_grammar(model_dir: Path) -> None:
    async def kill_and_ask() -> str:
        trial = GrammarTrial(model_dir)
        try:
            before = children()
            await trial.problem_of(GOOD)
            (child,) = children() - before
            os.kill(child, signal.SIGKILL)
            return await trial.problem_of(grammar_of({"type": "boolean"}))
        finally:
            await trial.close()

    assert asyncio.run(kill_and_ask()) == ""


def test_a_tokenizer_that_supports_no_grammars_says_so(tmp_path: Path) -> None:
    found = asyncio.run(verdicts(tmp_path, [GOOD, ENDLESS]))
    assert all("does not support grammars" in problem for problem in found)


def test_a_grammar_that_compiles_slowly_is_refused(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(model_dir)
    assert problem_of(tokenizer, GOOD) == ""
    monkeypatch.setattr(grammar_process, "COMPILE_CPU_S", 0.0)
    assert problem_of(tokenizer, GOOD) == TOO_COMPLEX
