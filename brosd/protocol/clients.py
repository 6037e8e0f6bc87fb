"""Messages between local clients and the tokenizer."""

from __future__ import annotations

from bros.brosd.protocol.base import Message, Part
from bros.brosd.protocol.statistics import Stats


class OpenAIRequest(Message, tag="ask"):
    """An OpenAI request: `body` is the JSON that HTTP would carry to `url`."""

    rid: int
    url: str
    body: bytes


class Cancel(Message, tag="cancel"):
    """Stop a request of this client. Idempotent."""

    rid: int


class JobPut(Message, tag="job_put"):
    """Lines `[first, first + len(lines))` of batch job `job` (a name made by the client).

    `JobAck` answers once they are on disk. Sending the same lines again changes nothing.
    The job starts when the part with `last` is stored.
    """

    rid: int
    job: str
    first: int
    lines: list[bytes]
    last: bool


class JobFetch(Message, tag="job_fetch"):
    """Ask for results stored after number `after`; the answer waits for one, up to a second."""

    rid: int
    job: str
    after: int = 0


class JobCancel(Message, tag="job_cancel"):
    """Stop a job: lines without a result get none. `JobPage` answers."""

    rid: int
    job: str


class JobList(Message, tag="job_list"):
    """Ask for all jobs, newest first."""

    rid: int


class StatusQuery(Message, tag="status_query"):
    """Ask for the daemon's `Stats`."""

    rid: int


FromClient = OpenAIRequest | Cancel | JobPut | JobFetch | JobCancel | JobList | StatusQuery


class Reply(Message, tag="reply"):
    """A piece of the answer to `OpenAIRequest`: a JSON object, a chunk if the request streams."""

    rid: int
    status: int
    body: bytes
    last: bool


class JobAck(Message, tag="job_ack"):
    """All lines below `received` are on disk."""

    rid: int
    received: int


class JobStatus(Part):
    """The state of a batch job, in OpenAI's words, and its progress."""

    job: str
    # validating, in_progress, finalizing, completed, failed, expired, cancelling, cancelled
    state: str
    created_s: float  # Unix time
    total: int
    completed: int
    failed: int
    prompt_tokens: int = 0
    output_tokens: int = 0
    ended_s: float | None = None
    expires_s: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether there will be no more results."""
        return self.state in ("completed", "failed", "expired", "cancelled")


class JobPage(Message, tag="job_page"):
    """Results in the order they were stored; ask again with `after = next`."""

    rid: int
    status: JobStatus
    results: list[bytes]
    next: int


class Jobs(Message, tag="jobs"):
    """All jobs, newest first."""

    rid: int
    jobs: list[JobStatus]


class Status(Message, tag="status"):
    """The daemon's latest `Stats`, None while it has not sent any."""

    rid: int
    stats: Stats | None


class Refused(Message, tag="refused"):
    """A request other than `OpenAIRequest` that cannot be served, and why."""

    rid: int
    code: str
    message: str


ToClient = Reply | JobAck | JobPage | Jobs | Status | Refused
