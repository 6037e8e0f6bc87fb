"""OpenAI's `batch` and `file` objects: what clients send, and what jobs and files look like."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bros.brosd.tokenizer.jobs.job import File, Job, JobSpec
from bros.brosd.tokenizer.openai.errors import Json, invalid

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MAX_WINDOW_S = 366 * 86_400
Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
Key = Annotated[str, Meta(max_length=64)]
Value = Annotated[str, Meta(max_length=512)]


class BatchRequest(msgspec.Struct):
    """POST /v1/batches. `completion_window` is a number and one of s, m, h, d."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=256)]
    endpoint: Endpoint
    completion_window: Annotated[str, Meta(max_length=16)] = "24h"
    metadata: Annotated[dict[Key, Value], Meta(max_length=16)] | None = None


def job_spec(request: BatchRequest) -> JobSpec:
    """What the store keeps of a request. Raise OpenAIError if its window cannot be read."""
    return JobSpec(
        endpoint=request.endpoint,
        input_file=request.input_file_id,
        window=request.completion_window,
        metadata=msgspec.json.encode(request.metadata).decode() if request.metadata else None,
        expires_s=time.time() + _window_s(request.completion_window),
    )


def _window_s(window: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", window)
    seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 1 <= seconds <= MAX_WINDOW_S:
        raise invalid("completion_window", "give a number and one of s, m, h, d, as in '24h'")
    return seconds


def batch_object(job: Job, model: str) -> Json:
    """A job as OpenAI's clients know it. Jobs of `bros submit` have no window and no endpoint."""
    ended = _time(job.ended_s)
    return {
        "id": job.name,
        "object": "batch",
        "endpoint": job.endpoint or "",
        "model": model,
        "errors": _errors(job),
        "input_file_id": job.input_file or f"file-{job.name}.input",
        "completion_window": job.window or "",
        "status": job.state,
        "output_file_id": _result_file(job, "output", job.output_bytes),
        "error_file_id": _result_file(job, "errors", job.error_bytes),
        "created_at": _time(job.created_s),
        "in_progress_at": _time(job.started_s),
        "expires_at": _time(job.expires_s),
        "finalizing_at": _time(job.finalizing_s),
        "completed_at": ended if job.state == "completed" else None,
        "failed_at": ended if job.state == "failed" else None,
        "expired_at": ended if job.state == "expired" else None,
        "cancelling_at": _time(job.cancelling_s),
        "cancelled_at": ended if job.state == "cancelled" else None,
        "request_counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "usage": _usage(job),
        "metadata": msgspec.json.decode(job.metadata) if job.metadata else None,
    }


def _usage(job: Job) -> Json:
    return {
        "input_tokens": job.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": job.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": job.prompt_tokens + job.output_tokens,
    }


def _errors(job: Job) -> Json | None:
    if job.problem is None:
        return None
    return {"object": "list", "data": [msgspec.json.decode(job.problem)]}


def _result_file(job: Job, part: str, num_bytes: int) -> str | None:
    return f"file-{job.name}.{part}" if job.ended_s is not None and num_bytes else None


def file_object(file: File) -> Json:
    """A file as OpenAI's clients know it."""
    return {
        "id": file.name,
        "object": "file",
        "bytes": file.bytes,
        "created_at": _time(file.created_s),
        "expires_at": _time(file.expires_s),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def list_object(items: list[Json], limit: int) -> Json:
    """A page of at most `limit` objects. `items` has more than that if there are more."""
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }


def _time(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def query_limit(value: Any, default: int, most: int) -> int:
    """The `limit` of a list's URL. Raise OpenAIError if it is not a number in range."""
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", value) or not 1 <= int(value) <= most:
        raise invalid("limit", f"give a number from 1 to {most}")
    return int(value)
