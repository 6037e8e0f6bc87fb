"""The daemon's own time per iteration: `python benchmarks/scheduler.py`.

Runs the scheduler and the allocator on a block table of the default size, with a worker that
answers at once, and prints what planning and taking in the result cost, with and without memory
pressure. On the scheduler's own clock an iteration takes what it might on a GPU, and objectives are
wide enough that all sequences run in every iteration.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from statistics import mean, median, quantiles

from bros.brosd.config import load
from bros.brosd.protocol.wire import Admit, Geometry, Sampling, Slo, StepPlan, pack_ids, unpack_ids
from bros.brosd.scheduling.limits import Limits
from bros.brosd.scheduling.pool_plan import PoolPlan
from bros.brosd.scheduling.registry import POLICIES
from bros.brosd.scheduling.scheduler import Scheduler
from bros.kv import Allocator, BlockTable, Klass, TableGeometry

BLOCK, MAX_LEN, KV_BYTES = 16, 2048, 23040
PROMPT, OUTPUT, ITERATIONS = 200, 400, 300
BASE_S, TOKEN_S = 0.01, 2e-5  # of an iteration, on the scheduler's clock
SLO = Slo(ttft_s=2.0, tpot_s=0.1)


class Driver:
    """A scheduler whose worker samples token 7 for every row, at once."""

    def __init__(self, folder: Path, num_sequences: int, num_blocks: int) -> None:
        config = load(environ={})
        pool = PoolPlan(config, Geometry(0, 1, num_blocks, BLOCK, MAX_LEN, 49152, KV_BYTES))
        limits = Limits(num_sequences, 4 * num_sequences, 10**6)
        self.scheduler = Scheduler(POLICIES["bros"](), limits, pool.rules)
        sizes = TableGeometry(
            num_blocks, BLOCK, 2 * num_sequences, MAX_LEN, pool.host_slots, pool.max_copies
        )
        table = BlockTable(folder / f"table-{num_sequences}-{num_blocks}", sizes)
        scheduler = self.scheduler
        allocator = Allocator(table, pool.options, scheduler.costs, scheduler.kv)
        scheduler.attach(allocator, MAX_LEN)
        self.now_s = 0.0
        scheduler.clock = lambda: self.now_s
        self.known: dict[int, int] = {}
        self._rng = random.Random(0)
        self._num_requests = 0

    def admit(self, klass: Klass) -> None:
        """Admit a request with a prompt of its own."""
        self._num_requests += 1
        prompt = [self._rng.randrange(49152) for _ in range(PROMPT)]
        self.scheduler.admit(
            Admit(
                rid=self._num_requests,
                klass=klass,
                arrived_s=self.now_s,
                prompt=pack_ids(prompt),
                max_tokens=self._rng.randrange(OUTPUT // 2, OUTPUT),
                sampling=Sampling(),
                slo=SLO if klass is Klass.RT else None,
            )
        )

    def step(self) -> tuple[float, float, int]:
        """Return seconds to plan an iteration, seconds to take in its tokens, and its sequences."""
        began_s = time.perf_counter()
        plan = self.scheduler.plan()
        planned_s = time.perf_counter()
        assert plan is not None
        tokens = self._sample(plan)
        counts = unpack_ids(plan.counts)
        elapsed_s = BASE_S + TOKEN_S * float(counts.sum())
        self.now_s += elapsed_s
        sampled_s = time.perf_counter()
        self.scheduler.measure(elapsed_s, 0.0, 0)
        self.scheduler.complete(plan.step, tokens)
        return planned_s - began_s, time.perf_counter() - sampled_s, len(counts)

    def _sample(self, plan: StepPlan) -> list[int]:
        self.known |= {new_row.row: len(new_row.tokens) // 4 for new_row in plan.new_rows}
        rows = unpack_ids(plan.rows).tolist()
        ends = (unpack_ids(plan.starts) + unpack_ids(plan.counts)).tolist()
        sampled = [row for row, end in zip(rows, ends, strict=True) if end == self.known[row]]
        for row in sampled:
            self.known[row] += 1
        return [7] * len(sampled)


def measure(folder: Path, num_sequences: int, num_blocks: int) -> str:
    """Return one line of the table; a quarter of the sequences is real-time."""
    driver = Driver(folder, num_sequences, num_blocks)
    steps = []
    for iteration in range(2 * ITERATIONS):
        while driver.scheduler.num_requests < num_sequences + 8:
            driver.admit(Klass.RT if driver.scheduler.num_requests % 4 == 0 else Klass.BE)
        step = driver.step()
        if iteration >= ITERATIONS:  # now all sequences run
            steps.append(step)
    plan_ms = [1000 * plan_s for plan_s, _, _ in steps]
    total_ms = [1000 * (plan_s + done_s) for plan_s, done_s, _ in steps]
    kv = driver.scheduler.kv
    return (
        f"{num_sequences:9} {num_blocks:7} {mean(count for _, _, count in steps):8.1f} "
        f"{median(plan_ms):8.2f} {median(total_ms):9.2f} {quantiles(total_ms, n=20)[-1]:8.2f} "
        f"{kv.preempted_blocks:10} {kv.saved_blocks:6}"
    )


def main() -> None:
    """Print the table."""
    print("sequences  blocks  planned  plan ms  total ms   p95 ms  preempted  saved")
    with tempfile.TemporaryDirectory() as folder:
        for num_sequences in (64, 256):
            blocks = num_sequences * (PROMPT + OUTPUT) // BLOCK
            for num_blocks in (2 * blocks, blocks // 3):
                print(measure(Path(folder), num_sequences, num_blocks))


if __name__ == "__main__":
    main()
