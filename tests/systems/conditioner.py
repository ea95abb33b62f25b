"""`conditioner` for the suites: what its terms are looked at with, its loss curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from losses.conditioner import TERMS, LossSettings
from metrics.conditioner import MetricSettings
from models.fields.network import ModelSettings
from settings.flat import replace
from settings.schema import Settings

NAME = "conditioner"

CURVE = {
    "train.steps": 24,
    "model.dropout": 0.1,
    "vae.hier_size": 2,
    "vae.steps": 10,
    "loss.balancer.kind": "gradnorm",
    "loss.decoded.enabled": True,
    "loss.consistency.enabled": True,
    "loss.spectral.enabled": True,
}
LEARNS = "train.loss.main_mse"


# Main latent of 12 numbers, 3 hierarchical codes of 4, two feature maps


MAIN, CODES, CODE = 12, 3, 4
MAPS = ((6, 4), (8, 3))
"""Channels and side of each map."""

LATENTS = MAIN + CODES * CODE
FEATURES = sum(channels * side * side for channels, side in MAPS)


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)


def make_settings(**changes):
    """The tree with changed keys; "__" stands for a dot."""
    return replace(Tree(), {key.replace("__", "."): value for key, value in changes.items()})


def decode(main, hier):
    """A fixed linear decoder to [B, T, N] = [B, 5, 7]."""
    weight = torch.randn(35, LATENTS, generator=torch.Generator().manual_seed(0))
    return (torch.cat([main, hier.flatten(1)], dim=1) @ weight.T).unflatten(1, (5, 7))


def make_batch(seed=0, images=3, size=24, empty=()):
    """Scaled latents in [-.7, .7]; no second view in the samples of `empty`."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.tensor([0.0 if index in empty else 1.0 for index in range(images)])
    return {
        "image": torch.rand(images, 1, size, size, generator=generator),
        "main": 1.4 * torch.rand(images, MAIN, generator=generator) - 0.7,
        "hier": 1.4 * torch.rand(images, CODES, CODE, generator=generator) - 0.7,
        "paired_valid": valid,
    }


def random_raw(batch, seed=0, size=0.5):
    """[B, latents and features]"""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(len(batch["main"]), LATENTS + FEATURES, generator=generator)


def make_prediction(batch, settings, raw):
    """The paired prediction is the target, as a teacher without error would give it."""
    latents, rest = raw[:, :LATENTS].tanh(), raw[:, LATENTS:]
    main, hier = latents[:, :MAIN], latents[:, MAIN:].unflatten(1, (CODES, CODE))
    prediction = {
        "main": main,
        "hier": hier,
        "paired_main": batch["main"],
        "paired_hier": batch["hier"],
        "field": decode(main, hier),
        "target_field": decode(batch["main"], batch["hier"]),
    }
    for index, (channels, side) in enumerate(MAPS):
        part, rest = rest.tensor_split([channels * side * side], dim=1)
        prediction[f"feature_{index}"] = part.unflatten(1, (channels, side, side))
    return prediction


def perfect_raw(batch, settings):
    """The raw numbers of the targets; maps whose singular values are equal."""
    count = len(batch["main"])
    targets = torch.cat([batch["main"], batch["hier"].flatten(1)], dim=1)
    maps = [torch.eye(channels, side * side).flatten() for channels, side in MAPS]
    return torch.cat([targets.atanh(), torch.cat(maps).expand(count, -1)], dim=1)


MAKERS = SimpleNamespace(
    Tree=Tree,
    settings=make_settings,
    batch=make_batch,
    prediction=make_prediction,
    raw=random_raw,
    perfect=perfect_raw,
    decode=decode,
)


def audits():
    """Label -> how the terms are looked at (`tests/losses/test_term_audit.py`)."""
    return {
        "conditioner": SimpleNamespace(
            terms=TERMS,
            settings=make_settings(),
            sparse=make_settings(),
            batch=make_batch,
            raw=random_raw,
            prediction=make_prediction,
            perfect=perfect_raw,
            # Equal singular values in maps of 6 and 8 channels.
            least={"spectral": (1 / 6 + 1 / 8) / 2},
            untried={"consistency.teacher": "the forward reads it"},
        )
    }
