"""A settings tree of what the terms read, batches with holes, predictions of the real head."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from losses.hdr import LossSettings
from metrics.hdr import MetricSettings
from models.hdr_head import HeadSettings, LogDomainHead
from settings.flat import replace
from settings.schema import Settings


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    hdr: HeadSettings = field(default_factory=HeadSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)


def make_settings(**changes):
    """The tree with changed keys; "__" stands for a dot."""
    tree = Tree()
    return replace(tree, {key.replace("__", "."): value for key, value in changes.items()})


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
    head = LogDomainHead(settings.hdr)
    return head(raw, head.prepare(batch))


def random_raw(batch, seed=0, size=0.5):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(batch["target"].shape, generator=generator)


def perfect_raw(batch, settings):
    """The raw output whose prediction is the target, where the cap allows it (squash tanh)."""
    start = make_prediction(batch, settings, torch.zeros_like(batch["target"]))
    needed = torch.log(batch["target"] + settings.hdr.epsilon) - start["log_base"]
    return torch.atanh((needed / start["scale"]).double()).float()


@pytest.fixture
def hdr():
    """The makers above, as one object (a conftest cannot be imported under importlib mode)."""
    return SimpleNamespace(
        Tree=Tree,
        settings=make_settings,
        batch=make_batch,
        prediction=make_prediction,
        raw=random_raw,
        perfect=perfect_raw,
    )
