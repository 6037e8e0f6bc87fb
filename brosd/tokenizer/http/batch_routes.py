"""`/v1/files` and `/v1/batches`: OpenAI's URLs over the jobs and files of the store."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from bros.brosd.tokenizer.http.body import read_body, unfinished
from bros.brosd.tokenizer.http.endpoint import Endpoint
from bros.brosd.tokenizer.http.upload import BUFFER_BYTES, UploadForm
from bros.brosd.tokenizer.jobs.line_runner import BatchLineRunner
from bros.brosd.tokenizer.jobs.store import JobStore
from bros.brosd.tokenizer.openai.batch_objects import (
    BatchRequest,
    batch_object,
    file_object,
    job_spec,
    list_object,
    query_limit,
)
from bros.brosd.tokenizer.openai.errors import Json, OpenAIError, invalid
from bros.brosd.tokenizer.openai.parsing import parse
from bros.brosd.tokenizer.openai.service import OpenAIService

PURPOSES = ("batch", "user_data", "assistants", "fine-tune", "vision", "evals")
MAX_BATCH_BODY = 64 * 1024
MAX_BATCHES = 100  # in one page
MAX_FILES = 10_000  # in one page
PIECE_BYTES = 256 * 1024  # of an upload, must come within `body_timeout_s`
UPLOAD_FORM: Json = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": list(PURPOSES)},
    },
}

_batch_decoder = msgspec.json.Decoder(BatchRequest)


@dataclass(frozen=True)
class BatchRoutes:
    """The endpoints. They raise the errors of the store as they are."""

    store: JobStore
    runner: BatchLineRunner
    api: OpenAIService
    max_file_bytes: int
    body_timeout_s: float

    def endpoints(self) -> list[Endpoint]:
        one_file, one_batch = "/v1/files/{file_id}", "/v1/batches/{batch_id}"
        return [
            Endpoint("POST", "/v1/files", self.upload, "Upload a file", form=UPLOAD_FORM),
            Endpoint(
                "GET",
                "/v1/files",
                self.list_files,
                "Uploaded files, and the results of batches",
                query={
                    **_pages(MAX_FILES),
                    "order": {"enum": ["asc", "desc"]},
                    "purpose": {"type": "string"},
                },
            ),
            Endpoint("GET", one_file, self.file, "One file"),
            Endpoint("DELETE", one_file, self.delete_file, "Delete a file"),
            Endpoint(
                "GET",
                f"{one_file}/content",
                self.content,
                "The content of a file",
                answers=("application/octet-stream",),
            ),
            Endpoint("POST", "/v1/batches", self.create, "Create a batch job", body=BatchRequest),
            Endpoint(
                "GET",
                "/v1/batches",
                self.list_batches,
                "Batch jobs, newest first",
                query=_pages(MAX_BATCHES),
            ),
            Endpoint("GET", one_batch, self.batch, "One batch job"),
            Endpoint(
                "POST",
                f"{one_batch}/cancel",
                self.cancel,
                "Stop a batch job; what is done stays",
            ),
        ]

    # -- files -----------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """Store a file; it is durable when this is answered."""
        await self.store.check_room(int(request.headers.get("content-length") or 0))
        incoming = await self.store.new_file()
        try:
            form = UploadForm(
                request.headers.get("content-type", ""), incoming.write, self.max_file_bytes
            )
            await self._read_form(form, request)
            purpose = form.fields.get("purpose", "")
            if purpose not in PURPOSES:
                raise invalid("purpose", f"not one of {', '.join(PURPOSES)}")
            expires_s = _expiry(form.fields)
            file = await incoming.keep(form.filename or "upload", purpose, expires_s)
        except BaseException:
            await incoming.discard()
            raise
        return JSONResponse(file_object(file))

    async def _read_form(self, form: UploadForm, request: Request) -> None:
        """Each `PIECE_BYTES` may take `body_timeout_s`; the whole may take longer."""
        timeout = asyncio.timeout(None)
        try:
            with unfinished(request, timeout) as count:
                async with timeout:
                    await form.read(_restarting(request, timeout, self.body_timeout_s, count))
        except TimeoutError:
            message = (
                f"{PIECE_BYTES} bytes of the body did not come within {self.body_timeout_s:.0f} s "
                "(server.body_timeout_s)"
            )
            raise OpenAIError(408, message, param="body", code="timeout") from None

    async def list_files(self, request: Request) -> Response:
        query = request.query_params
        limit = query_limit(query.get("limit"), MAX_FILES, MAX_FILES)
        newest = query.get("order", "desc") != "asc"
        purpose = query.get("purpose")
        files = await self.store.files(query.get("after"), limit + 1, purpose, newest)
        return JSONResponse(list_object([file_object(file) for file in files], limit))

    async def file(self, request: Request) -> Response:
        return JSONResponse(file_object(await self.store.file(request.path_params["file_id"])))

    async def delete_file(self, request: Request) -> Response:
        name = request.path_params["file_id"]
        await self.store.delete_file(name)
        return JSONResponse({"id": name, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file = await self.store.file(request.path_params["file_id"])

        async def pieces() -> AsyncIterator[bytes]:
            after = -1
            while True:
                piece, after = await self.store.file_piece(file, after)
                if not piece:
                    return
                yield piece

        return StreamingResponse(pieces(), media_type="application/octet-stream")

    # -- batches ---------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """Store a job. Its lines are read in afterwards; then it begins."""
        body = await read_body(request, MAX_BATCH_BODY, self.body_timeout_s)
        spec = job_spec(parse(body, _batch_decoder))
        file = await self.store.file(spec.input_file)
        if file.part is not None or file.purpose != "batch":
            raise invalid("input_file_id", "the file was not uploaded with purpose 'batch'")
        await self.store.check_room()
        name = f"batch_{secrets.token_hex(16)}"
        job = await self.store.create_job(name, spec)
        return JSONResponse(batch_object(job, self.api.model))

    async def list_batches(self, request: Request) -> Response:
        query = request.query_params
        limit = query_limit(query.get("limit"), 20, MAX_BATCHES)
        jobs = await self.store.jobs(query.get("after"), limit + 1)
        objects = [batch_object(job, self.api.model) for job in jobs]
        return JSONResponse(list_object(objects, limit))

    async def batch(self, request: Request) -> Response:
        job = await self.store.job(request.path_params["batch_id"])
        return JSONResponse(batch_object(job, self.api.model))

    async def cancel(self, request: Request) -> Response:
        """Stop a job: nothing of it runs any more when this is answered."""
        await self.runner.cancel(request.path_params["batch_id"])
        return await self.batch(request)


def _pages(most: int) -> dict[str, Json]:
    """The query of a list that comes in pages."""
    return {
        "after": {"type": "string"},
        "limit": {"type": "integer", "minimum": 1, "maximum": most},
    }


async def _restarting(
    request: Request, timeout: asyncio.Timeout, timeout_s: float, count: Callable[[int], None]
) -> AsyncIterator[bytes]:
    """What comes of the body; the timeout starts again after each `PIECE_BYTES`.

    Only as much is counted as is in memory at a time.
    """
    loop = asyncio.get_running_loop()
    timeout.reschedule(loop.time() + timeout_s)
    piece_bytes = counted_bytes = 0
    async for chunk in request.stream():
        new_bytes = min(len(chunk), BUFFER_BYTES - counted_bytes)
        count(new_bytes)
        counted_bytes += new_bytes
        piece_bytes += len(chunk)
        if piece_bytes >= PIECE_BYTES:
            piece_bytes = 0
            timeout.reschedule(loop.time() + timeout_s)
        yield chunk


def _expiry(fields: dict[str, str]) -> float | None:
    """When a file expires by OpenAI's `expires_after`, as a Unix time; None if never."""
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", seconds):
        raise invalid("expires_after[seconds]", "give a number of seconds")
    return time.time() + int(seconds)
