"""One line of a batch job: OpenAI's input line in, OpenAI's output line out."""

from __future__ import annotations

import uuid
from typing import Any, Literal

import msgspec

from bros.brosd.protocol.batch_lines import MAX_LINE_BYTES, TOO_LARGE_URL
from bros.brosd.tokenizer.jobs.job import Line, Outcome, custom_id_of
from bros.brosd.tokenizer.openai.errors import OpenAIError, invalid
from bros.brosd.tokenizer.openai.parsing import parse
from bros.brosd.tokenizer.openai.service import URLS


class BatchLine(msgspec.Struct):
    """An input line. `body` stays JSON: it is checked like that of any other request."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _AnswerUsage(msgspec.Struct):
    usage: _Usage


_line_decoder = msgspec.json.Decoder(BatchLine)
_usage_decoder = msgspec.json.Decoder(_AnswerUsage)


def read(line: Line) -> BatchLine:
    """The request of a line. Raise OpenAIError if anything but its body is wrong."""
    batch_line = parse(line.content, _line_decoder)
    if batch_line.url == TOO_LARGE_URL:
        message = f"The line is too large: at most {MAX_LINE_BYTES - 1} bytes fit"
        raise OpenAIError(413, message, code="line_too_large")
    if batch_line.url not in URLS:
        raise invalid("url", f"not one of {', '.join(URLS)}")
    if line.endpoint not in (None, batch_line.url):
        raise invalid("url", f"the batch was created for {line.endpoint}", "mismatched_url")
    if line.is_duplicate:
        problem = f"an earlier line of the job is '{batch_line.custom_id}' too"
        raise invalid("custom_id", problem, "duplicate_custom_id")
    return batch_line


def answered(line: Line, custom_id: str, body: bytes) -> Outcome:
    """The line was answered with `body`."""
    usage = _usage_decoder.decode(body).usage
    result = _output(custom_id, _response(200, msgspec.Raw(body)), None)
    return Outcome(
        job=line.job,
        number=line.number,
        result=result,
        ok=True,
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
    )


def failed(line: Line, custom_id: str, error: OpenAIError) -> Outcome:
    """The request of the line was refused."""
    result = _output(custom_id, _response(error.status, error.content), None)
    return Outcome(line.job, line.number, result, ok=False)


def unreadable(line: Line, error: OpenAIError) -> Outcome:
    """The line holds no request."""
    content = {"code": error.code, "message": error.message, "param": error.param}
    result = _output(custom_id_of(line.content), None, content)
    return Outcome(line.job, line.number, result, ok=False)


def expired(line: Line) -> Outcome:
    """The job's time was up before the line was done."""
    message = "The completion window of the batch ended before this request was executed"
    content = {"code": "batch_expired", "message": message, "param": None}
    result = _output(custom_id_of(line.content), None, content)
    return Outcome(line.job, line.number, result, ok=False)


def _response(status: int, body: Any) -> dict[str, Any]:
    return {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": body}


def _output(custom_id: str | None, response: Any, error: Any) -> bytes:
    return msgspec.json.encode(
        {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
    )
