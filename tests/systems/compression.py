"""`compression` for the suites: what its terms are looked at with, its loss curve."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from losses.adversarial import CriticSettings, adversarial_term
from losses.compression import TERMS, LossSettings
from models.discriminator import DiscriminatorSettings
from settings.flat import replace
from settings.schema import Settings, setting

NAME = "compression"

CURVE = {
    "train.steps": 24,
    "train.batch_size": 4,
    "optimizer.lr": 5e-3,
    "loss.l1.regional.enabled": True,
    "batch_augment.enabled": True,
}
LEARNS = "val.loss.l1"

# The start of a critic is searched; a report before it says nothing of the end.
CHANGES_UNTIL = {"gan": 0.6, "full": 0.6}
"""Share of a training in which the loss of a space still changes, where it is above a tenth."""


# Masks as images, in 2-D and 3-D; a latent of 2 channels, a quarter of the sides

PATCHES = 3
"""Patches that the critic judges along each axis."""

PARTS = ("reconstruction", "logits", "mean", "deviation", "unquantised", "fake_logits")
LOGIT_SCALE = 12.0


@dataclass(frozen=True, kw_only=True)
class KindSettings(Settings):
    """What the loss reads of `models.autoencoders.settings.ModelSettings`."""

    kind: str = setting("vae", "of autoencoder", choices=("vae", "vqvae", "dcae"))
    seg_mode: bool = setting(False, "masks instead of images")


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    model: KindSettings = field(default_factory=KindSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)


def make_settings(**changes):
    """The tree with changed keys; "__" stands for a dot."""
    return replace(Tree(), {key.replace("__", "."): value for key, value in changes.items()})


def make_batch(seed=0, images=3, size=24, empty=(), dims=2, depth=None):
    """A box of lesion in each image, whose rows take turns in the four size classes; none in the
    images of `empty`.
    """
    rng = np.random.default_rng(seed)
    sides = (depth or size, size, size)[-dims:]
    mask = np.zeros((images, 1, *sides), dtype=np.float32)
    for index in set(range(images)) - set(empty):
        starts = rng.integers(0, np.array(sides) - 8)
        box = tuple(slice(s, s + n) for s, n in zip(starts, rng.integers(4, 8, dims), strict=True))
        mask[(index, 0, *box)] = 1.0
    rows = np.arange(sides[0]).reshape(-1, *[1] * (dims - 1)) % 4 + 1
    region = (mask * rows).astype(np.uint8)
    return {"image": torch.tensor(mask), "region": torch.tensor(region)}


def shapes_of(batch):
    """Part of the prediction -> its shape without the samples."""
    sides = batch["image"].shape[2:]
    latent = (2, *(side // 4 for side in sides))
    image, patches = (1, *sides), (1, *[PATCHES] * len(sides))
    return dict(zip(PARTS, (image, image, latent, latent, latent, patches), strict=True))


def random_raw(batch, seed=0, size=0.5):
    """[B, numbers of all parts]"""
    numbers = sum(int(np.prod(shape)) for shape in shapes_of(batch).values())
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(len(batch["image"]), numbers, generator=generator)


def make_prediction(batch, settings, raw):
    """The codes are the multiples of a half up to 1."""
    found = {}
    for name, shape in shapes_of(batch).items():
        part, raw = raw.tensor_split([int(np.prod(shape))], dim=1)
        found[name] = part.unflatten(1, shape)
    found["logits"] = LOGIT_SCALE * found["logits"]
    found["deviation"] = found["deviation"].clamp(-10.0, 10.0).exp()
    found["fake_logits"] = 1.0 + found["fake_logits"]
    z = found["unquantised"]
    code = (2.0 * z.clamp(-1.0, 1.0)).round() / 2.0
    return {**found, "latent": z + (code - z).detach()}


def perfect_raw(batch, settings):
    image = batch["image"].flatten(1)
    rest = random_raw(batch, size=0.0)[:, 2 * image.shape[1] :]
    return torch.cat([image, 2.0 * image - 1.0, rest], dim=1)


MAKERS = SimpleNamespace(
    Tree=Tree,
    settings=make_settings,
    batch=make_batch,
    prediction=make_prediction,
    raw=random_raw,
    perfect=perfect_raw,
)


def audits():
    """Label -> how the terms are looked at (`tests/losses/test_term_audit.py`)."""
    weighted = make_settings(loss__l1__regional__enabled=True)
    shared = {
        "settings": weighted,
        "sparse": weighted,
        "raw": random_raw,
        "prediction": make_prediction,
        "perfect": perfect_raw,
    }
    backbone = {"perceptual.backbone": "the other one needs weights not in a package"}
    return {
        "compression": SimpleNamespace(
            terms={**TERMS, "adversarial": adversarial_term("least_squares", "image")},
            batch=make_batch,
            untried={**backbone, "perceptual.slice_share": "of volumes"},
            **shared,
        ),
        "compression_3d": SimpleNamespace(
            terms={name: TERMS[name] for name in ("perceptual", "boundary")},
            batch=functools.partial(make_batch, size=16, dims=3, depth=9),
            untried=backbone,
            **shared,
        ),
    }
