"""`npt` for the suites: what its terms are looked at with, its loss curve."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from losses.npt.loss import TERMS, LossSettings
from models.npt.settings import ConverterSettings
from settings.flat import replace
from settings.schema import Settings

NAME = "npt"

CURVE = {
    "train.steps": 40,
    "train.batch_size": 8,
    "optimizer.lr": 2e-2,
    "model.pairs": 2,
    "loss.modulation.enabled": True,
    "loss.guidance.enabled": True,
}
LEARNS = "val.loss.fidelity"

CHANGES_UNTIL = {"stages": 0.6, "full": 0.6}

BESIDE_A_PRESET = {
    "paper": [
        "data.source=files",
        "data.path=texts",
        "data.tokenizer=llama",
        "teacher.path=llama",
    ]
}


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    loss: LossSettings = field(default_factory=LossSettings)
    model: ConverterSettings = field(default_factory=ConverterSettings)


LAYERS, TOKENS, REAL, WIDTH, HIDDEN, PAIRS, RANK, WORDS, DIRECTIONS = 2, 4, 3, 16, 6, 2, 3, 8, 12


def make_settings(**changes):
    """The tree with changed keys; "__" stands for a dot."""
    return replace(Tree(), {key.replace("__", "."): value for key, value in changes.items()})


def make_batch(seed=0, images=3, size=24, empty=()):
    """Three tokens and padding; attention goes in three directions that are as far apart as three
    can be, and is longer at each token.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = images, LAYERS, TOKENS
    angles = 2.0 * math.pi / 3.0 * torch.arange(TOKENS)
    axes = torch.zeros(TOKENS, WIDTH)
    axes[:, 0], axes[:, 1] = angles.cos(), angles.sin()
    lengths = 1.0 + torch.arange(TOKENS) + torch.rand(shape, generator=generator)
    mask = torch.arange(TOKENS).expand(images, TOKENS) < REAL
    mask = mask & ~torch.tensor([[index in empty] for index in range(images)])
    return {
        "mask": mask,
        "attention": lengths[..., None] * axes,
        "hidden": torch.randn(*shape, WIDTH, generator=generator),
        "target": torch.randn(*shape, WIDTH, generator=generator),
        "true_change": torch.randn(*shape, HIDDEN, generator=generator),
        "teacher_logits": torch.randn(images, TOKENS, WORDS, generator=generator),
    }


SIZES = {
    "mlp": WIDTH,
    "encoded": WIDTH,
    "v_a": PAIRS * WIDTH,
    "v_b": PAIRS * HIDDEN,
    "scalar": PAIRS,
    "change": HIDDEN,
    "mu": RANK,
    "log_sigma": RANK,
}


def numbers():
    return LAYERS * TOKENS * sum(SIZES.values()) + TOKENS * WORDS


def random_raw(batch, seed=0, size=0.5):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(len(batch["mask"]), numbers(), generator=generator)


def perfect_raw(batch, settings):
    return torch.zeros(len(batch["mask"]), numbers())


def importance(batch):
    """log(|a| / |h|), standardised over the real tokens of a sample."""
    a, h = (batch[name].norm(dim=-1) for name in ("attention", "hidden"))
    ratio = (a / h).log()
    real = ratio[:, :, :REAL]
    return (ratio - real.mean(dim=2, keepdim=True)) / real.std(dim=2, correction=0, keepdim=True)


def make_prediction(batch, settings, raw, changes=True):
    """With raw = 0 it is what the terms ask for: the target, v_a = a, s that tells the importance
    of attention and deviates enough, the true change of the gate (or none), the teacher's logits,
    a code that tells nothing and v_a across the directions of norm(h).
    """
    images = len(raw)
    of_layers, of_logits = raw.split([numbers() - TOKENS * WORDS, TOKENS * WORDS], dim=1)
    parts = of_layers.view(images, LAYERS, TOKENS, -1).split(list(SIZES.values()), dim=-1)
    r = dict(zip(SIZES, parts, strict=True))
    across = torch.zeros(WIDTH)
    across[-1] = 1.0
    told = torch.stack([2.0 - r["scalar"][..., 0] / 1.4, 1.1 - r["scalar"][..., 1] / 2.2], dim=-1)
    uneven = (torch.arange(WORDS) % 2).float()
    axes = torch.eye(WIDTH)[:, :DIRECTIONS]
    given = {name: batch[name] for name in ("hidden", "attention", "target", "true_change")}
    return {
        **given,
        "teacher_logits": batch["teacher_logits"],
        "logits": batch["teacher_logits"] + uneven * of_logits.view(images, TOKENS, WORDS),
        "normed": batch["hidden"] / batch["hidden"].square().mean(dim=-1, keepdim=True).sqrt(),
        "gate_of_attention": batch["true_change"] + 0.5,
        "mlp": batch["target"] + r["mlp"],
        "encoded": batch["attention"] + r["encoded"],
        "v_a": across + r["v_a"].view(images, LAYERS, TOKENS, PAIRS, WIDTH),
        "v_b": r["v_b"].view(images, LAYERS, TOKENS, PAIRS, HIDDEN),
        "scalar": importance(batch)[..., None] * told,
        "change": r["change"] + (batch["true_change"] if changes else 0.0),
        "mu": r["mu"],
        "log_sigma": r["log_sigma"],
        "directions": axes.expand(images, LAYERS, WIDTH, DIRECTIONS),
    }


def audits():
    """Label -> how the terms are looked at (`tests/losses/test_term_audit.py`)."""
    tree = make_settings(model__bottleneck=True)
    shared = {
        "settings": tree,
        "sparse": tree,
        "batch": make_batch,
        "raw": random_raw,
        "perfect": perfect_raw,
        "loose": {"variance": 3.0},
        "untried": {
            "fidelity.chunk": "how many tokens at once",
            "guidance.scale": "measure=square reads it",
        },
    }
    still = functools.partial(make_prediction, changes=False)
    most = {name: term for name, term in TERMS.items() if name != "regularisation"}
    return {
        "npt": SimpleNamespace(**shared, terms=most, prediction=make_prediction),
        "npt_still": SimpleNamespace(
            **shared, terms={"regularisation": TERMS["regularisation"]}, prediction=still
        ),
    }
