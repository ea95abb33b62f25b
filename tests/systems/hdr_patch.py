"""`hdr_patch` for the suites: what its terms are looked at with, its loss curve, its presets."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from losses.adversarial import CriticSettings, adversarial_term
from losses.hdr_patch import TERMS, LossSettings
from metrics.hdr_patch import MetricSettings
from models.discriminator import DiscriminatorSettings
from models.hdr.head import HeadSettings, LogDomainHead
from settings.flat import replace
from settings.schema import Settings

NAME = "hdr_patch"

CURVE = {
    "model.use_motion": False,
    "train.steps": 24,
    "hdr.prefill": "zero",
    "hdr.cap.mode": "learnable",
    "hdr.cap.scale_init": 12.0,
    "optimizer.lr": 5e-3,
    "loss.wasserstein.enabled": True,
    "loss.range.enabled": True,
}
LEARNS = "val.loss.log"

BESIDE_A_PRESET = {"paper": ["data.source=folder", "data.root=frames"]}
"""What a preset for a user's own data needs with it."""

# The start of a critic is searched; a report before it says nothing of the end.
CHANGES_UNTIL = {"gan": 0.6, "full": 0.6}
"""Share of a training in which the loss of a space still changes, where it is above a tenth."""


# Log-normal radiance with holes


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    hdr: HeadSettings = field(default_factory=HeadSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)


def make_settings(tree, **changes):
    """The tree with changed keys; "__" stands for a dot."""
    return replace(tree(), {key.replace("__", "."): value for key, value in changes.items()})


def make_batch(seed=0, images=3, size=24, empty=()):
    """Log-normal radiance with one rectangular hole an image; no hole in the images of `empty`."""
    rng = np.random.default_rng(seed)
    target = np.exp(rng.normal(0.0, 1.5, (images, 3, size, size)))
    hole = np.zeros((images, 1, size, size))
    for index in set(range(images)) - set(empty):
        top, left = rng.integers(0, size - 8, 2)
        height, width = rng.integers(3, 8, 2)
        hole[index, :, top : top + height, left : left + width] = 1.0
    arrays = {"target": target, "hole": hole, "warped": target * (1.0 - hole)}
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in arrays.items()}


def make_prediction(batch, settings, raw):
    """The logits of the critic are 1 where the residual is right, on average over a patch."""
    head = LogDomainHead(settings.hdr)
    prediction = head(raw, head.prepare(batch))
    needed = torch.log(batch["target"] + settings.hdr.epsilon) - prediction["log_base"]
    error = (prediction["log_delta"] - needed).mean(dim=1, keepdim=True)
    return {**prediction, "fake_logits": 1.0 + F.avg_pool2d(error, 8)}


def random_raw(batch, seed=0, size=0.5):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(batch["target"].shape, generator=generator)


def perfect_raw(batch, settings):
    """The raw output whose prediction is the target, where the cap allows it (squash tanh)."""
    start = make_prediction(batch, settings, torch.zeros_like(batch["target"]))
    needed = torch.log(batch["target"] + settings.hdr.epsilon) - start["log_base"]
    return torch.atanh((needed / start["scale"]).double()).float()


MAKERS = SimpleNamespace(
    Tree=Tree,
    settings=functools.partial(make_settings, Tree),
    batch=make_batch,
    prediction=make_prediction,
    raw=random_raw,
    perfect=perfect_raw,
)


def audits():
    """Label -> how the terms are looked at (`tests/losses/test_term_audit.py`)."""
    tuned = MAKERS.settings(hdr__prefill="push_pull", hdr__mask=False, loss__log__kind="smooth_l1")
    means = {f"loss.{name}.over": "image" for name in ("hole", "boundary", "context")}
    factors = {"loss.perceptual.layer_weights": (1.5, 1.5, 2.0, 2.0), "loss.log.masked": True}
    return {
        "hdr_patch": _audit(
            tuned,
            {**TERMS, "adversarial": adversarial_term("least_squares", "target")},
            loose={"range": 8.0},
            minimum_elsewhere={"sparsity": "at the prefill", "range": "small raw"},
        ),
        "hdr_patch_document": _audit(
            replace(tuned, {**means, **factors}),
            {name: TERMS[name] for name in ("log", "hole", "boundary", "context", "perceptual")},
        ),
    }


def _audit(tree, terms, **more):
    return SimpleNamespace(
        terms=terms,
        settings=tree,
        sparse=replace(tree, {"hdr.mask": True}),
        batch=functools.partial(make_batch, size=32),
        raw=random_raw,
        prediction=make_prediction,
        perfect=perfect_raw,
        untried={
            "perceptual.backbone": "the other one needs weights not in a package",
            "perceptual.layer_weights": "a legal one has as many factors",
            "log.masked": "without hdr.mask it is the same",
        },
        **more,
    )
