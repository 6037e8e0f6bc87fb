"""Every message that crosses a socket between BROS processes: one union per inbox.

Messages are MessagePack arrays, never pickle. Columns of numbers travel as packed little-endian
int32 (`pack_ids`), so an iteration costs three messages whatever the batch size. Prompt ids cross
each hop once, block ids never do: workers read them in the shared block table.

    client -> tokenizer     FromClient          tokenizer -> client     ToClient
    tokenizer -> daemon     ToDaemon            daemon -> tokenizer     ToTokenizer
    worker -> daemon        ToDaemon            daemon -> worker        ToWorker
                                                worker -> its followers ToFollower
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import msgspec
import numpy as np
import numpy.typing as npt

from bros.kv import Klass

WIRE_VERSION = 4
MAX_MESSAGE_BYTES = 64 * 2**20


class Message(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """Base of all messages; the tag of a subclass is the first element of its array."""


class Part(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """A piece of a message: never sent alone, so without a tag."""


class FinishReason(IntEnum):
    """Why a request ended; NONE while it goes on."""

    NONE = 0
    STOP = 1
    LENGTH = 2


class Slo(Part):
    """Latency objectives of one real-time request, in seconds."""

    ttft_s: float
    tpot_s: float


class Sampling(Part):
    """How the next token is drawn. `temperature == 0` is greedy; `top_k == 0` is off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    logprobs: int | None = None  # how many likeliest tokens to tell with each; None: no logprobs
    grammar: str = ""  # llguidance's; the tokens that it does not allow are not drawn


class Logprobs(Part):
    """Natural log probabilities: of the token at `index` of its message, and of the likeliest."""

    index: int
    logprob: float
    top_ids: bytes
    top: bytes  # float32


# -- tokenizer, worker -> daemon ----------------------------------------------------------------


class Hello(Message, tag="hello"):
    """A process is up. `generation` tells its messages from those of a killed predecessor."""

    peer: str
    generation: int
    wire: int = WIRE_VERSION


class Geometry(Message, tag="geometry"):
    """A worker has loaded its model and says what its KV pool can hold."""

    worker: int
    generation: int
    num_blocks: int
    block_size: int
    max_len: int
    vocab_size: int
    kv_bytes_per_token: int


class Sample(Part):
    """An iteration of a profile: chunks of `counts` tokens after `starts`, in `seconds`."""

    starts: list[int]
    counts: list[int]
    seconds: float


class Ready(Message, tag="ready"):
    """The process serves: a worker has warmed up, the tokenizer listens."""

    peer: str
    generation: int
    profile: list[Sample] = []


class Heartbeat(Message, tag="beat"):
    """Sent every second by a thread of its own: the process is slow perhaps, but not dead."""

    peer: str
    generation: int


class Fault(Message, tag="fault"):
    """The process cannot go on and exits; `reason` is one line for the operator."""

    peer: str
    generation: int
    reason: str


class Admit(Message, tag="admit"):
    """A tokenized request. `arrived_s` is CLOCK_MONOTONIC at the front door, in seconds."""

    rid: int
    klass: Klass
    arrived_s: float
    prompt: bytes
    max_tokens: int
    sampling: Sampling
    stop_ids: list[int] = []
    slo: Slo | None = None


class Abort(Message, tag="abort"):
    """Forget a request and free its KV. Idempotent."""

    rid: int


class StepDone(Message, tag="done"):
    """An iteration is over. `tokens` has one id per row that sampled, in plan order.

    `copy_s` and `copy_bytes` are the checkpoint copies' part of it.
    """

    worker: int
    generation: int
    step: int
    tokens: bytes
    elapsed_s: float
    copy_s: float = 0.0
    copy_bytes: int = 0
    logprobs: list[Logprobs] = []


ToDaemon = Hello | Geometry | Ready | Heartbeat | Fault | Admit | Abort | StepDone


# -- daemon -> worker ---------------------------------------------------------------------------


class Attach(Message, tag="attach"):
    """The block table of this worker is at `path`; allocate the pool and warm up."""

    path: str


class NewRow(Part):
    """A row that the worker has not seen: all its known token ids, the prompt's first."""

    row: int
    tokens: bytes
    num_prompt: int
    sampling: Sampling


class StepPlan(Message, tag="step"):
    """One iteration: row `rows[i]` computes its tokens `[starts[i], starts[i] + counts[i])`.

    A row whose chunk ends with its last known token samples the next one, which the worker
    appends to the row by itself. Before all else, the worker runs the first `num_copies` entries
    of the block table's copy log.
    """

    step: int
    rows: bytes
    starts: bytes
    counts: bytes
    new_rows: list[NewRow] = []
    num_copies: int = 0


class Stop(Message, tag="stop"):
    """Exit now, in order."""


ToWorker = Attach | StepPlan | Stop


# -- first process of a worker -> the others that share its model -------------------------------


class Rehearse(Message, tag="rehearse"):
    """Run an iteration of chunks of `counts` tokens after `starts`, of rows that are made up."""

    starts: list[int]
    counts: list[int]


class Sampled(Message, tag="sampled"):
    """The tokens of the last plan, which only the first process draws."""

    tokens: bytes


ToFollower = Attach | Rehearse | StepPlan | Sampled | Stop


# -- daemon -> tokenizer ------------------------------------------------------------------------


class Emit(Message, tag="emit"):
    """The tokens of one iteration: request `rids[i]` got `tokens[i]` and perhaps finished."""

    rids: list[int]
    tokens: bytes
    finish: list[FinishReason]
    logprobs: list[Logprobs] = []


