"""MONAI's own sampler of rectified flows as a solver: it is the library's, and what it loses."""

from __future__ import annotations

import math

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import RFlowScheduler

from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.sampling import sample, sample_path
from models.diffusion.strategies.settings import MONAI, SamplingSettings, StrategySettings
from settings.flat import replace
from settings.schema import SettingsError

SEEDS = torch.arange(3)
SHAPE = (1, 24, 24)


class Field(torch.nn.Module):
    """A velocity that depends on x and on the time; the library gives the latter by 1000."""

    def forward(self, x, timesteps=None, **_):
        t = (timesteps.double() / 1000.0).to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        return torch.sin(3.0 * x) + t


def predict(x, t):
    return Field()(x, timesteps=1000.0 * t)


@pytest.mark.parametrize("steps", [1, 7, 27, 50])
@pytest.mark.parametrize("base", [0, 16 * 16])
def test_it_ends_where_the_librarys_inferer_ends(steps, base):
    """Also with the transform, whose base the library is told itself."""
    changes = {"rflow.transform.enabled": bool(base), "rflow.transform.base_cells": base or 1}
    strategy = make_strategy(replace(StrategySettings(), changes), SHAPE[1:])
    settings = replace(SamplingSettings(steps=steps), {"rflow.solver": MONAI})
    path = list(sample_path(strategy, predict, SEEDS, SHAPE, settings))
    assert len(path) == steps + 1 and path[-1].evaluations == steps * len(SEEDS)
    scheduler = RFlowScheduler(
        use_discrete_timesteps=False,
        use_timestep_transform=bool(base),
        base_img_size_numel=base or 1,
        spatial_dim=2,
    )
    scheduler.set_timesteps(steps, input_img_size_numel=math.prod(SHAPE))
    network = Field()
    found = DiffusionInferer(scheduler).sample(path[0].x, network, scheduler, verbose=False)
    torch.testing.assert_close(path[-1].x, found, rtol=0.0, atol=2e-4)


def test_its_steps_sum_to_one_only_where_they_divide_a_thousand():
    """001-M6: of a constant velocity, 27 steps go .67 % too far, 25 do not."""
    strategy = make_strategy(StrategySettings())

    def off(steps, solver):
        settings = replace(SamplingSettings(steps=steps), {"rflow.solver": solver})
        one = torch.ones(1, 1, dtype=torch.float64)
        end = sample(strategy, lambda x, t: one, SEEDS[:1], (1,), settings, noise=0.0 * one)
        return float(end.x) - 1.0

    assert off(27, MONAI) == pytest.approx(0.0067, abs=2e-4)
    assert off(25, MONAI) == pytest.approx(0.0, abs=1e-6)
    assert off(27, "euler") == pytest.approx(0.0, abs=1e-6)


def test_restarts_and_too_many_steps_are_refused():
    restart = {"rflow.solver": MONAI, "restart.enabled": True}
    with pytest.raises(SettingsError, match=r"has no restarts.*restart\.enabled=false"):
        replace(SamplingSettings(), restart)
    with pytest.raises(SettingsError, match=r"at most 1000 steps, not 1001"):
        replace(SamplingSettings(steps=1001), {"rflow.solver": MONAI})
