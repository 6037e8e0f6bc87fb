"""The block table's invariants hold under any sequence of operations, and the test would notice.

Four mutations, each of one rule, must make it fail: a growing RT tail does not shorten the BE tail
in its block; a copy is noted but not logged; a block that another row reads is preempted; a block
that its last row leaves does not become free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from bros.kv.blocks import Blocks
from bros.kv.checkpoints import CheckpointPlanner
from bros.kv.free_blocks import FreeBlocks
from bros.kv.reclaim import BlockReclaimer
from kv_machine import KvMachine

STEPS = settings(
    max_examples=2600,
    stateful_step_count=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
HUNT = settings(STEPS, max_examples=1000, phases=[Phase.generate], database=None)


def test_invariants_hold() -> None:
    run_state_machine_as_test(KvMachine, settings=STEPS)
    assert KvMachine.num_steps >= 200_000


def nothing(*_: Any) -> None:
    return None


def always(*_: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("where", "rule", "mutation"),
    [
        (BlockReclaimer, "evict_be_overlap", nothing),
        (CheckpointPlanner, "_write", nothing),
        (Blocks, "becomes_free", always),
        (FreeBlocks, "put", nothing),
    ],
)
def test_a_mutation_of_a_rule_is_found(
    where: type, rule: str, mutation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, rule, mutation)
    with pytest.raises((AssertionError, IndexError, KeyError)):
        run_state_machine_as_test(KvMachine, settings=HUNT)
