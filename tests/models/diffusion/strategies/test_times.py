"""The training's t has the law that it is said to have: against scipy's distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.schedulers.rectified_flow import timestep_transform
from scipy import stats
from scipy.special import logit

from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.settings import (
    SamplingSettings,
    StrategySettings,
    TransformSettings,
)
from models.diffusion.strategies.times import jittered, resolution_ratio
from settings.flat import replace
from settings.schema import SettingsError

SEEDS = torch.arange(20_000)
LIKELY = 0.01
"""A law is refuted below this probability; seeds are fixed, so that a test passes or fails for
good.
"""

CURRICULUM = {
    "curriculum.enabled": True,
    "curriculum.low_start": 0.1,
    "curriculum.high_start": 0.3,
    "curriculum.low_end": 0.2,
}


def strategy(sides=(), **changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return make_strategy(replace(StrategySettings(), named), sides)


def times(made, progress=1.0):
    return made.draw_times(SEEDS, progress).double().numpy()


def is_law(t, cdf):
    return stats.kstest(t, cdf).pvalue > LIKELY


def logit_normal(mean, std):
    return lambda t: stats.norm.cdf(logit(t), mean, std)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.5), (1.0, 1.5)])
def test_logit_normal(mean, std):
    t = times(strategy(rflow__mean=mean, rflow__std=std))
    assert is_law(t, logit_normal(mean, std))
    assert not is_law(t, logit_normal(mean + 0.05, std))
    assert not is_law(t, logit_normal(mean, 1.1 * std))


def test_uniform():
    t = times(strategy(rflow__law="uniform"))
    assert is_law(t, "uniform") and not is_law(t, logit_normal(0.0, 1.7))


@pytest.mark.parametrize("changes", [{"kind": "ddpm"}, {"kind": "ddpm", "ddpm__steps": 100}])
def test_steps_of_ddpm_are_equally_likely_and_none_is_the_image(changes):
    made = strategy(**changes)
    steps = times(made) * made.levels
    assert np.abs(steps - np.round(steps)).max() < 1e-4
    counts = np.bincount(np.round(steps).astype(int), minlength=made.levels + 1)
    assert counts[0] == 0 and len(counts) == made.levels + 1
    assert stats.chisquare(counts[1:]).pvalue > LIKELY


def test_discrete_times_are_the_continuous_ones_rounded_up():
    continuous = times(strategy(rflow__mean=0.3))
    discrete = times(strategy(rflow__mean=0.3, rflow__discrete=True, rflow__steps=40))
    assert discrete == pytest.approx(np.ceil(continuous * 40) / 40, abs=1e-6)
    assert set(np.round(discrete * 40).astype(int)) <= set(range(1, 41))


@pytest.mark.parametrize("law", ["logit_normal", "uniform"])
@pytest.mark.parametrize(
    ("progress", "low", "high"), [(0.0, 0.1, 0.3), (0.5, 0.15, 0.65), (1.0, 0.2, 1.0)]
)
def test_a_curriculum_rescales_the_law_and_keeps_its_shape(law, progress, low, high):
    """001-M15: a uniform law in place of the logit-normal would change two things at once."""
    t = times(strategy(rflow__law=law, **CURRICULUM), progress)
    assert low <= t.min() and t.max() <= high
    cdf = logit_normal(0.0, 1.0) if law == "logit_normal" else stats.uniform.cdf
    assert is_law((t - low) / (high - low), cdf)
    whole = times(strategy(rflow__law=law))
    assert t == pytest.approx(low + (high - low) * whole, abs=1e-6)


def test_the_progress_may_be_given_by_sample():
    made = strategy(**CURRICULUM)
    progress = torch.tensor([0.0, 0.25, 1.0])
    t = made.draw_times(SEEDS[:3], progress)
    alone = [made.draw_times(SEEDS[i : i + 1], float(progress[i])) for i in range(3)]
    torch.testing.assert_close(t, torch.cat(alone))


def test_a_curriculum_is_read_only_where_it_is_on():
    on = {**CURRICULUM, "curriculum.enabled": False}
    assert np.array_equal(times(strategy(**on), 0.0), times(strategy()))


def test_jitter_is_reflected_normal_noise():
    """Uniform times stay uniform under reflected noise, where clamped ones would gather at the
    ends; at one t the noise is normal.
    """
    changes = {"rflow__law": "uniform", "jitter__enabled": True, "jitter__std": 0.2}
    t, before = times(strategy(**changes)), times(strategy(rflow__law="uniform"))
    assert is_law(t, "uniform")
    assert not is_law(
        np.clip(before + 0.2 * np.random.default_rng(0).normal(size=20_000), 0, 1), "uniform"
    )
    middle = torch.full((len(SEEDS),), 0.5, dtype=torch.float64)
    assert is_law(jittered(middle, SEEDS, 0.05).numpy(), stats.norm(0.5, 0.05).cdf)
    assert np.abs(stats.spearmanr(before, times(strategy(**changes)) - before)[0]) < 0.5


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_clamped_jitter_gathers_at_the_ends_and_reflected_does_not(end):
    """Of uniform t and normal noise of deviation s, s / sqrt(2 pi) leaves [0, 1] at each end."""
    on = {"rflow__law": "uniform", "jitter__enabled": True, "jitter__std": 0.2}
    share = float((times(strategy(**on, jitter__form="clamped")) == end).mean())
    assert share == pytest.approx(0.2 / np.sqrt(2 * np.pi), rel=0.05)
    assert not (times(strategy(**on)) == end).any()


def test_forms_of_jitter_agree_inside():
    on = {"rflow__law": "uniform", "jitter__enabled": True}
    clamped, reflected = times(strategy(**on, jitter__form="clamped")), times(strategy(**on))
    inside = (clamped > 0) & (clamped < 1)
    assert inside.any() and not inside.all()
    assert np.allclose(clamped[inside], reflected[inside], atol=1e-6)


@pytest.mark.parametrize("form", ["reflected", "clamped"])
def test_jitter_of_steps_leads_to_steps(form):
    made = strategy(kind="ddpm", ddpm__steps=100, jitter__enabled=True, jitter__form=form)
    t = times(made) * 100
    assert np.abs(t - np.round(t)).max() < 1e-4 and t.min() >= 1.0 - 1e-4


@pytest.mark.parametrize("kind", ["rflow", "ddpm"])
def test_times_belong_to_the_seeds(kind):
    made = strategy(kind=kind, jitter__enabled=True)
    together = made.draw_times(SEEDS[:8])
    apart = torch.cat([made.draw_times(seed[None]) for seed in SEEDS[:8]])
    assert torch.equal(together, apart) and together.dtype == torch.float32


@pytest.mark.parametrize("sides", [(64, 64), (128, 96), (32, 32, 40), (16,)])
@pytest.mark.parametrize("base", [4096, 32**3])
def test_the_transform_is_that_of_monai_of_the_same_base(sides, base):
    settings = TransformSettings(enabled=True, base_cells=base)
    made = strategy(
        sides,
        rflow__law="uniform",
        rflow__transform__enabled=True,
        rflow__transform__base_cells=base,
    )
    assert made.ratio == resolution_ratio(settings, sides)
    plain = torch.from_numpy(times(strategy(rflow__law="uniform")))
    cells = int(np.prod(sides))
    expected = timestep_transform(1000.0 * plain, cells, base, spatial_dim=len(sides)) / 1000.0
    assert times(made) == pytest.approx(expected.numpy(), abs=1e-6)
    steps = made.sampling_times(SamplingSettings(steps=27))
    grid = torch.linspace(1000.0, 0.0, 28, dtype=torch.float64)
    expected = timestep_transform(grid, cells, base, spatial_dim=len(sides)) / 1000.0
    torch.testing.assert_close(steps, expected, rtol=0.0, atol=1e-12)


def test_the_transform_counts_cells_of_the_space_against_an_explicit_base():
    """001-M5: with the own size as the base the ratio is 1 at any size."""
    settings = TransformSettings(enabled=True, base_cells=32 * 32)
    assert resolution_ratio(settings, (32, 32)) == 1.0
    assert resolution_ratio(settings, (128, 128)) == pytest.approx(4.0)
    assert resolution_ratio(settings, (16, 16)) == pytest.approx(0.5)
    cubes = TransformSettings(enabled=True, base_cells=16**3, scale=1.5)
    assert resolution_ratio(cubes, (32, 32, 32)) == pytest.approx(3.0)
    assert resolution_ratio(TransformSettings(), (128, 128)) == 1.0
    with pytest.raises(ValueError, match="needs the sides of what is noised"):
        resolution_ratio(settings, ())


def test_a_curriculum_without_room_is_refused():
    with pytest.raises(SettingsError, match=r"low_start lies below high_start, not at 0\.4"):
        strategy(curriculum__low_start=0.4)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_documents_curriculum_is_uniform_whatever_the_law(progress):
    """001-M15: it changes the law as well, also where the interval is whole again."""
    made = strategy(**{**CURRICULUM, "curriculum.law": "uniform"}, rflow__mean=0.5)
    low, high = 0.1 + 0.1 * progress, 0.3 + 0.7 * progress
    t = times(made, progress)
    assert is_law((t - low) / (high - low), "uniform")
    rescaled = times(strategy(**CURRICULUM, rflow__mean=0.5), progress)
    assert not is_law((rescaled - low) / (high - low), "uniform")


@pytest.mark.parametrize("sides", [(32, 32), (128, 128), (64, 64, 64)])
def test_the_documents_base_is_the_size_itself_and_moves_nothing(sides):
    """001-M5."""
    on = {"rflow__transform__enabled": True, "rflow__transform__base_cells": 32 * 32}
    own = strategy(sides, **on, rflow__transform__base="own")
    assert own.ratio == 1.0
    assert times(own) == pytest.approx(times(strategy()), abs=1e-12)
    moved = strategy(sides, **on)
    assert (moved.ratio > 1.0) == (sides != (32, 32))
