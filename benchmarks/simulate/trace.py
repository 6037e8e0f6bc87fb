"""Traffic: arrivals and lengths of the Azure LLM inference traces of 2023.

Public: https://github.com/Azure/AzurePublicDataset (CC-BY 4.0; Patel et al., "Splitwise", ISCA
2024). Each line of a file has an arrival time, prompt tokens and generated tokens.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

SOURCE = "https://github.com/Azure/AzurePublicDataset/tree/master/data"
NAMES = ("{}.csv", "AzureLLMInferenceTrace_{}.csv")  # short names, and names as published
COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class TraceError(ValueError):
    """A trace cannot be read; the text says what to do."""


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival; `arrivals_s` starts at 0."""

    arrivals_s: Floats
    prompts: Ints
    outputs: Ints

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self) / float(self.arrivals_s[-1])

    def at_rate(self, rate: float, duration_s: float) -> Trace:
        """Return the same pattern, faster or slower, repeated to fill `duration_s`."""
        count = int(np.ceil(duration_s * rate)) + 1
        index = np.arange(count) % len(self)
        round_s = np.arange(count) // len(self) * (self.arrivals_s[-1] + 1 / self.rate)
        arrivals_s = (self.arrivals_s[index] + round_s) * self.rate / rate
        index = index[arrivals_s < duration_s]
        return Trace(arrivals_s[: len(index)], self.prompts[index], self.outputs[index])

    def clipped(self, max_len: int) -> Trace:
        """Return the trace with prompts cut so that no request is longer than `max_len`."""
        outputs = np.minimum(self.outputs, max_len // 2)
        return Trace(self.arrivals_s, np.minimum(self.prompts, max_len - outputs), outputs)


def read(folder: Path, name: str) -> Trace:
    """Read the trace `name` (`conv` or `code`). Raise TraceError if it is missing or malformed."""
    paths = [folder / pattern.format(name) for pattern in NAMES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise TraceError(f"{paths[0]}: no such trace; download the 2023 files from {SOURCE}")
    with path.open(newline="") as file:
        lines = csv.DictReader(file)
        if lines.fieldnames != COLUMNS:
            raise TraceError(f"{path}: expected the columns {', '.join(COLUMNS)}")
        return _trace(path, list(lines))


def _trace(path: Path, lines: list[dict[str, str]]) -> Trace:
    try:
        times = [datetime.fromisoformat(line["TIMESTAMP"][:26]).timestamp() for line in lines]
        lengths = [[int(line[column]) for column in COLUMNS[1:]] for line in lines]
    except (TypeError, ValueError) as error:
        raise TraceError(f"{path}: {error}") from None
    if len(times) < 2 or times[-1] <= times[0]:
        raise TraceError(f"{path}: expected requests in order of arrival, two at least")
    arrivals_s = np.array(times) - times[0]
    prompts, outputs = np.maximum(1, np.array(lengths)).T
    return Trace(arrivals_s, prompts, outputs)


def long_documents(prompts: Trace, answers: Trace, count: int, seed: int) -> Trace:
    """Return a backlog of BE work: prompts of one trace with answers as long as the other's."""
    rng = np.random.default_rng(seed)
    return Trace(
        np.zeros(count),
        rng.choice(prompts.prompts, count),
        rng.choice(answers.outputs, count),
    )
