"""Draws have the right probabilities, and depend on nothing but seed, position and logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bros.brosd.wire import Sampling
from bros.workers.likeliest import likeliest
from bros.workers.sampler import Draw, candidates, choose, draw_all, gumbel, sample

KNOWN = np.array([3, 1, 4, 1], dtype=np.int32)


def draw(sampling: Sampling, tokens: np.ndarray = KNOWN, num_prompt: int = 2) -> Draw:
    return Draw(sampling, tokens, num_prompt)


def make_logits(rows: int, vocabulary: int = 50, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = make_logits(4)
    greedy = Sampling(temperature=0.0, top_k=3, top_p=0.5, seed=9)
    assert sample(logits.clone(), [draw(greedy)] * 4).equal(logits.argmax(-1))


def test_draws_have_the_probabilities_of_the_logits() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    counts = torch.zeros(5)
    num_draws = 4_000
    for seed in range(num_draws):
        counts[sample(logits[None].clone(), [draw(Sampling(seed=seed))])] += 1
    expected = logits.softmax(0) * num_draws
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 18.5  # 4 degrees of freedom: one in a thousand, for fixed seeds


def test_noise_is_gumbels_over_a_whole_vocabulary_and_over_positions() -> None:
    for noise in (
        gumbel(5, 17, 200_000),
        torch.stack([gumbel(5, position, 8)[3] for position in range(4_000)]),
    ):
        uniform = (-(-noise).exp()).exp().sort().values
        steps = (torch.arange(len(noise)) + 0.5) / len(noise)
        assert (uniform - steps).abs().max() < 2 / len(noise) ** 0.5  # Kolmogorov-Smirnov
        assert noise.isfinite().all()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(seed=1), Sampling(temperature=0.7, top_k=8, top_p=0.8, min_p=0.05, seed=1)],
)
def test_a_draw_is_the_same_in_any_company(sampling: Sampling) -> None:
    logits = make_logits(6)
    alone = sample(logits[2:3].clone(), [draw(sampling)])
    others = [draw(Sampling(temperature=t, seed=t)) for t in range(5)]
    together = sample(logits.clone(), [*others[:2], draw(sampling), *others[2:]])
    assert together[2] == alone[0]


def test_position_and_seed_both_matter() -> None:
    logits = torch.zeros(1, 1000)
    by_seed = {int(sample(logits.clone(), [draw(Sampling(seed=s))])) for s in range(20)}
    longer = [np.zeros(n, np.int32) for n in range(1, 20)]
    by_position = {int(sample(logits.clone(), [draw(Sampling(), tokens)])) for tokens in longer}
    assert len(by_seed) > 10
    assert len(by_position) > 10


@given(
    top_k=st.integers(0, 60),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
    seed=st.integers(0, 100),
)
@settings(deadline=None, max_examples=200)
def test_candidates_are_what_the_definitions_say(
    top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    scaled = make_logits(1, seed=seed)[0]
    _, order = candidates(scaled, Sampling(top_k=top_k, top_p=top_p, min_p=min_p))
    ranked = sorted(range(50), key=lambda i: -scaled[i])[: top_k or 50]
    p = scaled[ranked].double().softmax(0)
    wanted, before = [], 0.0
    for token, probability in zip(ranked, p.tolist(), strict=True):
        close = abs(before - top_p) < 1e-5 or abs(probability - min_p * p[0]) < 1e-6
        if close and wanted:
            return  # a tie that rounding decides
        if not wanted or (before < top_p and probability >= min_p * p[0]):
            wanted.append(token)
        before += probability
    assert order.tolist() == wanted


def test_a_flat_distribution_is_cut_beyond_the_shortlist() -> None:
    _, order = candidates(torch.zeros(5000), Sampling(top_p=0.5))
    assert 2450 < len(order) < 2550


def test_penalties_follow_their_formulas() -> None:
    logits = make_logits(1)
    sampling = Sampling(
        temperature=0.0,
        repetition_penalty=1.7,
        frequency_penalty=0.5,
        presence_penalty=0.25,
    )
    tokens = np.array([3, 1, 4, 1, 5, 1], dtype=np.int32)
    penalised = logits.clone()
    sample(penalised, [draw(sampling, tokens, num_prompt=2)])
    expected = logits.clone()
    for token in {3, 1, 4, 5}:
        value = expected[0, token]
        expected[0, token] = value / 1.7 if value > 0 else value * 1.7
    for token, count in {4: 1, 1: 2, 5: 1}.items():
        expected[0, token] -= 0.5 * count + 0.25
    torch.testing.assert_close(penalised, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_likeliest_is_the_first_of_the_highest(dtype: torch.dtype) -> None:
    logits = torch.randn(9, 1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    logits[3, 500] = logits[3, 700] = 50
    logits[4] = -logits[4].abs() - 1
    assert likeliest(logits) == logits.float().argmax(dim=-1).tolist()
    assert likeliest(logits)[3] == 500


def test_each_row_is_drawn_in_its_own_way() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    samplings = [
        Sampling(temperature=0.0),
        Sampling(temperature=1.0, seed=7),
        Sampling(temperature=0.0, logprobs=2),
    ]
    draws = [Draw(sampling, np.zeros(4, np.int32), 2) for sampling in samplings]
    together = draw_all(logits, draws)
    wanted = choose(logits.float(), draws)
    assert together.tokens == wanted.tokens
    assert [item.index for item in together.logprobs] == [2]
