"""Sockets: what is sent arrives in order, what is malformed is left out, long paths are told."""

import asyncio
from pathlib import Path

import pytest
import zmq

from bros.brosd.protocol import wire
from bros.brosd.protocol.sockets import BlockingInbox, BlockingOutbox, Inbox, Outbox, ipc


def test_messages_arrive_in_order_and_garbage_does_not(short_dir: Path) -> None:
    async def talk() -> list[int]:
        inbox: Inbox[wire.ToDaemon] = Inbox(short_dir / "daemon.sock", wire.ToDaemon)
        outbox: Outbox[wire.ToDaemon] = Outbox(short_dir / "daemon.sock")
        stranger: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        stranger.connect(ipc(short_dir / "daemon.sock"))
        stranger.send(b"\xc1garbage")
        for rid in range(100):
            await outbox.send(wire.Abort(rid=rid))
        messages = [await inbox.recv() for _ in range(100)]
        stranger.send(b"\xc1more")
        await outbox.send(wire.Abort(rid=100))
        messages.append(await inbox.recv())
        for socket in (inbox, outbox, stranger):
            socket.close()
        return [message.rid for message in messages if isinstance(message, wire.Abort)]

    assert asyncio.run(talk()) == list(range(101))


def test_blocking_pair(short_dir: Path) -> None:
    inbox: BlockingInbox[wire.ToWorker] = BlockingInbox(short_dir / "w.sock", wire.ToWorker)
    outbox: BlockingOutbox[wire.ToWorker] = BlockingOutbox(short_dir / "w.sock")
    plan = wire.StepPlan(
        step=1,
        rows=wire.pack_ids([0]),
        starts=wire.pack_ids([0]),
        counts=wire.pack_ids([2]),
        new_rows=[wire.NewRow(0, wire.pack_ids([5, 6]), 2, wire.Sampling())],
    )
    outbox.send(plan)
    outbox.send(wire.Stop())
    assert inbox.recv() == plan
    assert inbox.recv() == wire.Stop()
    outbox.close()


def test_paths_too_long_for_a_socket_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter runtime_dir"):
        ipc(tmp_path / ("x" * 100))
