"""Every kind of network trains in 3-D, in every space, under both strategies."""

from __future__ import annotations

import math

import pytest
import torch

from metrics.diffusion import LEVELS
from models.diffusion.settings import KINDS
from models.diffusion.spaces import SPACES
from settings.resolve import resolve
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.system import Diffusion
from trainables.loop import fit
from trainables.run import LocalRun

SYSTEM = Diffusion()
STEPS = 10
CHANGES = {
    "train.steps": STEPS,
    "train.report_every": STEPS,
    "train.batch_size": 1,
    "train.ema_decay": 0.0,
    "train.tensorboard": False,
    "train.figures": False,
    "train.examine_every": 0,
    "optimizer.warmup": 0.0,
    "data.patients": (2, 1, 1),
    "data.validation_samples": 1,
    "sampling.steps": 1,
}


SMALL = {"data.volume_size": (16, 16, 16)}
"""For what the size of the demo shows no better."""


def trained(cache, folder, **changes):
    """(the training's last report, how far its weights have gone)"""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    sampled = {**CHANGES, **named}
    resolved = resolve(DiffusionSettings, SYSTEM.name, preset="demo_3d", sampled=sampled)
    settings, run = resolved.settings, LocalRun(folder)
    prepared = SYSTEM.prepare(settings, cache)
    fit(SYSTEM, settings, run, prepared)
    return run.history[-1]


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_of_every_network_in_3d(shared_cache, tmp_path, kind, space, one_thread):
    """Better than no network: the prediction 0 has an error of 2 (the target is x_0 - noise, both
    of variance 1).
    """
    report = trained(shared_cache, tmp_path, model__kind=kind, space__kind=space)
    assert report["step"] == STEPS
    values = [report["train.loss.mse"], report["val.denoising_mse"], report["train.grad_norm"]]
    assert all(math.isfinite(value) and value > 0.0 for value in values)
    assert report["train.loss.mse"] < 2.5
    assert len(LEVELS) == 5 and math.isfinite(report["val.generated_mean"])


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_ten_steps_of_ddpm_in_3d(shared_cache, tmp_path, prediction, one_thread):
    changes = {"strategy__kind": "ddpm", "strategy__ddpm__prediction": prediction}
    report = trained(shared_cache, tmp_path, **changes, **SMALL)
    assert report["step"] == STEPS and math.isfinite(report["val.denoising_mse"])


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mode_seg_conditioned_3d", "mode_seg_conditioned_input_3d"])
def test_ten_steps_of_conditioned_masks_in_3d(shared_cache, tmp_path, preset, one_thread):
    resolved = resolve(DiffusionSettings, SYSTEM.name, preset=preset, sampled={**CHANGES, **SMALL})
    prepared = SYSTEM.prepare(resolved.settings, shared_cache)
    run = LocalRun(tmp_path)
    fit(SYSTEM, resolved.settings, run, prepared)
    assert math.isfinite(run.history[-1]["val.denoising_mse"])
    assert torch.isfinite(torch.tensor(run.history[-1]["train.loss.mse"]))
