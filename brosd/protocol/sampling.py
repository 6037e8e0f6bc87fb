"""How tokens are drawn, what is reported of the draw, and when a request should have them."""

from __future__ import annotations

from enum import IntEnum

from bros.brosd.protocol.base import Part


class FinishReason(IntEnum):
    """Why a request ended; NONE while it goes on."""

    NONE = 0
    STOP = 1
    LENGTH = 2


class Slo(Part):
    """Latency objectives of one real-time request, in seconds."""

    ttft_s: float
    tpot_s: float


class Sampling(Part):
    """How the next token is drawn. `temperature == 0` is greedy; `top_k == 0` is off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    logprobs: int | None = (
        None  # how many of the likeliest tokens to report with each; None: none at all
    )
    grammar: str = ""  # in llguidance's syntax; only tokens that it allows are drawn


class Logprobs(Part):
    """Natural log probabilities of the token at `index` of its message and of the likeliest."""

    index: int
    logprob: float
    top_ids: bytes
    top: bytes  # float32
