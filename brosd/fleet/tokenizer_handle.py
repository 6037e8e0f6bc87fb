"""The tokenizer process as the daemon sees it: a child, and the socket to its inbox."""

from __future__ import annotations

from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.fleet.supervisor import Child, Supervisor
from bros.brosd.protocol import wire
from bros.brosd.protocol.runtime_folder import TOKENIZER, inbox_socket
from bros.brosd.protocol.sockets import Outbox


class TokenizerHandle:
    """The tokenizer, through all its incarnations."""

    def __init__(self, config: Config, supervisor: Supervisor, model: Path) -> None:
        self._runtime = config.runtime
        self._supervisor = supervisor
        arguments = ["--runtime-dir", str(config.runtime), "--model", str(model)]
        self.child = Child(TOKENIZER, "bros.brosd.tokenizer", arguments)
        self._outbox: Outbox[wire.ToTokenizer] | None = None

    @property
    def ready(self) -> bool:
        return self.child.ready

    @property
    def restarts(self) -> int:
        return self.child.restarts

    async def start(self) -> None:
        """Start the next incarnation; what was sent to the last one and not read is dropped."""
        self.close()
        await self._supervisor.start(self.child)
        self._outbox = Outbox(inbox_socket(self._runtime, TOKENIZER, self.child.generation))

    async def send(self, message: wire.ToTokenizer) -> None:
        """Send a message; without effect before the first start."""
        if self._outbox is not None:
            await self._outbox.send(message)

    def close(self) -> None:
        """Give up the socket."""
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None
