"""The document's table of experiments as presets: what each is, and that it trains."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from settings.files import list_presets, preset_file
from settings.flat import flatten
from settings.resolve import resolve
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.system import Diffusion
from trainables.loop import fit
from trainables.optimizing.rates import learning_rate
from trainables.run import LocalRun

SYSTEM = Diffusion()

LARGE = {"data.image_size": 128}
SCORE_AUG = {
    "score_aug.enabled": True,
    "score_aug.translation.enabled": True,
    "score_aug.cutout.enabled": True,
    "score_aug.per": "batch",
    "score_aug.identity": "shared_bit",
    "augment.kind": "none",
}

ROWS = {
    "exp2": ("exp1", {"strategy.ddpm.steps": 100}),
    "exp3": ("exp1", {"augment.kind": "diffusion"}),
    "exp4": ("exp1", {"train.ema_decay": 0.9}),
    "exp5": ("exp1", {"strategy.min_snr.enabled": True}),
    "exp6": ("exp1", LARGE),
    "exp7": ("exp6", {"model.unet.widths": (16, 32, 32, 64)}),
    "exp9_1": ("document", {**SCORE_AUG, "score_aug.flip": False}),
    "exp9_2": ("document", {**SCORE_AUG, "score_aug.brightness.enabled": True}),
    "exp11_1": ("document", {"optimizer.sam.radius": 0.05}),
    "exp11_2": ("exp11_1", {"optimizer.sam.adaptive": True}),
    "exp12_1": ("document", {"model.kind": "dit"}),
    "exp12_2": ("exp12_1", {"model.dit.size": "demo-B"}),
    "exp12_3": ("exp12_1", {"model.dit.size": "demo-L"}),
    "exp19_1": ("document", {"optimizer.schedule": "constant"}),
    "exp20_1": ("document", {"optimizer.noise.eta": 1e-4, "optimizer.noise.gamma": 1.1}),
    "exp21_1": (
        "document",
        {"strategy.curriculum.enabled": True, "strategy.curriculum.law": "uniform"},
    ),
    "exp22_1": (
        "document",
        {"strategy.jitter.enabled": True, "strategy.jitter.form": "clamped"},
    ),
    "exp23_1": (
        "document",
        {"regulariser.input_noise.enabled": True, "regulariser.input_noise.form": "both"},
    ),
    "exp24_1": ("document", {"regulariser.feature_noise.enabled": True}),
    "exp25_1": ("document", {"loss.consistency.enabled": True}),
}
"""Row -> the one that it changes, and all that it changes there."""

OWN_DRAWS = {"score_aug.per": "sample", "score_aug.identity": "own_bit"}
RIGHT = {
    "exp1": {"space.statistics": "voxels"},
    "exp9_1": OWN_DRAWS,
    "exp9_2": OWN_DRAWS,
    "exp11_2": {"optimizer.sam.radius": 0.5},
    "exp20_1": {"optimizer.noise.eta": 0.01, "optimizer.noise.gamma": 0.55},
    "exp21_1": {"strategy.curriculum.law": "rescaled"},
    "exp22_1": {"strategy.jitter.form": "reflected"},
    "exp23_1": {"regulariser.input_noise.form": "input"},
    "exp25_1": {
        "loss.consistency.enabled": False,
        "regulariser.self_conditioning.enabled": True,
    },
}
"""Row -> what `<row>_right` has in its place; of the others both forms are the same."""

POINTS = ("exp1", *ROWS, *(f"{name}_right" for name in RIGHT))

SMALL = {
    **{key: value for key, value in SYSTEM.small.items() if key.startswith("data.")},
    "data.validation_samples": 1,
    "sampling.steps": 2,
    "train.steps": 10,
    "train.report_every": 10,
    "train.batch_size": 2,
    "train.tensorboard": False,
    "train.figures": False,
    "train.examine_every": 0,
}


def read(preset, changes=None):
    return resolve(DiffusionSettings, SYSTEM.name, preset=preset, sampled=changes).settings


@functools.cache
def values(preset):
    return flatten(read(preset))


def changed(before, after):
    old, new = values(before), values(after)
    return {key: value for key, value in new.items() if value != old[key]}


def test_every_row_of_the_table_is_a_preset():
    found = {name for name in list_presets(SYSTEM.name) if name.startswith("exp")}
    assert found == set(POINTS)
    assert len(POINTS) - len(RIGHT) == 21


def test_the_first_row_is_ddpm_without_what_the_later_ones_add():
    assert changed("document", "exp1") == {
        "strategy.kind": "ddpm",
        "strategy.rflow.std": 1.8,  # read by neither: the default
        "strategy.rflow.transform.enabled": False,
        "strategy.rflow.transform.base": "cells",
        "sampling.rflow.solver": "euler",
        "augment.kind": "none",
    }
    first = read("exp1")
    assert (first.strategy.ddpm.steps, first.strategy.ddpm.prediction) == (1000, "epsilon")
    assert not first.strategy.min_snr.enabled and first.train.ema_decay == 0.0


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_what_the_table_says_and_nothing_else(name):
    before, expected = ROWS[name]
    assert changed(before, name) == expected


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_form_changes_the_idea_of_its_row_alone(name):
    assert changed(name, f"{name}_right") == RIGHT[name]


def test_the_repair_of_the_hook_that_matches_nothing_is_said_in_its_file():
    text = preset_file(SYSTEM.name, "exp24_1").path.read_text()
    assert "001-M18" in text and "repair" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_ten_steps_of_every_row(shared_cache, tmp_path, name, one_thread):
    settings, run = read(name, SMALL), LocalRun(tmp_path)
    fit(SYSTEM, settings, run, SYSTEM.prepare(settings, shared_cache))
    report = run.history[-1]
    assert report["step"] == 10
    measured = [report["train.loss.mse"], report["val.loss.mse"], report["val.denoising_mse"]]
    assert all(math.isfinite(value) and value > 0.0 for value in measured)


# The document's own sizes


def test_the_paper_has_the_documents_network():
    settings = read("paper")
    with torch.device("meta"):
        network = SYSTEM.build(settings, None).modules["network"]
        x, time = torch.empty(2, 1, 128, 128), torch.empty(2)
        assert network(x, time).shape == x.shape
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(18.50, abs=0.01)


def test_the_paper_has_the_documents_schedule_and_average():
    """500 epochs of 14,000 slices by 16, a warm-up of 5 from a tenth, a cosine to 1e-6."""
    settings = read("paper")
    steps, optimizer, train = settings.train.steps, settings.optimizer, settings.train
    assert steps == 500 * 14_000 // 16
    rates = [learning_rate(optimizer, at, steps) for at in (0, steps // 100, steps)]
    assert rates == pytest.approx([1e-5, 1e-4, 1e-6])
    assert (train.batch_size, train.precision, train.clip_norm) == (16, "bf16", 1.0)
    assert (train.ema_decay, train.ema_start, train.ema_every) == (0.9999, 100, 10)
    assert optimizer.weight_decay == 0.0 and (optimizer.beta1, optimizer.beta2) == (0.9, 0.999)


def test_the_paper_is_document_at_another_size():
    """Beside sizes, precision and average, which the demo cannot have, it changes nothing."""
    sizes = ("model.unet.", "data.image_size", "data.lesion_pixels", "train.", "sampling.steps")
    assert all(key.startswith(sizes) for key in changed("document", "paper"))
