"""OpenTelemetry spans, as a collector gets them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from harness import MODEL, MakeServer, wait_until

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
QUESTION = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 5,
    "temperature": 0,
}


class Collector(ThreadingHTTPServer):
    """Collects the spans that are posted to any URL."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Collect)
        self.spans: list[Span] = []


class Collect(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def value(of: AnyValue) -> object:
    if of.HasField("array_value"):
        return [value(item) for item in of.array_value.values]
    return getattr(of, of.WhichOneof("value") or "string_value")


@pytest.mark.slow
def test_each_request_is_a_span_below_its_clients(
    make_server: MakeServer, collector: Collector
) -> None:
    """A span tells class, number of tokens and time of the first, even if the client leaves."""
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    server = make_server(f"traces.endpoint={endpoint}")
    url = f"{server.url}/v1/chat/completions"
    parent = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
    answer = httpx.post(url, json=QUESTION, headers=parent, timeout=60).json()
    batch = {**QUESTION, "service_tier": "flex"}
    assert httpx.post(url, json=batch, timeout=60).status_code == 200
    endless = {**QUESTION, "stream": True, "max_tokens": 1000}
    with httpx.stream("POST", url, json=endless, timeout=60) as stream:
        next(stream.iter_lines())
    wait_until(lambda: len(collector.spans) == 3)
    first, second, left = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
    assert first.trace_id.hex() == TRACE_ID
    assert first.parent_span_id.hex() == SPAN_ID
    assert not second.parent_span_id
    told = {item.key: value(item.value) for item in first.attributes}
    assert told["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
    assert told["gen_ai.response.finish_reasons"] == [answer["choices"][0]["finish_reason"]]
    assert told["bros.class"] == "rt"
    assert told["bros.slo.ttft_s"] == 0.5
    (token,) = first.events
    assert first.start_time_unix_nano < token.time_unix_nano <= first.end_time_unix_nano
    assert "be" in [value(item.value) for item in second.attributes if item.key == "bros.class"]
    assert "bros.slo.ttft_s" not in [item.key for item in second.attributes]
    reasons = [i.value for i in left.attributes if i.key == "gen_ai.response.finish_reasons"]
    assert [value(reason) for reason in reasons] == [["abort"]]
    assert first.status.code == Status.STATUS_CODE_UNSET


def test_without_the_packages_the_daemon_says_what_to_install(
    make_server: MakeServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    hidden = tmp_path_factory.mktemp("hidden")
    (hidden / "opentelemetry").mkdir()
    (hidden / "opentelemetry" / "__init__.py").write_text("raise ImportError(name='opentelemetry')")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    server = make_server("traces.endpoint=http://127.0.0.1:4318/v1/traces", start=False)
    done = server.start()
    assert done.returncode != 0
    assert "brosd[otel]" in done.stderr + done.stdout
