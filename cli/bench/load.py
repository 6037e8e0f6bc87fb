"""Send a workload to a server and note when each token comes. RT is open loop, BE closed loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from bros.cli.bench.workload import Arrival, Workload, body

PATIENCE_S = 120.0  # to wait for RT answers after the end; later ones count as failed
URL = "/v1/completions"


@dataclass(frozen=True)
class Objectives:
    """What RT requests ask for, in seconds."""

    ttft_s: float
    tpot_s: float


@dataclass
class Record:
    """One RT request as its client saw it. Times are in seconds since it was sent."""

    at_s: float  # since the start of the run
    prompt_tokens: int
    output_tokens: int = 0
    ttft_s: float | None = None
    e2e_s: float | None = None
    error: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first."""
        if self.ttft_s is None or self.e2e_s is None:
            return None
        return (self.e2e_s - self.ttft_s) / max(1, self.output_tokens - 1)

    def met(self, slo: Objectives) -> bool:
        """Whether its whole answer came in time."""
        if self.ttft_s is None or self.tpot_s is None or self.error:
            return False
        return self.ttft_s <= slo.ttft_s and self.tpot_s <= slo.tpot_s


@dataclass(frozen=True)
class Iterations:
    """What a BROS daemon reports about its iterations."""

    scheduling_s: float  # the daemon's own time in an iteration, mean
    prediction_error: float  # |predicted - measured| / measured, mean over recent iterations
    prediction_error_p95: float


@dataclass
class Seen:
    """All measurements of one run of a workload."""

    duration_s: float
    rt: list[Record] = field(default_factory=list)
    be_events: int = 0  # pieces of BE answers within the duration; most pieces are one token
    be_finished_events: int = 0
    be_finished_tokens: int = 0
    be_finished: int = 0
    be_errors: int = 0
    client_cpu_s: float = 0.0
    iterations: Iterations | None = None

    @property
    def be_tokens_per_s(self) -> float:
        """Output tokens/s; the usage of finished answers says how many tokens a piece has."""
        pieces = self.be_finished_events or 1
        weight = self.be_finished_tokens / pieces if self.be_finished_tokens else 1.0
        return self.be_events * weight / self.duration_s


class Event(msgspec.Struct):
    """The parts of a streamed piece that are used here."""

    choices: list[Any] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_event = msgspec.json.Decoder(Event)


class LoadGenerator:
    """One run of a workload against the server at `url`."""

    def __init__(
        self, url: str, model: str, workload: Workload, slo: Objectives, in_flight: int
    ) -> None:
        self._url = url
        self._model = model
        self._workload = workload
        self._slo = slo
        self._in_flight = in_flight
        self._began_s = 0.0
        self.seen = Seen(workload.duration_s)

    async def run(self) -> Seen:
        """Send everything and wait for all RT answers; BE requests are dropped at the end."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=None, limits=limits) as client:
            self._began_s, cpu_s = time.monotonic(), time.process_time()
            be = [asyncio.create_task(self._be(client, i)) for i in range(self._in_flight)]
            rt = [asyncio.create_task(self._rt(client, i, a)) for i, a in self._arrivals()]
            await asyncio.sleep(self._workload.duration_s)
            self.seen.client_cpu_s = time.process_time() - cpu_s
            for task in be:
                task.cancel()
            await asyncio.gather(*be, return_exceptions=True)
            if rt:
                _, open_ = await asyncio.wait(rt, timeout=PATIENCE_S)
                for task in open_:
                    task.cancel()
                await asyncio.gather(*rt, return_exceptions=True)
        return self.seen

    def _arrivals(self) -> list[tuple[int, Arrival]]:
        return list(enumerate(self._workload.arrivals()))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    async def _rt(self, client: httpx.AsyncClient, index: int, arrival: Arrival) -> None:
        record = Record(arrival.at_s, arrival.lengths.prompt)
        self.seen.rt.append(record)
        request = body(arrival.lengths, f"rt {self._workload.seed} {index}", self._model)
        request["slo"] = {"ttft_ms": 1000 * self._slo.ttft_s, "tpot_ms": 1000 * self._slo.tpot_s}
        await asyncio.sleep(max(0.0, arrival.at_s - self._elapsed_s()))
        sent_s = time.monotonic()
        try:
            async for event in _stream(client, request):
                if event.choices:
                    record.e2e_s = time.monotonic() - sent_s
                    record.output_tokens += 1
                    record.ttft_s = record.e2e_s if record.ttft_s is None else record.ttft_s
                if event.usage:
                    record.output_tokens = event.usage["completion_tokens"]
        except asyncio.CancelledError:
            record.error = "no answer in time"
        except (httpx.HTTPError, ServerError) as error:
            record.error = str(error) or type(error).__name__

    async def _be(self, client: httpx.AsyncClient, index: int) -> None:
        for number, lengths in enumerate(self._workload.be_lengths(index)):
            request = body(lengths, f"be {self._workload.seed} {index} {number}", self._model)
            request["service_tier"] = "flex"
            events = 0
            try:
                async for event in _stream(client, request):
                    events += bool(event.choices)
                    self.seen.be_events += bool(event.choices)
                    if event.usage:
                        self.seen.be_finished += 1
                        self.seen.be_finished_events += events
                        self.seen.be_finished_tokens += event.usage["completion_tokens"]
            except (httpx.HTTPError, ServerError):
                self.seen.be_errors += 1
                await asyncio.sleep(1.0)  # do not ask a server that refuses in a hot loop


class ServerError(RuntimeError):
    """The server answered with an error; the text is the server's."""


async def _stream(client: httpx.AsyncClient, request: dict[str, Any]) -> AsyncIterator[Event]:
    """Yield the server-sent events of the answer. Raise ServerError if the request is refused."""
    async with client.stream("POST", URL, json=request) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode(errors="replace")
            raise ServerError(f"HTTP {response.status_code}: {text[:200]}")
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                event = _event.decode(line[6:])
                if event.error:
                    raise ServerError(str(event.error.get("message")))
                yield event
