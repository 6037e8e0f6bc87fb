"""The client of a running daemon, as the command line uses it: blocking, for one thread.

A request that can be repeated (jobs, status) is sent again when the tokenizer restarts; a streamed
answer cannot, so it ends with `ConnectionLost`. All errors are `ClientError`: one line for people.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from bros.brosd.locks import running_pid
from bros.brosd.protocol.batch_lines import parts
from bros.brosd.protocol.runtime_folder import client_socket
from bros.brosd.protocol.sockets import encode, ipc, set_options
from bros.brosd.protocol.wire import (
    BlockMap,
    Cancel,
    ClassStats,
    Distribution,
    JobAck,
    JobCancel,
    JobFetch,
    JobList,
    JobPage,
    JobPut,
    Jobs,
    JobStatus,
    KvStats,
    LatencyStats,
    Message,
    OpenAIRequest,
    Refused,
    Reply,
    Stats,
    Status,
    StatusQuery,
    ToClient,
    WorkerStats,
)

__all__ = [
    "ApiError",
    "BlockMap",
    "ClassStats",
    "Client",
    "ClientError",
    "ConnectionLost",
    "Distribution",
    "JobPage",
    "JobStatus",
    "KvStats",
    "LatencyStats",
    "NotRunning",
    "Stats",
    "WorkerStats",
]

TICK_MS = 500  # how often a waiting client looks whether the daemon still lives
RESEND_S = 10.0
GRACE_S = 2.0  # a daemon that is not there yet
RECONNECT_S = 15.0  # one that was there: systemd starts it again
PATIENCE_S = 60.0  # one that holds its lock but does not answer
LINGER_MS = 500  # for a last Cancel

M = TypeVar("M", bound=Message)


class ClientError(RuntimeError):
    """The daemon cannot be asked; the text is one line that says why and what to do."""


class NotRunning(ClientError):
    """Nobody serves this runtime folder."""

    def __init__(self, runtime: Path) -> None:
        super().__init__(
            f"no daemon runs in {runtime}: start it with 'brosd start', "
            "or set BROS_RUNTIME_DIR to its folder"
        )


class ConnectionLost(ClientError):
    """The tokenizer went away while it streamed."""


class ApiError(ClientError):
    """The server refused or failed a request; `error` is the OpenAI error object."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        self.status = status
        self.error = error
        super().__init__(str(error.get("message") or f"the server answered {status}"))

    @property
    def code(self) -> str:
        return str(self.error.get("code") or "")


