"""Which channels a structured latent keeps, and that computing those alone changes nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.autoencoders.structured_latent import (
    StructuredSettings,
    draw,
    keep_leading,
    project_in,
    project_out,
)
from settings.schema import SettingsError

WIDTH, CHANNELS = 24, 8


def test_the_documented_numbers_of_channels() -> None:
    options = StructuredSettings(enabled=True).options(128)
    assert options == tuple(range(16, 129, 4))


@given(
    channels=st.integers(64, 600),
    least=st.integers(1, 600),
    step=st.integers(1, 200),
)
def test_options_rise_from_the_fewest_to_all(channels: int, least: int, step: int) -> None:
    settings = StructuredSettings(enabled=True, min_channels=least, channel_step=step)
    if least >= channels:
        with pytest.raises(SettingsError, match="min_channels must be below"):
            settings.options(channels)
        return
    options = settings.options(channels)
    assert options[0] == least and options[-1] == channels
    assert list(options) == sorted(set(options))
    assert {b - a for a, b in pairwise(options[:-1])} <= {step}


@pytest.mark.parametrize("channels", [16, 32, 63])
def test_small_latents_are_refused(channels: int) -> None:
    with pytest.raises(SettingsError, match=rf"at least 64 channels.*not {channels}"):
        StructuredSettings(enabled=True).options(channels)


def test_the_draw_is_a_function_of_the_seed_and_uniform() -> None:
    options = StructuredSettings(enabled=True).options(64)
    first = [draw(options, torch.tensor([seed])) for seed in range(1300)]
    torch.manual_seed(3)
    assert first == [draw(options, torch.tensor([seed, seed])) for seed in range(1300)]
    counts = [first.count(option) for option in options]  # 13 options, about 100 each
    assert set(first) == set(options)
    assert sum((count - 100) ** 2 / 100 for count in counts) < 32.9  # chi-squared, 12, p = .001


@pytest.mark.parametrize("sides", [(5, 4), (3, 5, 4)])
@pytest.mark.parametrize("count", [1, 5, CHANNELS])
def test_projections_of_the_kept_channels_equal_masked_ones(
    sides: tuple[int, ...], count: int
) -> None:
    """Values, and gradients of weights and inputs."""
    torch.manual_seed(0)
    convolution = nn.Conv2d if len(sides) == 2 else nn.Conv3d
    out, into = (
        convolution(WIDTH, CHANNELS, 3, padding=1),
        convolution(CHANNELS, WIDTH, 3, padding=1),
    )
    features = torch.randn(2, WIDTH, *sides, requires_grad=True)
    weights = [features, *out.parameters(), *into.parameters()]

    means = torch.stack([part.mean(dim=1) for part in features.split(WIDTH // CHANNELS, 1)], dim=1)
    full = keep_leading(out(features) + means, count)
    repeats = torch.cat([full[:, [index]].expand(-1, 3, *sides) for index in range(CHANNELS)], 1)
    expected = into(full) + repeats

    kept = project_out(features, out, CHANNELS, count)
    found = project_in(kept, into, CHANNELS, WIDTH)

    assert kept.shape[1] == count
    torch.testing.assert_close(kept, full[:, :count])
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((found * probe).sum(), weights),
        torch.autograd.grad((expected * probe).sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_keeping_leading_channels_leaves_the_rest_zero() -> None:
    latent = torch.randn(2, 6, 3, 3)
    kept = keep_leading(latent, 4)
    torch.testing.assert_close(kept[:, :4], latent[:, :4])
    assert not kept[:, 4:].any()
