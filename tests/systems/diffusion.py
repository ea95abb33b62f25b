"""`diffusion` for the suites: what its terms are looked at with, its loss curve."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from losses.diffusion import TERMS, LossSettings
from models.diffusion.spaces import SpaceSettings
from models.diffusion.strategies.settings import StrategySettings
from settings.flat import replace
from settings.mri import GROUPS
from settings.schema import Settings, setting

NAME = "diffusion"

CURVE = {
    "train.steps": 40,
    "train.batch_size": 4,
    "optimizer.lr": 1e-2,
    "loss.regional.enabled": True,
}
LEARNS = "val.loss.mse"

CHANGES_UNTIL = {"full": 0.4}
"""The end of the curriculum is one of the numbers that it searches."""

BESIDE_A_PRESET = {
    "control": ["train.init_from=runs/right"],
    "latent": ["space.latents=runs/vae"],
    "mode_bravo_seg_cond": ["space.latents=runs/vae", "condition.mask.encoder=runs/masks"],
}


@dataclass(frozen=True, kw_only=True)
class GroupSettings(Settings):
    group: str = setting("bravo", "what a sample is", choices=tuple(GROUPS))


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    data: GroupSettings = field(default_factory=GroupSettings)
    strategy: StrategySettings = field(default_factory=StrategySettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    loss: LossSettings = field(default_factory=LossSettings)


def make_settings(**changes):
    """The tree with changed keys; "__" stands for a dot."""
    return replace(Tree(), {key.replace("__", "."): value for key, value in changes.items()})


def make_batch(seed=0, images=3, size=24, empty=(), dims=2):
    """Noise as images, with a box of lesion whose rows take turns in the four size classes; none
    in the images of `empty`.
    """
    rng = np.random.default_rng(seed)
    sides = (size,) * dims
    region = np.zeros((images, 1, *sides), dtype=np.uint8)
    rows = np.arange(sides[0]).reshape(-1, *[1] * (dims - 1)) % 4 + 1
    for index in set(range(images)) - set(empty):
        starts = rng.integers(0, size // 2, dims)
        box = tuple(slice(s, s + size // 3) for s in starts)
        inside = np.zeros(sides, dtype=np.uint8)
        inside[box] = 1
        region[index, 0] = inside * rows
    image = rng.uniform(size=(images, 1, *sides)).astype(np.float32)
    target = rng.normal(size=(images, 1, *sides)).astype(np.float32)
    return {
        "image": torch.from_numpy(image),
        "region": torch.from_numpy(region),
        "network.target": torch.from_numpy(target),
    }


def random_raw(batch, seed=0, size=0.5):
    """[B, 4 numbers of an image]: what is predicted, the same again, that of augmented images, and
    the image of the clean estimate.
    """
    numbers = 4 * batch["image"][0].numel()
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(len(batch["image"]), numbers, generator=generator)


def make_prediction(batch, settings, raw):
    """Samples have weights of their own, as Min-SNR gives them."""
    predicted, second, augmented, image = raw.chunk(4, dim=1)
    target = batch["network.target"]
    return {
        "prediction": predicted.view_as(target),
        "second": 2.0 * target - second.view_as(target),  # away from the first as raw grows
        "sda.prediction": augmented.view_as(target),
        "sda.target": target,
        "sda.weight": (torch.arange(len(target)) % 2).float(),
        "reconstruction": image.view_as(target),
        "target": target,
        "weight": 1.0 + target.flatten(1).mean(dim=1).abs(),
    }


def perfect_raw(batch, settings):
    target = batch["network.target"].flatten(1)
    return torch.cat([target, target, target, batch["image"].flatten(1)], dim=1)


def audits():
    """Label -> how the terms are looked at (`tests/losses/test_term_audit.py`)."""
    regional = make_settings(loss__regional__enabled=True)
    shared = {
        "settings": regional,
        "sparse": regional,
        "raw": random_raw,
        "prediction": make_prediction,
        "perfect": perfect_raw,
    }
    backbone = {"perceptual.backbone": "the other one needs weights not in a package"}
    of_forward = ("probability", "shift", "rotation", "flip", "per", "form")
    forward = dict.fromkeys(
        ("consistency.probability", *(f"sda.{key}" for key in of_forward)),
        "the forward reads it (tests/trainables/diffusion)",
    )
    return {
        "diffusion": SimpleNamespace(
            terms=TERMS,
            batch=make_batch,
            untried={**backbone, **forward, "perceptual.slice_share": "of volumes"},
            **shared,
        ),
        "diffusion_3d": SimpleNamespace(
            terms={"regional": TERMS["regional"]},
            batch=functools.partial(make_batch, size=12, dims=3),
            untried=backbone,
            **shared,
        ),
    }
