"""Draws have the right probabilities, and depend only on seed, position and logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bros.brosd.protocol.wire import Sampling
from bros.workers.sampling import cpu, device
from bros.workers.sampling.likeliest import likeliest
from bros.workers.sampling.noise import gumbel, key_of
from bros.workers.sampling.odds import Odds
from bros.workers.sampling.sampler import Draw, choose, draw_all, sample

KNOWN = np.array([3, 1, 4, 1], dtype=np.int32)


def draw(sampling: Sampling, tokens: np.ndarray = KNOWN, num_prompt: int = 2) -> Draw:
    return Draw(sampling, tokens, num_prompt)


def noise(seed: int, position: int, size: int) -> torch.Tensor:
    """Return the noise of the ids below `size`."""
    keys = torch.tensor([key_of(seed, position)], dtype=torch.int32)
    return gumbel(keys, torch.arange(size, dtype=torch.int32)[None])[0]


CPU = torch.device("cpu")
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.1, 2.0),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**63),
)


def kept_ids(logits: torch.Tensor, sampling: Sampling, size: int) -> list[int] | None:
    """Return the candidates of a row, likeliest first; None if `size` of them are too few."""
    found = device.candidates(logits[None], Odds.of([sampling], [0], CPU), size)
    ids: list[int] = found.ids[found.kept].tolist()
    return ids if found.complete else None


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
    for found in (
        noise(5, 17, 200_000),
        torch.stack([noise(5, position, 8)[3] for position in range(4_000)]),
    ):
        uniform = (-(-found).exp()).exp().sort().values
        steps = (torch.arange(len(found)) + 0.5) / len(found)
        assert (uniform - steps).abs().max() < 2 / len(found) ** 0.5  # Kolmogorov-Smirnov
        assert found.isfinite().all()


@pytest.mark.parametrize("vocabulary", [1, 100, 5000])
def test_a_wide_race_is_the_same_on_cpus_and_devices(vocabulary: int) -> None:
    rows = 64
    logits = make_logits(rows, vocabulary)
    logits[:, 1::3] = -torch.inf  # what a grammar forbids
    samplings = [Sampling(temperature=0.01 + seed / 40, seed=seed) for seed in range(rows)]
    odds = Odds.of(samplings, range(rows), CPU)
    assert cpu.race(logits, odds).equal(device.race(logits, odds))


@given(
    samplings=st.lists(SAMPLINGS, min_size=1, max_size=5),
    vocabulary=st.sampled_from([1, 50, 3000]),
    steepness=st.sampled_from([0.01, 1.0, 9.0]),
)
@settings(deadline=None, max_examples=200)
def test_a_narrow_race_is_the_same_on_cpus_and_devices(
    samplings: list[Sampling], vocabulary: int, steepness: float
) -> None:
    logits = make_logits(len(samplings), vocabulary) * steepness
    logits[:, 1::3] = -torch.inf
    odds = Odds.of(samplings, range(len(samplings)), CPU)
    assert cpu.race(logits, odds).equal(device.race(logits, odds))


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


@pytest.mark.parametrize("broken", [-torch.inf, torch.nan])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=9, top_p=0.5), Sampling(min_p=0.1)]
)
def test_a_broken_row_hurts_nobody_else(sampling: Sampling, broken: float) -> None:
    logits = make_logits(3, 5000)
    wanted = sample(logits.clone(), [draw(sampling)] * 3)
    logits[1] = broken
    found = sample(logits, [draw(sampling)] * 3)
    assert found[[0, 2]].equal(wanted[[0, 2]])
    assert 0 <= found[1] < 5000


def test_position_and_seed_both_matter() -> None:
    logits = torch.zeros(1, 1000)
    by_seed = {int(sample(logits.clone(), [draw(Sampling(seed=s))])) for s in range(20)}
    longer = [np.zeros(n, np.int32) for n in range(1, 20)]
    by_position = {int(sample(logits.clone(), [draw(Sampling(), tokens)])) for tokens in longer}
    assert len(by_seed) > 10
    assert len(by_position) > 10


@given(sampling=SAMPLINGS)
@settings(deadline=None, max_examples=200)
def test_candidates_are_what_the_definitions_say(sampling: Sampling) -> None:
    logits = make_logits(1, seed=sampling.seed % 100)[0]
    top_k, top_p, min_p = sampling.top_k, sampling.top_p, sampling.min_p
    found = kept_ids(logits, sampling, 50)
    scaled = logits / sampling.temperature
    ranked = sorted(range(50), key=lambda i: -scaled[i])[: top_k or 50]
    p = scaled[ranked].double().softmax(0)
    wanted: list[int] = []
    before = 0.0
    for token, probability in zip(ranked, p.tolist(), strict=True):
        close = abs(before - top_p) < 1e-5 or abs(probability - min_p * p[0]) < 1e-6
        if close and wanted:
            return  # a tie that rounding decides
        if not wanted or (before < top_p and probability >= min_p * p[0]):
            wanted.append(token)
        before += probability
    assert found == wanted


def test_a_flat_distribution_is_cut_beyond_the_shortlist() -> None:
    flat = Sampling(top_p=0.5)
    assert kept_ids(torch.zeros(5000), flat, 1024) is None
    found = kept_ids(torch.zeros(5000), flat, 5000)
    assert found is not None
    assert 2450 < len(found) < 2550
    drawn = {
        int(sample(torch.zeros(1, 5000), [draw(Sampling(top_p=0.5, seed=s))])) for s in range(9)
    }
    assert len(drawn) == 9


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
