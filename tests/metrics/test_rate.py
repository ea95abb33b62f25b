"""The rate against hand counts and known entropies, however the set is cut."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, norm

from metrics.codebook import entropy_bits
from metrics.rate import corrected_entropy_bits, rate_metrics
from models.autoencoders.settings import ModelSettings, VqvaeSettings
from settings.schema import Settings


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    model: ModelSettings = field(default_factory=ModelSettings)


VAE = Tree()
VQVAE = Tree(model=ModelSettings(kind="vqvae", vqvae=VqvaeSettings(codes=8)))


def measured(symbols, image, tree=VAE, cuts=(), name="rate_bpp"):
    (metric,) = (metric for metric in rate_metrics(tree) if metric.name == name)
    edges, total, count = [0, *cuts, len(symbols)], 0.0, 0.0
    for start, end in itertools.pairwise(edges):
        batch = {"image": image[start:end]}
        sums, n = metric.measure({"symbols": symbols[start:end]}, batch, tree)
        assert sums.dtype == n.dtype == torch.float64
        total, count = total + sums, count + float(n)
    return metric.finish(total, count)


def miller(counts):
    """Plug-in entropy and the first term of its bias, in bits."""
    seen = np.count_nonzero(counts)
    return entropy(counts, base=2) + (seen - 1) / (2 * counts.sum() * math.log(2))


@pytest.mark.parametrize("cuts", [(), (1, 3)])
@pytest.mark.parametrize("space", [(8, 6), (4, 8, 6)])
def test_channels_have_histograms_of_their_own(cuts, space):
    rng = np.random.default_rng(0)
    channels = [rng.integers(-2, 3, (5, 4, 3)), rng.integers(-64, 65, (5, 4, 3)) // 9]
    symbols = torch.from_numpy(np.stack(channels, axis=1))
    image = torch.zeros(5, 2, *space)
    bits = sum(x.size * miller(np.bincount(x.ravel() + 64)) for x in channels)
    expected = (bits + 5 * 32) / (5 * math.prod(space))
    assert measured(symbols, image, VAE, cuts) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_a_vqvae_pays_for_its_codes_alone(cuts):
    codes = torch.from_numpy(np.random.default_rng(1).integers(0, 3, (4, 1, 5, 5)))
    image = torch.zeros(4, 1, 20, 20)
    expected = 100 * miller(np.bincount(codes.numpy().ravel())) / 1600
    assert measured(codes, image, VQVAE, cuts) == pytest.approx(expected, rel=1e-12)
    assert [metric.name for metric in rate_metrics(VQVAE)] == ["rate_bpp"]


def test_a_constant_latent_costs_its_scale_alone():
    assert measured(torch.full((3, 4, 2, 2), -7), torch.zeros(3, 1, 16, 16)) == 32 / 256


def test_known_rates():
    """Eight codes used alike are 3 bits each, and no correction brings them above."""
    codes = torch.arange(8).repeat(2).view(1, 1, 4, 4)
    assert measured(codes, torch.zeros(1, 1, 8, 8), VQVAE) == pytest.approx(3 * 16 / 64)


@pytest.mark.parametrize("samples", [16, 64, 256])
def test_few_samples_look_less_cheap_with_the_correction(samples):
    """Rounded normal numbers with a step of 1/4 of their deviation, the default: 4.05 bits."""
    edges = (np.arange(-65, 65) + 0.5) / 4
    shares = np.diff(norm.cdf(edges))
    true = entropy(shares, base=2)
    assert true == pytest.approx(0.5 * math.log2(2 * math.pi * math.e) + 2, abs=0.01)
    rng = np.random.default_rng(samples)
    counts = torch.from_numpy(rng.multinomial(samples, shares / shares.sum(), 400)).double()
    plain, corrected = (
        float(f(counts).mean()) - true for f in (entropy_bits, corrected_entropy_bits)
    )
    assert plain < -0.05
    assert abs(corrected) < 0.6 * abs(plain)


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 40))
def test_the_rate_is_bounded_and_blind_to_places(seed, channels, spread):
    rng = np.random.default_rng(seed)
    values = rng.integers(-spread, spread + 1, (3, channels, 3, 4))
    symbols, image = torch.from_numpy(values), torch.zeros(3, 1, 12, 16)
    found = measured(symbols, image)
    least, most = 32 / 192, (32 + channels * 12 * math.log2(129)) / 192
    assert least <= found <= most
    order = torch.from_numpy(rng.permutation(12))
    moved = symbols.flatten(2)[:, :, order].flip(0).view_as(symbols)
    assert measured(moved, image) == pytest.approx(found, rel=1e-12)
    assert measured(-symbols, image) == pytest.approx(found, rel=1e-12)


def test_clamped_symbols_are_counted():
    symbols = torch.zeros(2, 2, 2, 2, dtype=torch.int64)
    symbols[0, 0, 0, 0], symbols[1, 1, 1, 1] = 64, -64
    assert measured(symbols, torch.zeros(2, 1, 4, 4), name="rate_limit_share") == 2 / 16


@pytest.mark.parametrize("name", ["rate_bpp", "rate_limit_share"])
def test_a_broken_latent_has_no_rate(name):
    symbols = torch.full((2, 1, 2, 2), torch.nan).long()  # rounded from NaN
    assert math.isnan(measured(symbols, torch.zeros(2, 1, 4, 4), name=name))
