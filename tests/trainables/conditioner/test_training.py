"""Trainings of the conditioner: resumed, balanced, warned of, logged, and with data left as it
was.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from losses.conditioner import TERMS
from trainables.conditioner.system import Conditioner
from trainables.reporting.watch import watched

pytestmark = pytest.mark.slow

EVERYTHING_MOVES = {
    f"augment.{name}_probability": 1.0
    for name in ("outer", "inner", "flip", "shift", "rotation", "scale", "mixup", "noise")
} | {"augment.flip_symmetric": True, "augment.noise_sigma": 0.2}


def without_time(report):
    return {column: value for column, value in report.items() if column != "seconds"}


@pytest.mark.parametrize("kind", ["gradnorm", "inverse_gradient"])
def test_a_resumed_training_with_a_gradient_balancer_equals_an_uninterrupted_one(
    conditioner, tmp_path, kind
):
    changes = {
        "loss.balancer.kind": kind,
        "loss.balancer.interval": 1,
        "loss.balancer.lr": 0.1,
        "loss.main_mae.enabled": True,
        "loss.consistency.enabled": True,
        "loss.consistency.teacher": "ema",
        "train.ema_decay": 0.5,
        "model.dropout": 0.2,
    }
    whole, expected = conditioner.fit(tmp_path / "whole", changes)
    conditioner.fit(tmp_path / "part", changes, stop=2)
    rest, found = conditioner.fit(tmp_path / "part", changes, resume=True)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert without_time(rest[-1]) == without_time(whole[-1])
    weights = {whole[-1][f"train.loss.{name}.weight"] for name in ("main_mse", "hier_mse")}
    assert len(weights) == 2, "the balancer has moved nothing"


def test_a_balancer_looks_at_the_last_weights_that_both_heads_see(conditioner):
    settings = conditioner.settings({"loss.balancer.kind": "gradnorm"})
    (phase,) = conditioner.system.phases(settings, None)
    built = conditioner.system.build(settings, conditioner.prepared())
    shared, model = list(phase.shared(built.modules)), built.modules["model"]
    image = torch.rand(2, 1, 16, 16)
    for kind in ("main", "hier"):
        gradients = torch.autograd.grad(model(image)[kind].sum(), shared)
        assert all(bool(g.abs().sum() > 0) for g in gradients)
    heads = {id(p) for head in (model.main, model.hier) for p in head.parameters()}
    assert not heads & {id(p) for p in shared}


def test_the_weights_of_the_softmax_collapse_and_it_is_said(conditioner, tmp_path, capsys):
    """The source's weighter gives all weight to the smallest loss (000-M8)."""
    changes = {
        "loss.balancer.kind": "softmax",
        "loss.balancer.lr": 0.5,
        "loss.main_mae.enabled": True,
        "train.steps": 16,
        "train.report_every": 4,
    }
    history, _ = conditioner.fit(tmp_path, changes)
    assert history[-1]["health.weight_collapse"] < 0.05
    assert history[-1]["health.weight_collapse.warned"] == 1.0
    said = capsys.readouterr().err
    assert said.count("weight collapse of loss.main_mae") == 1
    losses = {name: history[-1][f"val.loss.{name}"] for name in ("main_mse", "main_mae")}
    assert losses["main_mae"] > losses["main_mse"], "the largest loss has lost its weight"


def test_fixed_weights_do_not_collapse(conditioner, tmp_path, capsys):
    history, _ = conditioner.fit(tmp_path, {"loss.main_mae.enabled": True})
    assert history[-1]["health.weight_collapse"] is None
    assert "weight collapse" not in capsys.readouterr().err
    (phase,) = conditioner.system.phases(conditioner.settings(), None)
    assert watched(phase).balanced == {}


def test_the_sources_names_are_in_the_event_file(conditioner, tmp_path):
    conditioner.fit(tmp_path, {"train.tensorboard": True, "train.steps": 2})
    (events,) = (tmp_path / "tensorboard").iterdir()
    written = events.read_bytes()
    for index, name in enumerate(TERMS):
        assert f"Adaptive_Weights/component_{index}".encode() in written, name
    for tag in ("Enhanced_Loss/main_mse", "Enhanced_Loss/hier_mse", "Enhanced_Loss/total"):
        assert tag.encode() in written
        assert tag.replace("Enhanced_Loss/", "train.loss.").encode() in written


class Kept(Conditioner):
    """The system, whose data can be looked at after a training."""

    def loaders(self, settings, prepared):
        self.made = super().loaders(settings, prepared)
        self.before = self.checksum(self.made)
        return self.made

    @staticmethod
    def checksum(loaders):
        found = []
        for data in (loaders.train, loaders.validation):
            store = data.store
            for values in (store.images, store.main, store.hier):
                found.append(hashlib.sha256(np.asarray(values).tobytes()).hexdigest())
        return found


def test_an_epoch_of_training_leaves_the_data_as_it_was(conditioner, tmp_path):
    """000-M14: an augmentation in place damages a data set that is kept in memory."""
    system = Kept()
    prepared = conditioner.prepared()
    images = Path(prepared.arrays.folder) / "images.npy"
    files = [images, prepared.latents / "main.npy", prepared.latents / "hier.npy"]
    before = [path.read_bytes() for path in files]
    changes = {**EVERYTHING_MOVES, "loss.consistency.enabled": True}
    changes |= {"train.steps": 6, "train.report_every": 6}
    history, _ = conditioner.fit(tmp_path, changes, system=system)
    assert len(system.made.train) <= 6 * 4, "less than an epoch"
    assert system.checksum(system.made) == system.before
    assert [path.read_bytes() for path in files] == before
    plain, _ = conditioner.fit(tmp_path / "plain", {**changes, "augment.mixup_probability": 0.0})
    assert history[-1]["train.loss.total"] != plain[-1]["train.loss.total"], "nothing was mixed"
