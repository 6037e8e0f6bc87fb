"""One worker as the daemon sees it: its process, its block table, the scheduler of its requests.

It sends the next plan as soon as there is one, and knows nothing of clients.
"""

from __future__ import annotations

import time
from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.config.folders import write_error
from bros.brosd.fleet.devices import DeviceGroup
from bros.brosd.fleet.placement import WorkerLoad
from bros.brosd.fleet.supervisor import Child, Supervisor
from bros.brosd.protocol import wire
from bros.brosd.protocol.runtime_folder import inbox_socket, table_file, worker_name
from bros.brosd.protocol.sockets import Outbox
from bros.brosd.scheduling.limits import Limits
from bros.brosd.scheduling.pool_plan import PoolPlan
from bros.brosd.scheduling.registry import POLICIES
from bros.brosd.scheduling.scheduler import Scheduler
from bros.kv import Allocator, BlockState, BlockTable, Klass, TableGeometry


class PoolTooSmall(ValueError):
    """The KV pool cannot hold one short request; the text says what to raise."""


class WorkerHandle:
    """Worker `index`, through all its incarnations.

    `max_len` and `vocab_size` are 0 until one has loaded.
    """

    def __init__(
        self, config: Config, supervisor: Supervisor, model: Path, index: int, group: DeviceGroup
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self.index = index
        self.group = group
        arguments = ["--runtime-dir", str(config.runtime), "--model", str(model)]
        arguments += ["--index", str(index), "--kind", group.kind]
        arguments += ["--devices", ",".join(str(device) for device in group.indices)]
        self.child = Child(worker_name(index), "bros.workers", arguments)
        self.scheduler = Scheduler(
            policy=POLICIES[config.scheduler.policy](),
            limits=Limits(
                max_sequences=config.scheduler.max_sequences,
                max_batch_tokens=config.scheduler.max_batch_tokens,
                max_waiting=config.scheduler.max_waiting,
                be_floor=config.scheduler.be_floor,
            ),
        )
        self.place = WorkerLoad(self.scheduler)
        self.max_len = 0
        self.vocab_size = 0
        self.iterations = 0
        self.mean_step_s = 0.0  # of the last second
        self._steps_s: list[float] = []  # iterations since the last tick
        self._outbox: Outbox[wire.ToWorker] | None = None
        self._table: BlockTable | None = None
        self._pool: PoolPlan | None = None
        self._sent_s = 0.0  # when the plan in flight was sent

    async def start(self) -> None:
        """Start the next incarnation."""
        await self._supervisor.start(self.child)
        path = inbox_socket(self._config.runtime, self.child.peer, self.child.generation)
        self._outbox = Outbox(path)

    async def make_table(self, geometry: wire.Geometry) -> None:
        """The worker has loaded its model: make its block table.

        Raise PoolTooSmall if no request would fit.
        """
        pool = PoolPlan(self._config, geometry)
        self.max_len = pool.max_len
        self.vocab_size = geometry.vocab_size
        if self.max_len < 2:
            raise PoolTooSmall(
                f"the KV pool of {geometry.num_blocks} blocks of {geometry.block_size} tokens "
                "is too small: raise kv.pool_bytes or kv.num_blocks"
            )
        sizes = TableGeometry(
            num_blocks=geometry.num_blocks,
            block_size=geometry.block_size,
            max_rows=2 * self._config.scheduler.max_sequences,  # RT's, and BE's that pause for them
            max_len=self.max_len,
            host_slots=pool.host_slots,
            max_copies=pool.max_copies,
        )
        path = table_file(self._config.runtime, self.index, geometry.generation)
        try:
            self._table = BlockTable(path, sizes, epoch=geometry.generation)
        except OSError as error:
            reason = write_error(self._config.runtime, "runtime_dir", error)
            self._supervisor.kill(self.child, reason)
            return
        self._pool = pool
        await self._send(wire.Attach(path=str(path)))

    def serve(self, profile: list[wire.Sample]) -> None:
        """The worker has mapped its table, warmed up and measured itself: schedule on it."""
        if self._table is None or self._pool is None:
            return
        # The mapping stays; without a name, nothing is left behind whoever gets killed.
        self._table.unlink()
        scheduler = self.scheduler
        scheduler.rules = self._pool.rules
        allocator = Allocator(self._table, self._pool.options, scheduler.costs, scheduler.kv)
        scheduler.learn(profile)
        scheduler.attach(allocator, self.max_len)
        self.place.up = True

    def complete(self, done: wire.StepDone) -> list[wire.Emit | wire.Fail]:
        """Take an iteration's durations and its tokens; return what their requests get."""
        self._steps_s.append(done.elapsed_s)
        self.iterations += 1
        self.scheduler.measure(done.elapsed_s, done.copy_s, done.copy_bytes)
        tokens = wire.unpack_ids(done.tokens).tolist()
        fails = self.scheduler.give_up(done.step, done.failed)
        emit = self.scheduler.complete(done.step, tokens, done.logprobs)
        return [*fails, *([] if emit is None else [emit])]

    def tick(self) -> None:
        """A second has passed. Kill the worker if its iteration has taken too long."""
        steps_s, self._steps_s = self._steps_s, []
        self.mean_step_s = sum(steps_s) / len(steps_s) if steps_s else 0.0
        late_s = time.monotonic() - self._sent_s - self._config.supervisor.step_timeout_s
        if self.scheduler.in_flight and late_s > 0:
            reason = "an iteration took longer than supervisor.step_timeout_s"
            self._supervisor.kill(self.child, reason)

    async def dispatch(self) -> None:
        """Send the next plan, if the worker is idle and there is something to do."""
        if plan := self.scheduler.plan():
            self._sent_s = time.monotonic()
            await self._send(plan)

    def lose(self, *, for_good: bool) -> list[wire.Fail]:
        """The process is gone: its requests wait. Return those that are given up."""
        self.place.up = False
        self.place.lost = for_good
        self.close()
        return self.scheduler.detach()

    def stats(self) -> wire.WorkerStats:
        """The worker at a glance."""
        rt, be = (self.scheduler.stats(klass) for klass in Klass)
        return wire.WorkerStats(
            name=self.child.peer,
            ready=self.place.up,
            restarts=self.child.restarts,
            running=(rt.running, be.running),
            waiting=(rt.waiting, be.waiting),
            blocks=self._block_map(),
            device=self.group.name,
            lost=self.place.lost,
            iterations=self.iterations,
        )

    def _block_map(self) -> wire.BlockMap:
        allocator = self.scheduler.allocator
        if allocator is None:
            return wire.BlockMap()
        usage = allocator.usage()
        counts = {state.name.lower(): usage.counts[state] for state in BlockState}
        return wire.BlockMap(cells=usage.cells, **counts)

    async def stop(self) -> None:
        """Ask the process to end."""
        await self._send(wire.Stop())

    def close(self) -> None:
        """Give up the socket and the table."""
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None
        if self._table is not None:
            self._table.unlink()
            self._table = None

    async def _send(self, message: wire.ToWorker) -> None:
        if self._outbox is not None:
            await self._outbox.send(message)
