"""What a run measured: streams of RT requests, throughput of BE, and what the KV cache did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmarks.simulate.trace import Floats, Trace
from bros.brosd.protocol.wire import Slo
from bros.kv import KvCounters


@dataclass(frozen=True)
class Answers:
    """One element for each RT request; infinite where no answer was given in time.

    `ttft_s` and `e2e_s` count from arrival. `tpot_s` is the mean time between tokens, `pace_s` the
    slowest pace since the first token: the maximum over k of (when token k came - when the first
    came) / k. `tpot_s` and `pace_s` are 0 for answers of one token.
    """

    ttft_s: Floats
    tpot_s: Floats
    pace_s: Floats
    e2e_s: Floats

    def __len__(self) -> int:
        return len(self.ttft_s)

    def attained(self, slo: Slo) -> float:
        """Return the share of requests whose first token and mean pace met the objectives."""
        return self._share((self.ttft_s <= slo.ttft_s) & (self.tpot_s <= slo.tpot_s))

    def attained_finely(self, slo: Slo) -> float:
        """Return the share of requests in which no token came later than it was due."""
        return self._share((self.ttft_s <= slo.ttft_s) & (self.pace_s <= slo.tpot_s))

    def _share(self, met: np.typing.NDArray[np.bool_]) -> float:
        return float(met.mean()) if len(met) else float("nan")


@dataclass(frozen=True)
class Outcome:
    """One run. Rates are in tokens/s; each token counts once, however often it was computed."""

    rt: Answers
    be_prompt_rate: float
    be_output_rate: float
    iterations: int
    iteration_s: float  # mean
    cost_error: float  # mean relative error of the scheduler's predictions, at the end
    kv: KvCounters
    virtual_s: float
    cpu_s: float

    @property
    def be_rate(self) -> float:
        """Prompt and output tokens of BE per second."""
        return self.be_prompt_rate + self.be_output_rate


@dataclass
class Streams:
    """Records when each RT request got its tokens."""

    trace: Trace
    num_open: int = field(init=False)  # requests without their last token

    def __post_init__(self) -> None:
        count = len(self.trace)
        self.num_open = count
        self._outputs = self.trace.outputs.tolist()
        self._num_tokens = [0] * count
        self._first_s = [np.inf] * count
        self._last_s = [np.inf] * count
        self._pace_s = [0.0] * count

    def token(self, rid: int, now_s: float) -> None:
        """Note that the next token of request `rid` came."""
        count = self._num_tokens[rid]
        self._num_tokens[rid] = count + 1
        if count == 0:
            self._first_s[rid] = now_s
        else:
            pace_s = (now_s - self._first_s[rid]) / count
            if pace_s > self._pace_s[rid]:
                self._pace_s[rid] = pace_s
        if count + 1 == self._outputs[rid]:
            self._last_s[rid] = now_s
            self.num_open -= 1

    def since(self, start_s: float) -> Answers:
        """Return the answers of the requests that arrived after `start_s`."""
        arrivals_s = self.trace.arrivals_s
        first_s, last_s = np.array(self._first_s), np.array(self._last_s)
        gaps = np.maximum(1, self.trace.outputs - 1)
        with np.errstate(invalid="ignore"):
            tpot_s = np.where(np.isfinite(last_s), (last_s - first_s) / gaps, np.inf)
        pace_s = np.where(np.isfinite(last_s), np.array(self._pace_s), np.inf)
        wanted = arrivals_s >= start_s
        columns = (first_s - arrivals_s, tpot_s, pace_s, last_s - arrivals_s)
        return Answers(*(column[wanted] for column in columns))