class Fail(Message, tag="fail"):
    """A request ends without an answer: refused (4xx) or lost (5xx), as an OpenAI error."""

    rid: int
    status: int
    code: str
    message: str


class ClassStats(Part):
    """Requests and tokens of one class since the daemon started.

    `memory_wait_s` adds up the time of iterations that requests were not in because blocks lacked.
    """

    running: int = 0
    waiting: int = 0
    finished: int = 0
    in_time: int = 0  # of those finished, with their objectives met
    prompt_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0  # times that a request lost KV that it had
    preempted_tokens: int = 0
    prefix_asked_tokens: int = 0
    prefix_hit_tokens: int = 0
    memory_wait_s: float = 0.0


class KvStats(Part):
    """The KV cache since the daemon started, in blocks, tokens, bytes and seconds."""

    blocks_total: int = 0
    blocks_free: int = 0
    host_blocks_total: int = 0
    host_blocks_used: int = 0
    shared_blocks: int = 0
    preempted_blocks: int = 0
    saved_blocks: int = 0
    restored_blocks: int = 0
    moved_blocks: int = 0
    evicted_blocks: int = 0
    dropped_tokens: int = 0
    recomputed_tokens: int = 0
    copy_bytes: int = 0
    copy_s: float = 0.0


class Distribution(Part):
    """Durations: how many per bucket since the start, and percentiles of the `recent` ones.

    `brosd/scheduling/latency.py` has the buckets' bounds; the last bucket has what exceeds them.
    """

    counts: list[int] = []
    sum_s: float = 0.0
    recent: int = 0  # in the last minute
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None


class LatencyStats(Part):
    """How long requests of one class waited for their tokens; `itl` is from token to token."""

    ttft: Distribution = msgspec.field(default_factory=Distribution)
    tpot: Distribution = msgspec.field(default_factory=Distribution)
    itl: Distribution = msgspec.field(default_factory=Distribution)
    e2e: Distribution = msgspec.field(default_factory=Distribution)
    recent_finished: int = 0  # in the last minute
    recent_in_time: int = 0


class BlockMap(Part):
    """A block table at a glance: blocks by use, and a letter per cell of equally many blocks.

    The letters: `.` free, `c` cached, `R` RT, `B` BE, `S` BE with a host copy, `X` both classes.
    """

    free: int = 0
    cached: int = 0
    rt: int = 0
    be: int = 0
    saved: int = 0
    shared: int = 0
    cells: str = ""


class WorkerStats(Part):
    """One worker, by class where there are two numbers: RT, BE."""

    name: str
    ready: bool
    restarts: int = 0
    running: tuple[int, int] = (0, 0)
    waiting: tuple[int, int] = (0, 0)
    blocks: BlockMap = msgspec.field(default_factory=BlockMap)
    device: str = "cpu"
    lost: bool = False  # it died too often, and is not started again
    iterations: int = 0


class Stats(Message, tag="stats"):
    """The daemon's own view, sent once a second and at each change of `state`.

    Counts are sums over the workers, `iteration_s` and `prediction_error` means.
    """

    state: str  # "starting", "ready" or "draining"
    model: str
    policy: str
    uptime_s: float
    slo: Slo  # of real-time requests that name none
    max_len: int = 0
    iterations: int = 0
    iteration_s: float = 0.0  # mean over the last second
    scheduling_s: float = 0.0  # the daemon's part of all iterations: from tokens to the next plan
    prediction_error: float = 0.0  # mean of |predicted - measured| / measured, recent iterations
    prediction_error_p95: float = 0.0
    worker_restarts: int = 0
    tokenizer_restarts: int = 0
    rt: ClassStats = msgspec.field(default_factory=ClassStats)
    be: ClassStats = msgspec.field(default_factory=ClassStats)
    kv: KvStats = msgspec.field(default_factory=KvStats)
    rt_latency: LatencyStats = msgspec.field(default_factory=LatencyStats)
    be_latency: LatencyStats = msgspec.field(default_factory=LatencyStats)
    workers: list[WorkerStats] = []


class Drain(Message, tag="drain"):
    """Refuse new work, put batch lines back into their job, finish what streams."""


class Reload(Message, tag="reload"):
    """The configuration file of the runtime directory has changed: take what can change live."""


ToTokenizer = Emit | Fail | Stats | Drain | Reload | Stop


# -- client <-> tokenizer -----------------------------------------------------------------------


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

    Answered by `JobAck` once they are on disk; sending the same lines again changes nothing.
    The job starts when the part with `last` is stored.
    """

    rid: int
    job: str
    first: int
    lines: list[bytes]
    last: bool


class JobFetch(Message, tag="job_fetch"):
    """Ask for results stored after number `after`; waits up to a second for the first one."""

    rid: int
    job: str
    after: int = 0


class JobCancel(Message, tag="job_cancel"):
    """Stop a job: lines that have no result yet get none. Answered by `JobPage`."""

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
    """State of a batch job, in OpenAI's words, and how far it is."""

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


def pack_ids(ids: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
    """Integers as little-endian int32 bytes."""
    return np.asarray(ids, dtype="<i4").tobytes()


def pack_floats(values: Sequence[float] | npt.NDArray[np.floating]) -> bytes:
    """Numbers as little-endian float32 bytes."""
    return np.asarray(values, dtype="<f4").tobytes()


def unpack_floats(data: bytes) -> npt.NDArray[np.float32]:
    """The inverse of `pack_floats`: a read-only float32 array that shares `data`."""
    return np.frombuffer(data, dtype="<f4")


def unpack_ids(data: bytes) -> npt.NDArray[np.int32]:
    """The inverse of `pack_ids`: a read-only int32 array that shares `data`."""
    return np.frombuffer(data, dtype="<i4")
