"""The examinations and signs of `style_flow`, of velocities whose flow is known."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from metrics.health import findings
from metrics.health_signs import readings
from metrics.style.flow import FLOOR
from models.draws import draw_normal
from models.style_flow.conditioning import NULL_STYLE
from settings.flat import replace
from trainables.loop import fit
from trainables.reporting.examine import examine
from trainables.run import LocalRun
from trainables.style_flow.system import StyleFlow

SYSTEM = StyleFlow()
QUIET = {"train.tensorboard": False, "train.figures": False, "train.test": False}


class Flow(torch.nn.Module):
    """v(x, t, style) of a function."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity = velocity

    def forward(self, x, t, style):
        return self.velocity(x, t, style)


def columns_of(cache, velocity, **changes):
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})
    prepared = SYSTEM.prepare(settings, cache)
    loaders = SYSTEM.loaders(settings, prepared)
    phase = SYSTEM.phases(settings, prepared)[0]
    exams = SYSTEM.examinations(settings, prepared)
    modules = {"network": Flow(velocity)}
    return examine(Accelerator(cpu=True), exams, modules, loaders, "validation", settings, phase)


def test_no_velocity_is_a_collapse_and_an_inversion_without_an_error(shared_cache):
    values = columns_of(shared_cache, lambda x, t, style: torch.zeros_like(x))
    assert values["val.velocity_share"] == 0.0
    assert values["val.inversion_error"] == 0.0
    # the results are the contents among a fifth of noise
    assert values["val.content_guided_2"] == values["val.content_guided_1"] > 0.0
    assert values["val.swd_guided_1"] > 0.0


def test_the_speed_is_measured_at_ten_times(shared_cache):
    values = columns_of(shared_cache, lambda x, t, style: 0.0 * x + t[:, None, None, None])
    times = np.arange(0.05, 1.0, 0.1)
    for t in times:
        assert values[f"val.velocity_{round(100 * t):02d}"] == pytest.approx(t, rel=1e-5)
    # noise has the deviation 1 and so have the fields, on the average
    expected = np.sqrt((times**2).mean() / 2.0)
    assert values["val.velocity_share"] == pytest.approx(expected, rel=0.1)


def test_the_inversion_error_is_that_of_euler_both_ways(shared_cache):
    """Of v = a x in 10 steps: x ((1 - a / 10)^10 (1 + a / 10)^10 - 1)."""
    errors = []
    for a in (0.5, 1.0):
        values = columns_of(shared_cache, lambda x, t, style, a=a: a * x)
        errors.append(values["val.inversion_error"])
    lost = [1.0 - (1.0 - a**2 / 100.0) ** 10 for a in (0.5, 1.0)]
    assert errors[1] / errors[0] == pytest.approx(lost[1] / lost[0], rel=1e-4)
    assert errors[0] == pytest.approx(lost[0], rel=0.2)  # the fields' root mean square is near 1


def cosines(x):
    vectors = np.asarray(x, np.float64).reshape(len(x), -1)
    unit = vectors / np.sqrt((vectors**2).sum(axis=0) + FLOOR**2)
    return unit.T @ unit


def test_guidance_weighs_the_target_by_the_mean_over_the_steps(shared_cache):
    """v = a (style + 1), and 0 of no style: from t0 on the generation adds (1 - t0) w a
    (target + 1), w from 2 to 1 at the starts of 10 steps.
    """

    def velocity(x, t, style):
        speed = torch.where(style == NULL_STYLE, 0.0, 0.3 * (style + 1.0))
        return speed[:, None, None, None].expand_as(x)

    values = columns_of(shared_cache, velocity)
    settings = replace(SYSTEM.Settings(), SYSTEM.small)
    t0 = settings.validation.t0
    pairs = SYSTEM.loaders(settings, SYSTEM.prepare(settings, shared_cache)).validation
    for name, start in (("1", 1.0), ("1_5", 1.5), ("2", 2.0), ("3", 3.0)):
        weight = np.mean([start + (1.0 - start) * step / 10 for step in range(10)])
        errors = []
        for case in range(8):
            pair = pairs[case * len(pairs) // 8]
            content, target = (pair[key].numpy() for key in ("latent", "target"))
            seed = int.from_bytes(hashlib.sha256(f"used/{case}".encode()).digest()[:7], "big")
            noise = draw_normal(torch.tensor([seed]), "flow.noise", content.shape)[0].numpy()
            start = (1.0 - t0) * noise + t0 * content
            result = start + 0.3 * (1.0 - t0) * weight * (target + 1)
            error = (cosines(result) - cosines(content)) ** 2
            errors.append(error[~np.eye(len(error), dtype=bool)].mean())
        expected = pytest.approx(np.mean(errors), rel=1e-4)
        assert values[f"val.content_guided_{name}"] == expected


def test_a_network_that_knows_no_missing_style_is_not_guided(shared_cache):
    def velocity(x, t, style):
        assert not bool((style == NULL_STYLE).any())
        return 0.1 * x

    values = columns_of(shared_cache, velocity, **{"label_drop.share": 0.0})
    assert values["val.swd_guided_1"] > 0.0
    assert all(values[f"val.swd_guided_{name}"] is None for name in ("1_5", "2", "3"))


@pytest.mark.parametrize(
    ("column", "value", "sign"),
    [
        ("velocity_share", 0.01, "velocity_low"),
        ("moved_share", 0.01, "moved_low"),
        ("outside_share", 0.2, "outside_high"),
    ],
)
def test_signs(column, value, sign):
    settings = SYSTEM.Settings().health
    fine = {"val.velocity_share": 0.5, "val.moved_share": 1.0, "val.outside_share": 0.001}
    measured = settings.measured
    assert findings(list(readings(fine, (), measured, {})), settings, 1) == []
    (bad,) = findings(
        list(readings({**fine, f"val.{column}": value}, (), measured, {})), settings, 1
    )
    assert bad.name == sign


def test_a_training_reports_its_signs_and_the_start_has_no_velocity(shared_cache, tmp_path):
    changes = {**SYSTEM.small, **QUIET, "train.steps": 2, "train.report_every": 1}
    settings, run = (
        replace(SYSTEM.Settings(), {**changes, "optimizer.lr": 1e-6}),
        LocalRun(tmp_path),
    )
    fit(SYSTEM, settings, run, SYSTEM.prepare(settings, shared_cache))
    report = run.history[-1]
    assert report["health.velocity_low.warned"] == 1.0
    assert report["health.velocity_low"] < 0.05
    assert report["health.moved_low"] == report["val.moved_share"] > 0.0
