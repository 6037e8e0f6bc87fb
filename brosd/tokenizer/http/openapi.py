"""`/openapi.json`: the API described by the structs that parse it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bros import __version__
from bros.brosd.tokenizer.http.endpoint import JSON, Endpoint
from bros.brosd.tokenizer.openai.errors import Json
from bros.brosd.tokenizer.openai.schema import NotYet

REF = "#/components/schemas/{name}"
# What can happen to any request.
REFUSALS = {
    400: "The request is wrong; the error names the field",
    401: "An API key is required, or this one is unknown",
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


def document(endpoints: Sequence[Endpoint], model: str) -> Json:
    """The OpenAPI 3.1 document of a server of `model`."""
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "BROS", "version": __version__},
        "paths": paths,
        "security": [{"key": []}],
        "components": {
            "schemas": _schemas([endpoint.body for endpoint in endpoints if endpoint.body], model),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(bodies: list[type], model: str) -> dict[str, Json]:
    _, schemas = msgspec.json.schema_components(bodies, ref_template=REF)
    for body in bodies:
        if issubclass(body, NotYet):
            for name in NotYet.__struct_fields__:  # known, in order to be refused
                schemas[body.__name__]["properties"].pop(name)
    for schema in schemas.values():
        if "model" in schema["properties"]:
            schema["properties"]["model"] = {"enum": [model]}
    return {**schemas, "Error": ERROR_SCHEMA}


def _operation(endpoint: Endpoint, path: str) -> Json:
    operation: Json = {"summary": endpoint.summary, "responses": _responses(endpoint)}
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    in_path = [_parameter(name, "path", {"type": "string", "minLength": 1}) for name in names]
    in_query = [_parameter(name, "query", schema) for name, schema in endpoint.query.items()]
    if parameters := in_path + in_query:
        operation["parameters"] = parameters
    if endpoint.body:
        reference = {"$ref": REF.format(name=endpoint.body.__name__)}
        operation["requestBody"] = _request_body(JSON, reference)
    if endpoint.form:
        operation["requestBody"] = _request_body("multipart/form-data", endpoint.form)
    if not endpoint.needs_key:
        operation["security"] = []
    return operation


def _request_body(kind: str, schema: Json) -> Json:
    return {"required": True, "content": {kind: {"schema": schema}}}


def _parameter(name: str, where: str, schema: Json) -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _responses(endpoint: Endpoint) -> Json:
    error = {JSON: {"schema": {"$ref": REF.format(name="Error")}}}
    refusals = {
        str(status): {"description": text, "content": error} for status, text in REFUSALS.items()
    }
    if endpoint.path in ("/health", "/ping"):  # the body is the state, ready or not
        refusals["503"] = {"description": "Not ready", "content": {JSON: {}}}
    good = {"description": "Done", "content": {kind: {} for kind in endpoint.answers}}
    return {"200": good, **refusals}
