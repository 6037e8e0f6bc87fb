"""Random plans on clocks that jump: any exception, or a figure that is not finite, is a failure."""

import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

from bros.brosd.config import KvMode, PolicyName
from bros.brosd.fleet.placement import Placement, WorkerLoad
from bros.brosd.protocol.wire import Slo, StepPlan, unpack_ids
from bros.brosd.scheduling.cost_model import GUESS, CostModel, IterationLoad
from bros.brosd.scheduling.limits import Limits
from bros.brosd.scheduling.registry import POLICIES
from bros.kv import Klass
from scheduler_bench import MAX_LEN, Bench

PLANS_PER_WORLD = 400
CHECKED_EVERY = 16  # worlds: in these a worker checks what every plan reads
DURATIONS_S = (0.0, -0.0, 5e-324, 1e-12, 1e-6, 1e-3, 0.02, 1.0, 60.0, 1e6, 1e300)
JUMPS_S = (*DURATIONS_S, -1e-9, -0.02, -1.0, -3600.0, -1e6, -1e300)
NO_DURATIONS_S = (math.nan, math.inf, -math.inf)
OBJECTIVES_S = (5e-324, 1e-9, 1e-3, 0.08, 0.5, 60.0, 1e6, 1e300)
COSTS_S = (0.0, 5e-324, 1e-9, 1e-3, 1.0, 1e6)


class World:
    """One scheduler with a random configuration, random requests, and adverse measurements."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.policy: PolicyName = rng.choice(sorted(POLICIES))
        limits = Limits(4, 16, 50, be_floor=rng.choice([0.0, 0.05, 0.9]), max_losses=10**9)
        self.bench = Bench(folder, self.policy, limits, rng.choice(get_args(KvMode)))
        self.bench.now_s = rng.choice(JUMPS_S)
        self.checked = seed % CHECKED_EVERY == 0
        self.adverse = rng.choice([0.01, 0.2, 1.0])  # share of the measurements
        scheduler = self.bench.scheduler
        if rng.random() < 0.5:
            scheduler.cost = CostModel(tuple(rng.choice(COSTS_S) for _ in GUESS))
        self.placement = Placement([WorkerLoad(scheduler, up=True)])
        self.num_requests = 0
        self.num_plans = 0

    def run(self, num_plans: int) -> None:
        """Make so many plans, then serve what is left on a clock that works."""
        while self.num_plans < num_plans:
            self._event()
            self._step()
        self.adverse = 0.0
        while self._step():
            pass
        scheduler = self.bench.scheduler
        assert scheduler.idle, f"{scheduler.num_requests} requests are left"
        assert scheduler.planning_faults == 0
        for klass in Klass:
            figures = scheduler.stats(klass).memory_wait_s, scheduler.latencies.stats(klass)
            assert figures[0] >= 0
        self.bench.check()

    def _event(self) -> None:
        rng, scheduler = self.rng, self.bench.scheduler
        if scheduler.num_requests < 10:
            self._admit()
        match rng.randrange(40):
            case 0:
                scheduler.abort(rng.randrange(self.num_requests))
            case 1:
                assert scheduler.detach() == []
                self.bench.attach()
            case 2:
                self._profile()

    def _admit(self) -> None:
        rng, bench = self.rng, self.bench
        prompt = rng.randrange(1, 21)
        klass, rid = rng.choice(list(Klass)), self.num_requests
        self.num_requests += 1
        request = bench.request(rid, klass, prompt, rng.randrange(1, MAX_LEN - prompt + 1))
        if klass is Klass.RT and rng.random() < 0.5:
            slo = Slo(rng.choice(OBJECTIVES_S), rng.choice(OBJECTIVES_S))
            request = replace(request, slo=slo)
        (place,) = self.placement.candidates(request)
        self.placement.book(place, request)
        assert bench.scheduler.enqueue(request) is None

    def _profile(self) -> None:
        """A worker's profile, of iterations of any size that took any time."""
        cost = self.bench.scheduler.cost
        for _ in range(self.rng.randrange(20)):
            load = IterationLoad()
            load.add(self.rng.randrange(10**6), self.rng.choice([1, 1, 2, 300, 10**5]))
            cost.learn(load, self._duration_s())
        cost.keep()

    def _step(self) -> bool:
        bench, scheduler = self.bench, self.bench.scheduler
        self.num_plans += 1
        bench.now_s = self._now_s()
        if self.checked:
            done = bench.step()
        else:
            plan = scheduler.plan()
            done = plan is not None
            if plan is not None:
                scheduler.measure(self._duration_s(), self._duration_s(), 1)
                bench.now_s = self._now_s()
                scheduler.complete(plan.step, self._tokens(plan))
        cost = scheduler.cost
        for figure in (cost.base_s, cost.chunk_s(100, 1), cost.chunk_s(0, 64), cost.margin_s):
            assert 0 <= figure < math.inf
        assert all(math.isfinite(error) for error in cost.relative_errors)
        return done

    def _tokens(self, plan: StepPlan) -> list[int]:
        known = self.bench.known
        known |= {new.row: unpack_ids(new.tokens).tolist() for new in plan.new_rows}
        sampled = [
            row for row, start, count in self.bench.rows(plan) if start + count == len(known[row])
        ]
        for row in sampled:
            known[row].append(len(known[row]))
        return [known[row][-1] for row in sampled]

    def _now_s(self) -> float:
        if self.rng.random() < self.adverse:
            return max(-1e300, min(1e300, self.bench.now_s + self.rng.choice(JUMPS_S)))
        return self.bench.now_s + self.rng.random() / 10

    def _duration_s(self) -> float:
        if self.rng.random() < self.adverse:
            return self.rng.choice(JUMPS_S + NO_DURATIONS_S)
        return self.rng.random() / 10


def stress(folder: Path, num_plans: int, first_seed: int = 0) -> int:
    """Make at least so many plans, world after world; return how many. A failure names its seed."""
    done, seed, began_s = 0, first_seed, time.monotonic()
    while done < num_plans:
        world = World(folder, seed)
        try:
            world.run(PLANS_PER_WORLD)
        except Exception as error:
            error.add_note(f"seed {seed}, plan {world.num_plans}, policy {world.policy}")
            raise
        done += world.num_plans
        seed += 1
        if seed % 1000 == 0:
            print(f"{done} plans, {time.monotonic() - began_s:.0f} s", flush=True)
    return done
