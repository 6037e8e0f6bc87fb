"""Tries grammars in a process of its own, which can be killed without harm to anything else."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import msgspec

from bros.brosd.tokenizer.generation.grammar_process import TOO_COMPLEX

log = logging.getLogger(__name__)

MODULE = "bros.brosd.tokenizer.generation.grammar_process"
DEADLINE_S = 20.0  # the process bounds its CPU time itself; this is for one that does not run
START_S = 60.0
ATTEMPTS = 2
MAX_KNOWN = 64  # verdicts that are kept


class TrialError(RuntimeError):
    """The process that tries grammars cannot be started."""


class GrammarTrial:
    """Says whether workers can follow a grammar. Starts its process when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Process | None = None
        self._unusable = ""  # what is wrong with the tokenizer
        self._turn = asyncio.Lock()
        self._known: OrderedDict[str, str] = OrderedDict()  # problems by grammar, newest last

    async def problem_of(self, grammar: str) -> str:
        """Return what is wrong with a grammar; empty if nothing is.

        A grammar that was tried lately waits for no other. Raise TrialError if none can be tried.
        """
        if grammar not in self._known:
            async with self._turn:
                if grammar not in self._known:
                    self._known[grammar] = await self._try(grammar)
        self._known.move_to_end(grammar)
        problem = self._known[grammar]
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return problem

    async def close(self) -> None:
        """End the process."""
        await self._end()

    async def _try(self, grammar: str) -> str:
        """Try a grammar; once more if the process ends by anything but its own limit of time."""
        for _ in range(ATTEMPTS):
            if self._unusable:
                return self._unusable
            try:
                return await self._ask(grammar)
            except (EOFError, ConnectionError, TimeoutError):
                if await self._end() == -signal.SIGPROF:
                    break
        log.warning("event=grammar_too_complex bytes=%d", len(grammar))
        return TOO_COMPLEX

    async def _ask(self, grammar: str) -> str:
        try:
            if self._process is None:
                self._process = await self._start()
            async with asyncio.timeout(DEADLINE_S):
                return await _ask(self._process, grammar)
        except asyncio.CancelledError:  # the client has left: so must the answer to it
            _kill(self._process)
            self._process = None
            raise

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", MODULE, str(self._folder), stdin=PIPE, stdout=PIPE
        )
        self._process = process  # to be ended if the client leaves meanwhile
        try:
            async with asyncio.timeout(START_S):
                self._unusable = await _answer(process)
        except (EOFError, TimeoutError):
            await self._end()
            raise TrialError("the process that tries grammars has not started") from None
        return process

    async def _end(self) -> int | None:
        """End the process; return its exit status."""
        process, self._process = self._process, None
        _kill(process)
        return await process.wait() if process is not None else None


def _kill(process: Process | None) -> None:
    if process is not None:
        with suppress(ProcessLookupError):
            process.kill()


async def _ask(process: Process, grammar: str) -> str:
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(grammar) + b"\n")
    await process.stdin.drain()
    return await _answer(process)


async def _answer(process: Process) -> str:
    """Return the next line's text. Raise EOFError if the process has ended."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return msgspec.json.decode(line, type=str)
