"""`/openapi.json`: the API described by the structs that parse it."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from bros import __version__
from bros.brosd.tokenizer.http.batch_routes import PURPOSES
from bros.brosd.tokenizer.openai.batch_objects import BatchRequest
from bros.brosd.tokenizer.openai.errors import Json
from bros.brosd.tokenizer.openai.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    NotYet,
    TokenizeRequest,
)

REF = "#/components/schemas/{name}"
BODIES: dict[str, type] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/batches": BatchRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
STREAMING = ("/v1/chat/completions", "/v1/completions")
# Paths without a body, and what they do.
GETS = {
    "/v1/models": "The models that are served: one",
    "/v1/models/{model}": "One model",
    "/v1/files": "Uploaded files, and the results of batches",
    "/v1/files/{file_id}": "One file",
    "/v1/files/{file_id}/content": "The content of a file",
    "/v1/batches": "Batch jobs, newest first",
    "/v1/batches/{batch_id}": "One batch job",
    "/health": "The state of the daemon; 503 unless it is ready",
    "/ready": "Whether requests are taken and served now; an error if not",
    "/metrics": "Statistics, for Prometheus",
}
OPEN_PATHS = ("/health", "/ready")  # for probes, which have no key
PLAIN = {"/metrics": "text/plain", "/v1/files/{file_id}/content": "application/octet-stream"}
QUERIES: dict[str, dict[str, Json]] = {
    "/v1/batches": {
        "after": {"type": "string"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100},
    },
    "/v1/files": {
        "after": {"type": "string"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 10_000},
        "order": {"enum": ["asc", "desc"]},
        "purpose": {"type": "string"},
    },
}
# What can happen to any request.
REFUSALS = {
    400: "The request is wrong; the error names the field",
    401: "An API key is required, or this is none",
    404: "There is no such thing",
    405: "The URL takes other methods",
    408: "The body came too slowly",
    409: "The file is in use",
    413: "The body is too large",
    429: "Too many requests wait: try again after Retry-After seconds",
    503: "The server starts or stops: try again",
    507: "The disk is full",
}
ERROR_SCHEMA: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


@cache
def document(model: str) -> Json:
    """The OpenAPI 3.1 document of a server of `model`."""
    _, components = msgspec.json.schema_components(list(BODIES.values()), ref_template=REF)
    for name in ("ChatRequest", "CompletionRequest"):
        for field in NotYet.__struct_fields__:  # known, in order to be refused
            components[name]["properties"].pop(field)
    for component in components.values():
        if "model" in component["properties"]:
            component["properties"]["model"] = {"enum": [model]}
    components["Error"] = ERROR_SCHEMA
    paths: dict[str, Json] = {}
    for path, summary in GETS.items():
        paths.setdefault(path, {})["get"] = _operation(path, summary)
    for path, body in BODIES.items():
        content = {"application/json": {"schema": {"$ref": REF.format(name=body.__name__)}}}
        post = _operation(path, (body.__doc__ or "").strip().splitlines()[0])
        post.pop("parameters", None)
        paths.setdefault(path, {})["post"] = post | {
            "requestBody": {"required": True, "content": content}
        }
    paths["/v1/files"]["post"] = _upload()
    paths["/v1/files/{file_id}"]["delete"] = _operation("/v1/files/{file_id}", "Delete a file")
    cancel = "/v1/batches/{batch_id}/cancel"
    paths[cancel] = {"post": _operation(cancel, "Stop a batch job; what is done stays")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "BROS", "version": __version__},
        "paths": paths,
        "security": [{"key": []}],
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _upload() -> Json:
    form = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": {"enum": list(PURPOSES)},
        },
    }
    body = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    upload = _operation("/v1/files", "Upload a file")
    upload.pop("parameters", None)
    return upload | {"requestBody": body}


def _operation(path: str, summary: str) -> Json:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    in_path = [_parameter(name, "path", {"type": "string", "minLength": 1}) for name in names]
    in_query = [_parameter(name, "query", schema) for name, schema in QUERIES.get(path, {}).items()]
    parameters = in_path + in_query
    operation: dict[str, Any] = {"summary": summary, "responses": _responses(path)}
    if parameters:
        operation["parameters"] = parameters
    if path in OPEN_PATHS:
        operation["security"] = []
    return operation


def _parameter(name: str, where: str, schema: Json) -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _responses(path: str) -> Json:
    kinds = [PLAIN.get(path, "application/json")]
    if path in STREAMING:
        kinds.append("text/event-stream")
    error = {"application/json": {"schema": {"$ref": REF.format(name="Error")}}}
    refusals = {
        str(status): {"description": text, "content": error} for status, text in REFUSALS.items()
    }
    if path == "/health":  # which tells the state, ready or not
        refusals["503"] = {"description": "Not ready", "content": {"application/json": {}}}
    good = {"description": "Done", "content": {kind: {} for kind in kinds}}
    return {"200": good, **refusals}
