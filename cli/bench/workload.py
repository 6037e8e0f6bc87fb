"""What a hybrid benchmark sends: RT arrivals and BE lengths, the same for every server of a run."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bros.cli.errors import InputError

FIRST_ID, NUM_IDS = 1000, 20_000  # token ids of prompts: every vocabulary has them, as plain text
ARRIVAL = ("arrival_s", "TIMESTAMP")
PROMPT = ("prompt_tokens", "ContextTokens")
OUTPUT = ("output_tokens", "GeneratedTokens")
COLUMNS = (ARRIVAL, PROMPT, OUTPUT)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a request, or their means: `draw` is uniform between 0.5 and 1.5 times these."""

    prompt: int
    output: int

    def draw(self, rng: random.Random) -> Lengths:
        """Return the lengths of one request."""
        return Lengths(_around(self.prompt, rng), _around(self.output, rng))


def _around(mean: int, rng: random.Random) -> int:
    return rng.randint(max(1, mean // 2), max(1, mean + mean // 2))


@dataclass(frozen=True)
class Arrival:
    """An RT request, `at_s` seconds after the start."""

    at_s: float
    lengths: Lengths


@dataclass(frozen=True)
class Workload:
    """RT arrivals of one seed over a BE backlog; with `trace`, the arrivals of that file."""

    duration_s: float
    rate: float  # RT requests per second; 0: none
    rt: Lengths
    be: Lengths
    seed: int
    trace: tuple[Arrival, ...] = ()

    def arrivals(self) -> list[Arrival]:
        """Return the RT requests in order of arrival: Poisson, or the trace at `rate`."""
        if self.trace and self.rate:
            return list(self._scaled())
        return list(self._poisson()) if self.rate else []

    def _poisson(self) -> Iterator[Arrival]:
        rng = random.Random(f"rt {self.seed}")
        at_s = rng.expovariate(self.rate)
        while at_s < self.duration_s:
            yield Arrival(at_s, self.rt.draw(rng))
            at_s += rng.expovariate(self.rate)

    def _scaled(self) -> Iterator[Arrival]:
        """Yield the trace from a place that the seed chooses, faster or slower to match `rate`."""
        first = random.Random(self.seed).randrange(len(self.trace))
        span_s = self.trace[-1].at_s - self.trace[0].at_s
        scale = len(self.trace) / span_s / self.rate if span_s else 1.0
        for arrival in self.trace[first:]:
            at_s = (arrival.at_s - self.trace[first].at_s) * scale
            if at_s >= self.duration_s:
                return
            yield Arrival(at_s, arrival.lengths)

    def be_lengths(self, client: int) -> Iterator[Lengths]:
        """Yield without end the lengths that one BE client asks for."""
        rng = random.Random(f"be {self.seed} {client}")
        while True:
            yield self.be.draw(rng)


def body(lengths: Lengths, key: str, model: str) -> dict[str, Any]:
    """Return a completion of exactly these lengths; prompts of two keys share no prefix."""
    rng = random.Random(key)
    return {
        "model": model,
        "prompt": [FIRST_ID + rng.randrange(NUM_IDS) for _ in range(lengths.prompt)],
        "max_tokens": lengths.output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def read_trace(path: Path) -> tuple[Arrival, ...]:
    """Read a CSV with arrival, prompt and output tokens under our names or those of Azure's traces.

    Raise InputError with the file, the line and what is wrong with it.
    """
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            columns = [_column(rows.fieldnames or (), names, path) for names in COLUMNS]
            arrivals = [_arrival(row, columns, path, rows.line_num) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: {error}") from None
    if not arrivals:
        raise InputError(f"{path}: no requests in it")
    return tuple(sorted(arrivals, key=lambda arrival: arrival.at_s))


def _column(fields: Any, names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in fields:
            return name
    raise InputError(f"{path}: no column {' or '.join(names)}; it has {', '.join(fields)}")


def _arrival(row: dict[str, str], columns: list[str], path: Path, line: int) -> Arrival:
    at, prompt, output = (row[column] or "" for column in columns)
    try:
        return Arrival(_seconds(at), Lengths(max(1, int(prompt)), max(1, int(output))))
    except ValueError as error:
        raise InputError(f"{path}, line {line}: {error}") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.strip()[:26]).timestamp()
