"""The client of a running daemon that the command line uses: blocking, for one thread.

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

from bros.brosd.client.errors import (
    ApiError,
    ClientError,
    ConnectionLost,
    NotRunning,
    api_error,
    refused,
    unexpected,
)
from bros.brosd.client.ipc import IpcConnection
from bros.brosd.protocol.batch_lines import parts
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

RESEND_S = 10.0

M = TypeVar("M", bound=Message)


class Client:
    """A connection to the daemon of one runtime folder. Raise NotRunning if there is none."""

    def __init__(self, runtime: Path) -> None:
        self._connection = IpcConnection(runtime)
        self._rids = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    # -- requests --------------------------------------------------------------------------------

    def ask(self, url: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Yield the JSON objects of the answer to an OpenAI request: one, or a stream's chunks.

        Closing the generator early stops the request. Raise ApiError, ConnectionLost or NotRunning.
        """
        rid = next(self._rids)
        self._connection.drain_events()
        losses = self._connection.losses
        self._connection.send(OpenAIRequest(rid=rid, url=url, body=msgspec.json.encode(body)))
        last = False
        try:
            while not last:
                match self._connection.receive(rid):
                    case Reply(status=status, body=content, last=last):
                        if status >= 400:
                            last = True
                            raise api_error(status, content)
                        if content:
                            yield msgspec.json.decode(content)
                    case None if self._connection.losses != losses:
                        last = True
                        raise ConnectionLost(
                            "the server went away and the answer is lost: ask again"
                        )
                    case None:
                        self._connection.check_there()
                    case Refused() as refusal:
                        last = True
                        raise refused(refusal)
                    case message:
                        raise unexpected(type(message).__name__)
        finally:
            if not last:
                self._connection.send(Cancel(rid=rid))

    def status(self) -> Stats | None:
        """Return what the daemon does; None while it starts."""
        return self._call(StatusQuery(rid=next(self._rids)), Status).stats

    # -- batch jobs ------------------------------------------------------------------------------

    def put_job(self, job: str, lines: Iterable[bytes]) -> int:
        """Store a batch job's lines, which are read as they are sent, and return how many."""
        total = 0
        for part, last in parts(lines):
            put = JobPut(rid=next(self._rids), job=job, first=total, lines=part, last=last)
            total += len(part)
            received = self._call(put, JobAck).received
            if received < total:
                raise ClientError(f"the server stored {received} of {total} lines: submit again")
        return total

    def fetch(self, job: str, after: int = 0) -> JobPage:
        """Return results stored after number `after`, and the job's state; wait up to a second."""
        return self._call(JobFetch(rid=next(self._rids), job=job, after=after), JobPage)

    def jobs(self) -> list[JobStatus]:
        """Return all jobs, newest first."""
        return self._call(JobList(rid=next(self._rids)), Jobs).jobs

    def cancel_job(self, job: str) -> JobStatus:
        """Stop a job; results that are there stay."""
        return self._call(JobCancel(rid=next(self._rids), job=job), JobPage).status

    def _call(self, message: Any, kind: type[M]) -> M:
        """Return the answer to a message that can be repeated; send it again until there is one."""
        self._connection.drain_events()
        losses, sent_s, began_s = self._connection.losses, time.monotonic(), time.monotonic()
        self._connection.send(message)
        while True:
            answer = self._connection.receive(message.rid)
            if isinstance(answer, kind):
                return answer
            if isinstance(answer, Refused):
                raise refused(answer)
            if answer is not None:
                raise unexpected(type(answer).__name__)
            self._connection.check_there(began_s)
            if self._connection.losses != losses or time.monotonic() - sent_s > RESEND_S:
                losses, sent_s = self._connection.losses, time.monotonic()
                self._connection.send(message)
