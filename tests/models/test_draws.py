"""Numbers of samples are functions of seed and stream, of the law that they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from models.draws import draw_integers, draw_normal, draw_uniform

SEEDS = torch.tensor([3, -5, 2**62, 0, 1])
MASK = (1 << 64) - 1


def mixed(state: int) -> int:
    """The finishing function of splitmix64, in whole numbers without an end."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_bits_are_those_of_splitmix64() -> None:
    """The published sequence that begins at a hash of seed and stream."""
    from models.draws import _halves, _start

    high, low = _halves(SEEDS, "noise", 4)
    for row, seed in enumerate(SEEDS.tolist()):
        begin = mixed((seed + _start("noise")) & MASK)
        for place in range(4):
            expected = mixed((begin + (place + 1) * 0x9E3779B97F4A7C15) & MASK)
            assert (int(high[row, place]) << 32) + int(low[row, place]) == expected


def draw_nines(seed: torch.Tensor, stream: str, shape: tuple[int, ...]) -> torch.Tensor:
    return draw_integers(seed, stream, 9, shape)


@pytest.mark.parametrize("draw", [draw_uniform, draw_normal, draw_nines])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 4)])
def test_a_sample_has_its_numbers_in_any_batch(draw, shape) -> None:
    whole = draw(SEEDS, "noise", shape)
    assert whole.shape == (5, *shape)
    alone = torch.cat([draw(seed[None], "noise", shape) for seed in SEEDS])
    assert torch.equal(whole, alone)
    torch.manual_seed(1)
    assert torch.equal(draw(SEEDS.flip(0), "noise", shape).flip(0), whole)
    assert not torch.equal(draw(SEEDS, "time", shape), whole)


def test_the_laws() -> None:
    """Kolmogorov and Smirnov's test, and chi-squared; over neighbouring seeds and over places."""
    seeds = torch.arange(400)
    normal = draw_normal(seeds, "noise", (401,)).double().numpy()
    uniform = draw_uniform(seeds, "noise", (401,)).double().numpy()
    for values in (normal.ravel(), normal[:, 0], normal[0]):
        assert stats.kstest(values, "norm").pvalue > 1e-3
    for values in (uniform.ravel(), uniform[:, 0], uniform[0]):
        assert stats.kstest(values, "uniform").pvalue > 1e-3
        assert values.min() >= 0.0 and values.max() < 1.0
    correlation = np.corrcoef(normal)[np.triu_indices(400, 1)]
    assert abs(correlation.std() * np.sqrt(401) - 1.0) < 0.02
    counts = draw_integers(seeds, "class", 7, (400,)).flatten().bincount(minlength=7).numpy()
    assert len(counts) == 7 and stats.chisquare(counts).pvalue > 1e-3
