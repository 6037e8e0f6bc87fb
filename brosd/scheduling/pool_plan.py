"""What the configuration means for one worker's KV pool, in blocks."""

from __future__ import annotations

from dataclasses import dataclass

from bros.brosd.config import Config, KvMode
from bros.brosd.protocol.wire import Geometry
from bros.brosd.scheduling.limits import KvRules
from bros.brosd.scheduling.registry import POLICIES
from bros.kv import KvOptions


@dataclass(frozen=True)
class PoolPlan:
    """Sizes and rules of the pool that a worker has announced."""

    config: Config
    geometry: Geometry

    @property
    def _blind(self) -> bool:
        """Whether the policy is blind to classes."""
        return POLICIES[self.config.scheduler.policy].class_blind

    @property
    def _mode(self) -> KvMode:
        """How victims lose KV; under a class-blind policy they lose all of it, as in vLLM."""
        mode = self.config.kv.mode
        return "recompute" if self._blind and mode == "bidirectional" else mode

    @property
    def _block_bytes(self) -> int:
        return self.geometry.kv_bytes_per_token * self.geometry.block_size

    @property
    def rt_reserve(self) -> int:
        """Free blocks that BE leaves to RT."""
        return 0 if self._blind else int(self.geometry.num_blocks * self.config.kv.rt_reserve)

    @property
    def max_len(self) -> int:
        """The most tokens that a request of either class can have."""
        usable = self.geometry.num_blocks - self.rt_reserve
        return min(self.geometry.max_len, usable * self.geometry.block_size)

    @property
    def host_slots(self) -> int:
        """Blocks of host memory for checkpoints."""
        if self._mode == "recompute":
            return 0
        return self.config.kv.host_bytes // self._block_bytes

    @property
    def max_copies(self) -> int:
        """The most copies in one iteration; with `swap`, any number that is needed."""
        if self._mode == "swap":
            return 2 * self.geometry.num_blocks
        return max(1, self.config.kv.copy_bytes_per_step // self._block_bytes)

    @property
    def rules(self) -> KvRules:
        """What the scheduler needs to know."""
        low_water = int(self.geometry.num_blocks * self.config.kv.low_water)
        return KvRules(self._mode, low_water)

    @property
    def options(self) -> KvOptions:
        """What the allocator needs to know."""
        return KvOptions(
            rt_reserve=self.rt_reserve,
            rt_cached=self._rt_cached,
            share=self.config.kv.share and self._mode == "bidirectional",
            prefix=self.config.kv.prefix_cache,
            keep_copies=self._mode != "swap",
        )

    @property
    def _rt_cached(self) -> int:
        """Blocks of cached prefixes kept for RT; the longest BE request always fits beside them."""
        num_blocks = self.geometry.num_blocks
        longest = -(-self.max_len // self.geometry.block_size)
        wanted = int(num_blocks * self.config.kv.rt_cached)
        return 0 if self._blind else min(wanted, num_blocks - longest)
