"""Solvers of torchdiffeq, by their own names: what they arrive at, and what is said without it."""

from __future__ import annotations

import sys

import pytest
import torch

from models.diffusion.strategies.library import check_library, library_trajectory
from models.diffusion.strategies.sampling import sample, sample_path
from models.diffusion.strategies.settings import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    LIBRARY,
    LibrarySettings,
)
from models.integration import time_grid
from settings.schema import SettingsError

SEEDS = torch.arange(6)
REASON = "torchdiffeq is an extra: pip install 'weighbridge[ode]'"

pytestmark = pytest.mark.usefixtures("one_thread")


def chosen(analytic, method, steps=40, **changes):
    named = {f"rflow__torchdiffeq__{key}": value for key, value in changes.items()}
    return analytic.sampling(
        steps=steps, rflow__solver=LIBRARY, rflow__torchdiffeq__method=method, **named
    )


def test_without_the_package_the_error_names_the_extra(analytic, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)  # as where it is not installed
    with pytest.raises(SettingsError, match=r"not installed.*weighbridge\[ode\].*such as heun"):
        check_library()
    made = analytic.strategy("rflow")
    with pytest.raises(SettingsError, match="needs the package torchdiffeq"):
        sample(made, analytic.gaussian(made), SEEDS, (1,), chosen(analytic, "dopri5"))


@pytest.mark.parametrize("method", [*FIXED_METHODS, *ADAPTIVE_METHODS])
def test_every_method_arrives_at_gaussian_data(analytic, method):
    """x(0) = mean + std x(1), at the times of the grid too."""
    pytest.importorskip("torchdiffeq", reason=REASON)
    made = analytic.strategy("rflow")
    settings = chosen(analytic, method)
    path = list(sample_path(made, analytic.gaussian(made), SEEDS, (1,), settings))
    expected = analytic.mean + analytic.std * path[0].x
    tolerance = 3e-2 if method == "euler" else 1e-3
    torch.testing.assert_close(path[-1].x, expected, rtol=0.0, atol=tolerance)
    assert [state.t for state in path] == made.sampling_times(settings).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_an_adaptive_method_solves_each_sample_alone(analytic, method):
    """Bit for bit; and its steps go by the tolerances."""
    pytest.importorskip("torchdiffeq", reason=REASON)
    made, predict = analytic.strategy("rflow"), analytic.mixture(analytic.strategy("rflow"))
    settings = chosen(analytic, method)
    together = sample(made, predict, SEEDS, (1,), settings)
    alone = [sample(made, predict, seed[None], (1,), settings) for seed in SEEDS]
    assert torch.equal(together.x, torch.cat([one.x for one in alone]))
    assert together.evaluations == sum(one.evaluations for one in alone)
    exact = sample(made, predict, SEEDS, (1,), chosen(analytic, method, rtol=1e-6, atol=1e-6))
    assert exact.evaluations > together.evaluations


def test_its_rk4_is_the_three_eighths_rule():
    """One step of x' = t x from 0 to 1, by hand, where Runge's own rule has another value."""
    pytest.importorskip("torchdiffeq", reason=REASON)
    x, settings = torch.ones(1, 1, dtype=torch.float64), LibrarySettings(method="rk4")
    *_, (_, found) = library_trajectory(
        lambda x, t: t[:, None] * x, x, time_grid(1, 0.0, 1.0), settings
    )
    first = 0.0
    second = (1 / 3) * (1.0 + first / 3)
    third = (2 / 3) * (1.0 - first / 3 + second)
    fourth = 1.0 * (1.0 + first - second + third)
    expected = 1.0 + (first + 3 * second + 3 * third + fourth) / 8
    assert found.item() == pytest.approx(expected, abs=1e-12)
