"""`/v1/files` and `/v1/batches`: OpenAI's URLs over the jobs and files of the keeper."""

from __future__ import annotations

import asyncio
import errno
import re
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from bros.brosd.tokenizer.http.body import read_body
from bros.brosd.tokenizer.http.upload import Upload
from bros.brosd.tokenizer.jobs.async_store import AsyncJobStore, DiskFullError
from bros.brosd.tokenizer.jobs.files import File, FileError
from bros.brosd.tokenizer.jobs.job import JobError
from bros.brosd.tokenizer.jobs.line_runner import BatchLineRunner
from bros.brosd.tokenizer.openai.batch_objects import (
    BatchRequest,
    batch_object,
    file_object,
    list_object,
    order,
    query_limit,
)
from bros.brosd.tokenizer.openai.errors import OpenAIError, invalid
from bros.brosd.tokenizer.openai.parsing import parse
from bros.brosd.tokenizer.openai.service import OpenAIService

PURPOSES = ("batch", "user_data", "assistants", "fine-tune", "vision", "evals")
MAX_BATCH_BODY = 64 * 1024
STATUS = {"job_not_found": 404, "file_not_found": 404, "file_in_use": 409}
PARAM = {"job_not_found": "batch_id"}

_batch_decoder = msgspec.json.Decoder(BatchRequest)


@dataclass(frozen=True)
class BatchRoutes:
    """The endpoints. Errors of the store are for the handlers below."""

    keeper: AsyncJobStore
    runner: BatchLineRunner
    api: OpenAIService
    max_file_bytes: int
    body_timeout_s: float

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.list_files),
            Route("/v1/files/{file_id}", self.file),
            Route("/v1/files/{file_id}", self.delete_file, methods=["DELETE"]),
            Route("/v1/files/{file_id}/content", self.content),
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.list_batches),
            Route("/v1/batches/{batch_id}", self.batch),
            Route("/v1/batches/{batch_id}/cancel", self.cancel, methods=["POST"]),
        ]

    # -- files -----------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """Store a file; it is on disk when this is answered."""
        keeper, files = self.keeper, self.keeper.files
        keeper.check_room(int(request.headers.get("content-length") or 0))
        name, sink = await keeper.call(files.create)
        try:
            with sink:
                form = Upload(request.headers.get("content-type", ""), sink, self.max_file_bytes)
                async with asyncio.timeout(None) as patience:
                    await form.read(_patient(request, patience, self.body_timeout_s))
            purpose = form.fields.get("purpose", "")
            if purpose not in PURPOSES:
                raise invalid("purpose", f"not one of {', '.join(PURPOSES)}")
            expires_s = _expiry(form.fields)
            filename = form.filename or "upload"
            file = await keeper.call(files.keep, name, filename, purpose, expires_s)
        except BaseException:
            files.give_up(name)
            raise
        return JSONResponse(file_object(file))

    async def list_files(self, request: Request) -> Response:
        query = request.query_params
        limit = query_limit(query.get("limit"), 10_000, 10_000)
        newest = query.get("order", "desc") != "asc"
        purpose = query.get("purpose")
        files = await self.keeper.call(
            self.keeper.files.list_files, query.get("after"), limit + 1, purpose, newest
        )
        return JSONResponse(list_object([file_object(file) for file in files], limit))

    async def _file(self, request: Request) -> File:
        return await self.keeper.call(self.keeper.files.get, request.path_params["file_id"])

    async def file(self, request: Request) -> Response:
        return JSONResponse(file_object(await self._file(request)))

    async def delete_file(self, request: Request) -> Response:
        name = request.path_params["file_id"]
        await self.keeper.call(self.keeper.files.delete, name)
        return JSONResponse({"id": name, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file = await self._file(request)

        async def pieces() -> AsyncIterator[bytes]:
            after = -1
            while True:
                piece, after = await self.keeper.call(self.keeper.files.content, file, after)
                if not piece:
                    return
                yield piece

        return StreamingResponse(pieces(), media_type="application/octet-stream")

    # -- batches ---------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """Store a job. Its lines are read in afterwards, and it begins when they are."""
        body = await read_body(request, MAX_BATCH_BODY, self.body_timeout_s)
        wanted = order(parse(body, _batch_decoder))
        file = await self.keeper.call(self.keeper.files.get, wanted.input_file)
        if file.part is not None or file.purpose != "batch":
            raise invalid("input_file_id", "the file was not uploaded with purpose 'batch'")
        self.keeper.check_room()
        name = f"batch_{secrets.token_hex(16)}"
        job = await self.keeper.call(self.keeper.jobs.create, name, wanted)
        self.keeper.notify()
        return JSONResponse(batch_object(job, self.api.model))

    async def list_batches(self, request: Request) -> Response:
        query = request.query_params
        limit = query_limit(query.get("limit"), 20, 100)
        jobs = await self.keeper.call(self.keeper.jobs.list_jobs, query.get("after"), limit + 1)
        objects = [batch_object(job, self.api.model) for job in jobs]
        return JSONResponse(list_object(objects, limit))

    async def batch(self, request: Request) -> Response:
        job = await self.keeper.call(self.keeper.jobs.job, request.path_params["batch_id"])
        return JSONResponse(batch_object(job, self.api.model))

    async def cancel(self, request: Request) -> Response:
        """Stop a job: nothing of it runs any more when this is answered."""
        await self.runner.cancel(request.path_params["batch_id"])
        return await self.batch(request)


async def _patient(
    request: Request, patience: asyncio.Timeout, timeout_s: float
) -> AsyncIterator[bytes]:
    """The body; each piece may take so long, not the whole."""
    loop = asyncio.get_running_loop()
    patience.reschedule(loop.time() + timeout_s)
    async for chunk in request.stream():
        patience.reschedule(loop.time() + timeout_s)
        yield chunk


def _expiry(fields: dict[str, str]) -> float | None:
    """OpenAI's `expires_after`, as its form fields."""
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", seconds):
        raise invalid("expires_after[seconds]", "give a number of seconds")
    return time.time() + int(seconds)


def as_api_error(error: Exception) -> OpenAIError | None:
    """What an error of the store is for a client; None if it is of another kind."""
    match error:
        case JobError(code=code) | FileError(code=code):
            param = "batch_id" if isinstance(error, JobError) else "file_id"
            return OpenAIError(STATUS.get(code, 400), str(error), param=param, code=code)
        case DiskFullError():
            return OpenAIError(507, str(error), code="disk_full")
        case OSError(errno=errno.ENOSPC | errno.EFBIG | errno.EDQUOT):
            return OpenAIError(
                507, f"The file cannot be stored: {error.strerror}", code="disk_full"
            )
        case sqlite3.Error():
            return OpenAIError(500, f"Batch jobs cannot be stored: {error}", code="storage_failed")
        case TimeoutError():
            return OpenAIError(408, "The body came too slowly", param="body", code="timeout")
        case _:
            return None
