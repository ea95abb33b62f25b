"""Use of a codebook against scipy's entropy, however the set is cut."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from metrics.codebook import codebook_metrics, entropy_bits, histogram
from models.autoencoders.settings import ModelSettings, VqvaeSettings
from settings.schema import Settings

CODES = 16
METRICS = {metric.name: metric for metric in codebook_metrics()}


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    model: ModelSettings = field(
        default_factory=lambda: ModelSettings(kind="vqvae", vqvae=VqvaeSettings(codes=CODES))
    )


def measured(name, codes, cuts=()):
    metric = METRICS[f"codebook_{name}"]
    edges = [0, *cuts, len(codes)]
    sums, count = torch.zeros(CODES, dtype=torch.float64), 0.0
    for start, end in itertools.pairwise(edges):
        more, n = metric.measure({"codes": codes[start:end]}, {}, Tree())
        sums, count = sums + more, count + float(n)
    return metric.finish(sums, count)


def make(seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.minimum(rng.geometric(0.3, (9, 4, 5)) - 1, CODES - 4))


@pytest.mark.parametrize("cuts", [(), (1, 2, 8)])
def test_against_scipy(cuts):
    codes = make()
    counts = np.bincount(codes.numpy().ravel(), minlength=CODES)
    bits = entropy(counts, base=2)
    assert measured("entropy", codes, cuts) == pytest.approx(bits, rel=1e-12)
    assert measured("perplexity", codes, cuts) == pytest.approx(2**bits, rel=1e-12)
    assert measured("perplexity_pct", codes, cuts) == pytest.approx(100 * 2**bits / 16, rel=1e-12)
    assert measured("utilisation", codes, cuts) == np.count_nonzero(counts) / CODES
    assert measured("dead_codes", codes, cuts) == np.count_nonzero(counts == 0) >= 3


def test_the_two_ends():
    one = torch.full((3, 2, 2), 7)
    found = {name: measured(name, one) for name in ("entropy", "perplexity", "dead_codes")}
    assert found == {"entropy": 0.0, "perplexity": 1.0, "dead_codes": 15.0}
    alike = torch.arange(CODES).repeat(3).view(3, 4, 4)
    assert measured("entropy", alike) == pytest.approx(4.0)
    assert measured("perplexity_pct", alike) == pytest.approx(100.0)
    assert measured("utilisation", alike) == 1.0


def test_a_mean_of_batches_would_be_another_number():
    """Why counts are added: no batch of one image uses more codes than it has positions."""
    codes = torch.arange(CODES).view(CODES, 1, 1)
    assert measured("perplexity", codes) == pytest.approx(16.0)
    assert [measured("perplexity", codes[i : i + 1]) for i in range(CODES)] == [1.0] * CODES


@pytest.mark.parametrize("wrong", [-1, CODES, torch.iinfo(torch.int64).min])
def test_a_code_that_is_none_leaves_no_value(wrong):
    codes = make()
    codes[4, 2, 1] = wrong
    assert all(math.isnan(measured(name.removeprefix("codebook_"), codes)) for name in METRICS)


def test_nothing_counted_is_no_value():
    assert all(math.isnan(metric.finish(torch.zeros(CODES), 0.0)) for metric in METRICS.values())


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=8, max_size=8), min_size=1, max_size=4),
)
def test_rows_are_counted_each_for_itself(rows):
    values = torch.tensor(rows)
    counts = histogram(values, 6)
    expected = np.stack([np.bincount(row, minlength=6) for row in rows])
    np.testing.assert_array_equal(counts.numpy(), expected)
    np.testing.assert_allclose(
        entropy_bits(counts).numpy(), entropy(expected, base=2, axis=1), atol=1e-12
    )


def test_a_row_with_a_foreign_value_does_not_touch_the_others():
    counts = histogram(torch.tensor([[0, 1, 1], [0, 3, 1], [2, 2, 2]]), 3)
    assert counts[[0, 2]].tolist() == [[1, 2, 0], [0, 0, 3]]
    assert torch.isnan(counts[1]).all()
