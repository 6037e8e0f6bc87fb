"""Frames at the daemon's own socket that no process of ours would send."""

from __future__ import annotations

import json
from typing import Any

import zmq

from bros.brosd.protocol import wire
from bros.brosd.protocol.runtime_folder import daemon_socket
from bros.brosd.protocol.sockets import encode, ipc
from bros.kv import Klass
from harness import MakeServer, Server, wait_until


def status(server: Server) -> dict[str, object]:
    return dict(json.loads(server.run("brosd", "status", "--json").stdout))


def test_nonsense_is_counted_and_ends_nothing(make_server: MakeServer) -> None:
    server = make_server()
    daemon = server.pid()
    stranger: Any = zmq.Context.instance().socket(zmq.PUSH)
    stranger.connect(ipc(daemon_socket(server.runtime)))
    stranger.send(b"\x91" * 100_000)  # arrays in arrays
    stranger.send(b"\x92\xa5abort\xa1\xff")  # text that is not UTF-8
    stranger.send(encode(wire.Admit(1, Klass.RT, 0.0, b"odd", 4, wire.Sampling())))
    wait_until(lambda: status(server)["internal_errors"] == 1)
    stranger.send(encode(wire.StepDone(0, 1, 77, b"odd", 0.1)))
    wait_until(lambda: status(server)["worker_restarts"] == 1)  # nobody knows what it computed
    stranger.close(linger=0)
    wait_until(lambda: status(server)["state"] == "ready")
    assert server.pid() == daemon
    assert status(server)["tokenizer_restarts"] == 0
    assert "Traceback" in server.log()
    assert "1 in plans" not in (shown := server.run("brosd", "status").stdout)
    assert "2 in events" in shown
