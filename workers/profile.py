"""How long iterations take on this device: measured at start, and kept for the next start.

The scheduler's cost model learns from it before the first request, and from real iterations later.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Protocol

import msgspec
import torch

from bros import __version__
from bros.brosd.config import Config
from bros.brosd.protocol.wire import Sample
from bros.workers.version import kernels_version

log = logging.getLogger(__name__)

BATCHES = (1, 8, 24, 64)  # rows that decode together
CONTEXTS = (32, 256, 1024)  # tokens
CHUNKS = (32, 96, 256)  # prompt tokens
ROUNDS = 2  # the faster one counts
BUDGET_S = 3.0  # no iteration is measured after that
CPU_INFO = Path("/proc/cpuinfo")

_decoder = msgspec.json.Decoder(list[Sample])


class Rehearsed(Protocol):
    """Something that can run iterations of rows that are made up, such as a `Leader`."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def max_len(self) -> int: ...

    def rehearse(self, starts: list[int], counts: list[int]) -> None:
        """Run an iteration of chunks of `counts` tokens after `starts`."""


def profile(executor: Rehearsed, model: Path, config: Config) -> list[Sample]:
    """Return a profile measured now, or at an earlier start with the same fingerprint."""
    path = config.cache / "profiles" / f"{_fingerprint(model, config)}.json"
    try:
        return _decoder.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        pass
    began_s = time.monotonic()
    samples: list[Sample] = []
    for shape in shapes(executor, config):
        samples.append(_measure(executor, *shape))
        if time.monotonic() - began_s > BUDGET_S:
            break
    log.info("event=profiled iterations=%d took_s=%.1f", len(samples), time.monotonic() - began_s)
    _keep(samples, path)
    return samples


def shapes(executor: Rehearsed, config: Config) -> Iterator[tuple[list[int], list[int]]]:
    """Yield starts and counts of iterations that differ in the cost model's terms.

    Prompts, decodes and mixtures take turns, so that a profile cut short has some of each.
    """
    limits, size = config.scheduler, config.kv.block_size

    def fits(starts: list[int], counts: list[int]) -> bool:
        longest = max(start + count for start, count in zip(starts, counts, strict=True))
        blocks = len(starts) * -(-longest // size)
        few = len(starts) <= limits.max_sequences and sum(counts) <= limits.max_batch_tokens
        return few and longest <= executor.max_len and blocks <= executor.num_blocks

    decodes = [([past] * rows, [1] * rows) for rows in BATCHES for past in CONTEXTS]
    prompts = [([past], [count]) for count in CHUNKS for past in (0, *CONTEXTS[1:])]
    mixed = [
        ([past] * rows + [0], [1] * rows + [count])
        for rows, past in zip(BATCHES[1:], CONTEXTS, strict=True)
        for count in CHUNKS[:2]
    ]
    turns = chain.from_iterable(zip_longest(prompts, decodes, mixed))
    return (shape for shape in turns if shape is not None and fits(*shape))


def _measure(executor: Rehearsed, starts: list[int], counts: list[int]) -> Sample:
    seconds = []
    for _ in range(ROUNDS):
        began_s = time.monotonic()
        executor.rehearse(starts, counts)
        seconds.append(time.monotonic() - began_s)
    return Sample(starts, counts, min(seconds))


def _keep(samples: list[Sample], path: Path) -> None:
    """Store the samples whole or not at all. If that fails, the next start measures again."""
    scratch = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(msgspec.json.encode(samples))
        scratch.replace(path)
    except OSError as error:
        log.warning("event=profile_not_kept error=%r", str(error))


def _fingerprint(model: Path, config: Config) -> str:
    """Return a hash of everything that iteration times depend on."""
    parts = (
        kernels_version(),
        str(model),
        config.model,
        config.worker,
        config.kv.block_size,
        config.scheduler.max_sequences,
        config.scheduler.max_batch_tokens,
        _device(),
        len(os.sched_getaffinity(0)),
        str(torch.__version__),
        __version__,
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