class Client:
    """A connection to the daemon of one runtime folder. Raises NotRunning if there is none."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        path = client_socket(runtime)
        if not path.exists() and running_pid(runtime) is None:
            raise NotRunning(runtime)
        try:
            address = ipc(path)
        except ValueError as error:
            raise ClientError(str(error)) from None
        self._rids = itertools.count(1)
        self._decoder = msgspec.msgpack.Decoder(ToClient)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        set_options(self._socket, LINGER_MS)
        # The kernel closes a dead tokenizer's socket, so its end is an event, never a guess.
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED
        )
        self._losses = 0
        self._grace_s = GRACE_S
        self._away_since_s: float | None = time.monotonic()  # None while connected
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._socket.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()

    # -- requests --------------------------------------------------------------------------------

    def ask(self, url: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The JSON objects of the answer to an OpenAI request: one, or a stream's chunks.

        Closing the generator early stops the request. Raises ApiError, ConnectionLost, NotRunning.
        """
        rid = next(self._rids)
        self._drain_events()
        losses = self._losses
        self._send(OpenAIRequest(rid=rid, url=url, body=msgspec.json.encode(body)))
        last = False
        try:
            while not last:
                match self._receive(rid):
                    case Reply(status=status, body=content, last=last):
                        if status >= 400:
                            last = True
                            raise _api_error(status, content)
                        if content:
                            yield msgspec.json.decode(content)
                    case None if self._losses != losses:
                        last = True
                        raise ConnectionLost(
                            "the server restarted and the answer is lost: ask again"
                        )
                    case None:
                        self._check_there()
                    case Refused() as refusal:
                        last = True
                        raise _refused(refusal)
                    case message:
                        raise _unexpected(type(message).__name__)
        finally:
            if not last:
                self._send(Cancel(rid=rid))

    def status(self) -> Stats | None:
        """What the daemon does; None while it starts."""
        return self._call(StatusQuery(rid=next(self._rids)), Status).stats

    # -- batch jobs ------------------------------------------------------------------------------

    def put_job(self, job: str, lines: Iterable[bytes]) -> int:
        """Store a batch job's lines, which are read as they are sent; returns how many."""
        total = 0
        for part, last in parts(lines):
            put = JobPut(rid=next(self._rids), job=job, first=total, lines=part, last=last)
            total += len(part)
            received = self._call(put, JobAck).received
            if received < total:
                raise ClientError(f"the server stored {received} of {total} lines: submit again")
        return total

    def fetch(self, job: str, after: int = 0) -> JobPage:
        """Results stored after number `after`, and the job's state; waits up to a second."""
        return self._call(JobFetch(rid=next(self._rids), job=job, after=after), JobPage)

    def jobs(self) -> list[JobStatus]:
        """All jobs, newest first."""
        return self._call(JobList(rid=next(self._rids)), Jobs).jobs

    def cancel_job(self, job: str) -> JobStatus:
        """Stop a job; what is done stays."""
        return self._call(JobCancel(rid=next(self._rids), job=job), JobPage).status

    # -- the socket ------------------------------------------------------------------------------

    def _call(self, message: Any, kind: type[M]) -> M:
        """The answer to a message that can be repeated, sent again until there is one."""
        self._drain_events()
        losses, sent_s, began_s = self._losses, time.monotonic(), time.monotonic()
        self._send(message)
        while True:
            answer = self._receive(message.rid)
            if isinstance(answer, kind):
                return answer
            if isinstance(answer, Refused):
                raise _refused(answer)
            if answer is not None:
                raise _unexpected(type(answer).__name__)
            self._check_there(began_s)
            if self._losses != losses or time.monotonic() - sent_s > RESEND_S:
                losses, sent_s = self._losses, time.monotonic()
                self._send(message)

    def _send(self, message: Message) -> None:
        self._socket.send(encode(message))

    def _receive(self, rid: int) -> ToClient | None:
        """A message about `rid`; None if the connection changed or nothing came for a tick."""
        ready = dict(self._poller.poll(TICK_MS))
        if self._socket in ready:  # first what arrived before the connection broke
            message = self._decode(self._socket.recv())
            # 0: a message that the server could not read. Others: answers to a repetition.
            return message if message.rid in (rid, 0) else None
        if self._monitor in ready:
            self._on_event()
        return None

    def _decode(self, frame: bytes) -> ToClient:
        try:
            message: ToClient = self._decoder.decode(frame)
        except msgspec.MsgspecError as error:
            raise _unexpected(f"a malformed message ({error})") from None
        return message

    def _drain_events(self) -> None:
        while self._monitor.poll(0):
            self._on_event()

    def _on_event(self) -> None:
        if recv_monitor_message(self._monitor)["event"] == zmq.EVENT_CONNECTED:
            self._away_since_s = None
            self._grace_s = RECONNECT_S
        else:
            self._away_since_s = time.monotonic()
            self._losses += 1

    def _check_there(self, began_s: float | None = None) -> None:
        """Raise if there is nobody to wait for. `began_s`: when a call that must end began."""
        since_s = self._away_since_s if self._away_since_s is not None else began_s
        if since_s is None:
            return
        waited_s = time.monotonic() - since_s
        away = self._away_since_s is not None and waited_s > self._grace_s
        if away and running_pid(self._runtime) is None:
            raise NotRunning(self._runtime)
        if waited_s > PATIENCE_S:
            raise ClientError(
                f"the daemon in {self._runtime} did not answer for {PATIENCE_S:.0f} s: see its log"
            )


def _api_error(status: int, content: bytes) -> ApiError:
    try:
        error = msgspec.json.decode(content)["error"]
        return ApiError(status, error if isinstance(error, dict) else {"message": str(error)})
    except (msgspec.DecodeError, KeyError, TypeError):
        return ApiError(status, {"message": content.decode(errors="replace")[:500]})


def _refused(refusal: Refused) -> ApiError:
    return ApiError(400, {"code": refusal.code, "message": refusal.message})


def _unexpected(what: str) -> ClientError:
    return ClientError(
        f"the daemon sent {what}, which this command does not understand: "
        "install the same version of both"
    )
