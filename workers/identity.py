"""Which worker process this is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bros.brosd.protocol.runtime_folder import inbox_socket, worker_name


@dataclass(frozen=True)
class Identity:
    """Process `rank` of worker `index`, which was started for the `generation`th time."""

    index: int
    generation: int
    kind: str = "cpu"  # or "cuda"
    devices: tuple[int, ...] = (0,)  # one for each rank
    rank: int = 0

    @property
    def size(self) -> int:
        return len(self.devices)

    @property
    def peer(self) -> str:
        """The worker's name, which all its ranks share."""
        return worker_name(self.index)

    def socket_in(self, runtime: Path) -> Path:
        """The inbox of this process."""
        return inbox_socket(runtime, self.peer, self.generation, self.rank)

    @property
    def device(self) -> str:
        """The device's name in torch."""
        return f"cuda:{self.devices[self.rank]}" if self.kind == "cuda" else "cpu"

    @property
    def arguments(self) -> list[str]:
        """Arguments of `python -m bros.workers` that start this process."""
        devices = ",".join(str(device) for device in self.devices)
        words = ["--index", str(self.index), "--generation", str(self.generation)]
        return [*words, "--kind", self.kind, "--devices", devices, "--rank", str(self.rank)]

    def of_rank(self, rank: int) -> Identity:
        """Return the identity of another process of the same worker."""
        return replace(self, rank=rank)
