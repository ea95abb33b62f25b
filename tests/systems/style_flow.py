"""`style_flow` for the suites: what its terms are looked at with, its loss curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from losses.style.flow import TERMS, LossSettings
from settings.flat import replace
from settings.schema import Settings

NAME = "style_flow"

CURVE = {
    # From noise, two styles of almost one channel each: what there is to learn in a few steps.
    "data.field_spread": 1e5,
    "data.field_lengths": (0.0, 0.3),
    "flow.t0_low": 0.01,
    "flow.t0_high": 0.1,
    "validation.t0": 0.0,
    "train.steps": 40,
    "optimizer.lr": 1e-2,
    "loss.swd.weight": 10.0,
    "loss.swd.patch_1": True,
    "loss.swd.patch_3": False,
    "loss.velocity.enabled": True,
    "loss.divergence.enabled": True,
}
LEARNS = "val.loss.swd"


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    loss: LossSettings = field(default_factory=LossSettings)


CHANNELS, REFERENCES = 3, 2


def make_batch(seed=0, images=3, size=24, empty=()):
    """Noise as latents; references of twice their length; those of `empty` keep their style."""
    generator = torch.Generator().manual_seed(seed)
    side = max(size // 3, 4)
    latent = torch.randn(images, CHANNELS, side, side, generator=generator)
    style = torch.arange(images) % 2
    keeps = torch.tensor([index in empty for index in range(images)])
    return {
        "latent": latent,
        "references": 2.0 * latent[:, None].repeat(1, REFERENCES, 1, 1, 1),
        "style": style,
        "target": torch.where(keeps, style, 1 - style),
        "seed": torch.arange(images) + 31 * seed,
        "update_seed": torch.full((images,), 7),
    }


def random_raw(batch, seed=0, size=0.5):
    """[B, 3 latents and 2 numbers]: what is added to the end point, the velocity, the noise beside
    the start; how far the end point falls back to the source, the divergence.
    """
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(len(batch["latent"]), numbers(batch), generator=generator)


def numbers(batch):
    return 3 * batch["latent"][0].numel() + 2


def make_prediction(batch, settings, raw):
    """With raw = 0 the end point is twice the source: the patches of its references, the cosines
    of its source, and beyond the margin from it.
    """
    latent, (back, divergence) = batch["latent"], raw[:, -2:].unbind(dim=1)
    added, velocity, noise = (part.view_as(latent) for part in raw[:, :-2].chunk(3, dim=1))
    away = 1.0 / (1.0 + 20.0 * back.square())
    x1 = latent + away[:, None, None, None] * latent + 0.3 * added.tanh()
    return {"x1": x1, "x0": x1 + noise, "velocity": velocity, "divergence": divergence}


def perfect_raw(batch, settings):
    """No velocity and no divergence, either."""
    return torch.zeros(len(batch["latent"]), numbers(batch))


def make_settings(**changes):
    """The tree with changed keys; "__" stands for a dot."""
    return replace(Tree(), {key.replace("__", "."): value for key, value in changes.items()})


def audits():
    """Label -> how the terms are looked at (`tests/losses/test_term_audit.py`)."""
    tree = make_settings(loss__swd__patch_1=True, loss__ssm__max_positions=9)
    return {
        "style_flow": SimpleNamespace(
            terms=TERMS,
            settings=tree,
            sparse=tree,
            batch=make_batch,
            raw=random_raw,
            prediction=make_prediction,
            perfect=perfect_raw,
            untried={
                "swd.max_samples": "there are fewer patches of so small latents",
                "swd.draws": "all patches are taken",
                "swd.dropped": "none is dropped",
                "swd.style_weights": "a legal one has as many numbers",
            },
        )
    }
