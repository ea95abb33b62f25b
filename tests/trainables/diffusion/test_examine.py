"""The signs of a training of diffusion, against what they are said to be."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from metrics.health import findings
from metrics.health_signs import readings
from settings.flat import replace
from trainables.diffusion import examine
from trainables.diffusion.system import Diffusion
from trainables.loop import fit
from trainables.run import LocalRun

SYSTEM = Diffusion()
QUIET = {"train.tensorboard": False, "train.figures": False, "train.test": False}


def trained(cache, folder, **changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    base = {**SYSTEM.small, **QUIET, "train.steps": 4, "train.report_every": 4}
    settings, run = replace(SYSTEM.Settings(), {**base, **named}), LocalRun(folder)
    fit(SYSTEM, settings, run, SYSTEM.prepare(settings, cache))
    return run.history[-1]


def spread(made, given):
    moments = torch.cat([*examine._moments(made), *examine._moments(given)])
    return examine._ratio_of_deviations(moments, float(len(made)))


@pytest.mark.parametrize("sides", [(12, 20), (6, 8, 10)])
def test_the_spread_is_the_root_of_the_ratio_of_variances(sides):
    rng = np.random.default_rng(0)
    made, given = (rng.normal(size=(5, 1, *sides)) * width for width in (0.3, 0.1))
    expected = math.sqrt(made.var(axis=0, ddof=1).mean() / given.var(axis=0, ddof=1).mean())
    assert spread(torch.tensor(made), torch.tensor(given)) == pytest.approx(expected, rel=1e-12)


def test_images_that_are_all_alike_have_no_spread():
    rng = np.random.default_rng(1)
    given = torch.tensor(rng.normal(size=(4, 1, 40, 40)))
    assert spread(given[:1].expand(4, -1, -1, -1), given) == pytest.approx(0.0, abs=1e-7)
    assert spread(given, given) == 1.0
    assert math.isnan(spread(given, given[:1].expand(4, -1, -1, -1)))


def test_the_spread_of_two_workers_is_that_of_one():
    rng = np.random.default_rng(2)
    made, given = (torch.tensor(rng.normal(size=(6, 1, 9, 9))) for _ in range(2))
    shares = [
        torch.cat([*examine._moments(made[part::2]), *examine._moments(given[part::2])])
        for part in range(2)
    ]
    assert examine._ratio_of_deviations(sum(shares), 6.0) == pytest.approx(spread(made, given))


def test_a_network_before_its_first_step_does_not_look_at_the_time(shared_cache, tmp_path):
    """Its last layer is 0, so that there is nothing to compare; one step later there is."""
    report = trained(shared_cache, tmp_path, train__ema_decay=0.5)
    assert 0.0 < report["val.time_response"] < 1.0
    assert report["val.average_error"] > 0.0
    assert report["val.generated_spread"] > 0.0
    assert report["health.spread_low"] == report["val.generated_spread"]


def test_without_a_moving_average_nothing_is_behind(shared_cache, tmp_path):
    report = trained(shared_cache, tmp_path)
    assert report["val.average_error"] is None
    assert "health.average_behind" in report and report["health.average_behind"] is None


@pytest.mark.slow
def test_an_average_of_the_first_weights_is_warned_of(shared_cache, tmp_path):
    """The data are learned within 60 steps, and the average still has the weights of before."""
    slow = trained(
        shared_cache,
        tmp_path,
        train__ema_decay=0.99999,
        train__steps=60,
        train__report_every=60,
        optimizer__lr=1e-2,
    )
    assert slow["val.average_error"] > 2.0
    assert slow["health.average_behind.warned"] == 1.0


class _Asked(torch.nn.Module):
    """A network that says its input times a function of the time."""

    def __init__(self, of_time):
        super().__init__()
        self.of_time = of_time

    def forward(self, x, t, embedding=None, context=None):
        return x * self.of_time(t).view(-1, 1, 1, 1)


def signs_of(cache, network, newest=None):
    settings = replace(SYSTEM.Settings(), SYSTEM.small)
    prepared = SYSTEM.prepare(settings, cache)
    modules = {**SYSTEM.build(settings, prepared).modules, "network": network}
    if newest is not None:
        modules["last.network"] = newest
    from accelerate import Accelerator

    from trainables.reporting.examine import examine as run

    phase = SYSTEM.phases(settings, prepared)[0]
    exams = [exam for exam in SYSTEM.examinations(settings, prepared) if exam.name == "signs"]
    loaders = SYSTEM.loaders(settings, prepared)
    return run(Accelerator(cpu=True), exams, modules, loaders, "validation", settings, phase)


def test_the_response_to_time_of_a_known_network(shared_cache):
    """f(t) x has the deviation of f over the three times, relative to its root mean square."""
    assert signs_of(shared_cache, _Asked(torch.ones_like))["val.time_response"] == 0.0
    # rectified flow has t = sigmoid(-log-SNR / 2), in standardised units
    times = 1.0 / (1.0 + np.exp(np.array([-6.0, 0.0, 6.0]) / 2.0))
    expected = times.std() / np.sqrt((times**2).mean())
    found = signs_of(shared_cache, _Asked(lambda t: t))["val.time_response"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_error_of_an_average_is_relative_to_the_last_weights(shared_cache):
    same = _Asked(lambda t: 1.0 + t)
    assert signs_of(shared_cache, same, copy.deepcopy(same))["val.average_error"] == 1.0
    worse = _Asked(lambda t: 30.0 * torch.ones_like(t))
    assert signs_of(shared_cache, worse, same)["val.average_error"] > 10.0
    assert signs_of(shared_cache, same, worse)["val.average_error"] < 0.1


@pytest.mark.parametrize(
    ("column", "value", "sign"),
    [
        ("val.generated_spread", 0.4, "spread_low"),
        ("val.generated_spread", 2.1, "spread_high"),
        ("val.time_response", 5e-7, "time_response"),
        ("val.average_error", 2.1, "average_behind"),
    ],
)
def test_each_sign_warns_beyond_its_threshold(column, value, sign):
    settings = SYSTEM.Settings().health
    healthy = {
        "val.generated_spread": 1.0,
        "val.time_response": 0.5,
        "val.average_error": 1.0,
    }
    assert not findings(list(readings(healthy, (), settings.measured, {})), settings, 1)
    ill = findings(
        list(readings({**healthy, column: value}, (), settings.measured, {})), settings, 1
    )
    assert [finding.name for finding in ill] == [sign]
