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

from bros.brosd.protocol.base import (
    MAX_MESSAGE_BYTES,
    WIRE_VERSION,
    Message,
    Part,
    pack_floats,
    pack_ids,
    unpack_floats,
    unpack_ids,
)
from bros.brosd.protocol.clients import (
    Cancel,
    FromClient,
    JobAck,
    JobCancel,
    JobFetch,
    JobList,
    JobPage,
    JobPut,
    Jobs,
    JobStatus,
    OpenAIRequest,
    Refused,
    Reply,
    Status,
    StatusQuery,
    ToClient,
)
from bros.brosd.protocol.sampling import FinishReason, Logprobs, Sampling, Slo
from bros.brosd.protocol.statistics import (
    BlockMap,
    ClassStats,
    Distribution,
    KvStats,
    LatencyStats,
    Stats,
    WorkerStats,
)
from bros.brosd.protocol.to_daemon import (
    Abort,
    Admit,
    Failed,
    Fault,
    Geometry,
    Heartbeat,
    Hello,
    Ready,
    Sample,
    StepDone,
    ToDaemon,
)
from bros.brosd.protocol.to_tokenizer import Drain, Emit, Fail, Reload, ToTokenizer
from bros.brosd.protocol.to_worker import (
    Attach,
    NewRow,
    Rehearse,
    Sampled,
    StepPlan,
    Stop,
    ToFollower,
    ToWorker,
)

__all__ = [
    "MAX_MESSAGE_BYTES",
    "WIRE_VERSION",
    "Abort",
    "Admit",
    "Attach",
    "BlockMap",
    "Cancel",
    "ClassStats",
    "Distribution",
    "Drain",
    "Emit",
    "Fail",
    "Failed",
    "Fault",
    "FinishReason",
    "FromClient",
    "Geometry",
    "Heartbeat",
    "Hello",
    "JobAck",
    "JobCancel",
    "JobFetch",
    "JobList",
    "JobPage",
    "JobPut",
    "JobStatus",
    "Jobs",
    "KvStats",
    "LatencyStats",
    "Logprobs",
    "Message",
    "NewRow",
    "OpenAIRequest",
    "Part",
    "Ready",
    "Refused",
    "Rehearse",
    "Reload",
    "Reply",
    "Sample",
    "Sampled",
    "Sampling",
    "Slo",
    "Stats",
    "Status",
    "StatusQuery",
    "StepDone",
    "StepPlan",
    "Stop",
    "ToClient",
    "ToDaemon",
    "ToFollower",
    "ToTokenizer",
    "ToWorker",
    "WorkerStats",
    "pack_floats",
    "pack_ids",
    "unpack_floats",
    "unpack_ids",
]
