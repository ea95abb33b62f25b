"""Learning rates beside the cosine: stages, a plateau, and groups of parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from settings.schema import SettingsError, setting
from trainables.optimizing.optimizer import (
    OptimizerSettings,
    PlateauSettings,
    RateSettings,
    make_optimizer,
    parameter_groups,
)
from trainables.optimizing.rates import Rate, learning_rate


def test_stages_lie_on_lines_through_their_knots_below_the_warm_up():
    knots = {"positions": (0.2, 0.5, 0.5001), "factors": (1.0, 1.0, 0.1)}
    settings = OptimizerSettings(
        lr=2.0, warmup=0.1, warmup_first=0.0, schedule="stages", **knots
    )
    found = [learning_rate(settings, step, 1000) for step in range(0, 1200, 50)]
    expected = np.interp(np.arange(0, 1200, 50) / 1000, *knots.values())
    expected *= np.minimum(np.arange(0, 1200, 50) / 100, 1.0)
    np.testing.assert_allclose(found, 2.0 * expected, rtol=1e-12)


def test_stages_need_knots():
    with pytest.raises(SettingsError, match=r"as many factors .*optimizer\.positions=\[0\.5,1\]"):
        OptimizerSettings(schedule="stages", positions=(0.1,))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_falls_where_torchs_does(mode):
    """torch waits for one report more than its patience says."""
    settings = OptimizerSettings(
        lr=0.5,
        schedule="plateau",
        final=0.02,
        plateau=PlateauSettings(factor=0.3, patience=4),
    )
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = ReduceLROnPlateau(
        theirs, mode=mode, factor=0.3, patience=3, threshold=0.0, min_lr=0.5 * 0.02, eps=0.0
    )
    rate, seen = Rate(settings, 1000), []
    values = np.random.default_rng(0).normal(size=60).cumsum()
    for index, value in enumerate(values):
        scheduler.step(float(value))
        rate.look(float(value), mode)
        assert rate(index) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        seen.append(rate(index))
        again = Rate(settings, 1000)
        again.load(rate.state())
        rate = again
    assert len(set(seen)) >= 3


def test_a_report_without_the_objective_is_none_that_is_better():
    rate = Rate(OptimizerSettings(schedule="plateau", plateau=PlateauSettings(patience=2)), 10)
    for value in (1.0, None, None):
        rate.look(value, "min")
    assert rate(0) == 0.5e-3


@dataclass(frozen=True, kw_only=True)
class Two(RateSettings):
    trunk: float = setting(0.1, "of the trunk")
    head: float = setting(3.0, "of the head")


@dataclass(frozen=True, kw_only=True)
class Settings(OptimizerSettings):
    rate: Two = field(default_factory=Two)


def net():
    return {"model": nn.ModuleDict({name: nn.Linear(2, 2) for name in ("stem", "trunk", "head")})}


def test_groups_have_rates_of_their_own_and_decay_as_without_them():
    modules = net()
    patterns = {"trunk": ("model.trunk.*",), "head": ("model.head.weight", "model.head.bias")}
    groups = parameter_groups(modules, ("model",), Settings(weight_decay=0.2), groups=patterns)
    of = {id(p): (g["rate"], g["weight_decay"]) for g in groups for p in g["params"]}
    named = {name: of[id(p)] for name, p in modules["model"].named_parameters()}
    assert named == {
        "stem.weight": (1.0, 0.2),
        "stem.bias": (1.0, 0.0),
        "trunk.weight": (0.1, 0.2),
        "trunk.bias": (0.1, 0.0),
        "head.weight": (3.0, 0.2),
        "head.bias": (3.0, 0.0),
    }
    make_optimizer(Settings(), groups)


@pytest.mark.parametrize(
    ("settings", "patterns", "says"),
    [
        (Settings(), {"trunk": ("*.trunk.*",)}, r"of head are none .*\{'head': \[\]\}"),
        (Settings(), {"trunk": ("*.trunk.*",), "head": ("*.haed.*",)}, r"head are none .*haed"),
        (OptimizerSettings(), {"trunk": ("*.trunk.*",)}, "and trunk has none"),
        (Settings(), {"trunk": ("*",), "head": ("*.head.*",)}, r"model\.head\.weight is in trunk"),
    ],
)
def test_groups_and_factors_have_the_same_names_and_exclude_each_other(settings, patterns, says):
    with pytest.raises(SettingsError, match=says):
        parameter_groups(net(), ("model",), settings, groups=patterns)
