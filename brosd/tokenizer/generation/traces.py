"""Traces for OpenTelemetry, if `traces.endpoint` is set: a span for each request, from its arrival
to its last token. A client's `traceparent` becomes its parent. Names are those of OpenTelemetry's
conventions for generative AI; ours begin with `bros.`.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from bros.brosd.config import TracesConfig
from bros.brosd.tokenizer.generation.live_requests import LiveRequest

log = logging.getLogger(__name__)


class TracesError(ValueError):
    """Traces are configured and cannot be made; the text says what to install."""


class Tracer:
    """Sends spans from a thread of its own; drops what the endpoint does not take in time."""

    def __init__(self, config: TracesConfig, model: str) -> None:
        """Raise TracesError if the packages are not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise TracesError(
                f"traces.endpoint needs a package that is not here ({error.name}): install "
                "brosd[otel], or leave traces.endpoint empty"
            ) from None
        resource = Resource.create({"service.name": config.service})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=config.endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("bros")
        self._propagator = TraceContextTextMapPropagator()
        self._server, self._error = SpanKind.SERVER, StatusCode.ERROR
        self._model = model
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    def record(self, request: LiveRequest, reason: str) -> None:
        """Record a request that is over. `reason` is "stop", "length", "abort" or "error"."""
        submission = request.submission
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "generate",
            "gen_ai.request.model": self._model,
            "gen_ai.request.max_tokens": submission.max_tokens,
            "gen_ai.request.temperature": submission.sampling.temperature,
            "gen_ai.usage.input_tokens": len(submission.prompt),
            "gen_ai.usage.output_tokens": request.num_tokens,
            "gen_ai.response.finish_reasons": [reason],
            "bros.class": submission.klass.name.lower(),
        }
        if submission.slo is not None:
            attributes["bros.slo.ttft_s"] = submission.slo.ttft_s
            attributes["bros.slo.tpot_s"] = submission.slo.tpot_s
        if request.first_s is not None:
            attributes["bros.ttft_s"] = request.first_s - submission.arrived_s
        span = self._tracer.start_span(
            "generate",
            context=self._propagator.extract(request.caller),
            kind=self._server,
            attributes=attributes,
            start_time=self._unix_ns(submission.arrived_s),
        )
        if request.first_s is not None:
            span.add_event("first token", timestamp=self._unix_ns(request.first_s))
        if reason == "error":
            span.set_status(self._error)
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _unix_ns(self, monotonic_s: float) -> int:
        return self._epoch_ns + int(monotonic_s * 1e9)
