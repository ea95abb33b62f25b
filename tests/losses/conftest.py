"""By system: a settings tree of what the terms read, batches, predictions of raw numbers.

The objects have the same members, so that a test can go over all systems.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losses import compression as compression_loss
from losses import conditioner as conditioner_loss
from losses.adversarial import CriticSettings
from losses.balancers.base import Observed
from losses.balancers.settings import BalancerSettings, make_balancer
from losses.hdr_patch import LossSettings
from losses.terms import Term
from metrics import conditioner as conditioner_metrics
from metrics.hdr_patch import MetricSettings
from models.discriminator import DiscriminatorSettings
from models.fields.network import ModelSettings
from models.hdr.head import HeadSettings, LogDomainHead
from settings.flat import replace
from settings.schema import Settings, setting


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


@pytest.fixture
def hdr():
    """The makers above, as one object (a conftest cannot be imported under importlib mode)."""
    return SimpleNamespace(
        Tree=Tree,
        settings=functools.partial(make_settings, Tree),
        batch=make_batch,
        prediction=make_prediction,
        raw=random_raw,
        perfect=perfect_raw,
    )


# The conditioner: main latent of 12 numbers, 3 hierarchical codes of 4, two feature maps

MAIN, CODES, CODE = 12, 3, 4
MAPS = ((6, 4), (8, 3))
"""Channels and side of each map."""

LATENTS = MAIN + CODES * CODE
FEATURES = sum(channels * side * side for channels, side in MAPS)


@dataclass(frozen=True, kw_only=True)
class ConditionerTree(Settings):
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: conditioner_loss.LossSettings = field(default_factory=conditioner_loss.LossSettings)
    metric: conditioner_metrics.MetricSettings = field(
        default_factory=conditioner_metrics.MetricSettings
    )


def decode(main, hier):
    """A fixed linear decoder to [B, T, N] = [B, 5, 7]."""
    weight = torch.randn(35, LATENTS, generator=torch.Generator().manual_seed(0))
    return (torch.cat([main, hier.flatten(1)], dim=1) @ weight.T).unflatten(1, (5, 7))


def conditioner_batch(seed=0, images=3, size=24, empty=()):
    """Scaled latents in [-.7, .7]; no second view in the samples of `empty`."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.tensor([0.0 if index in empty else 1.0 for index in range(images)])
    return {
        "image": torch.rand(images, 1, size, size, generator=generator),
        "main": 1.4 * torch.rand(images, MAIN, generator=generator) - 0.7,
        "hier": 1.4 * torch.rand(images, CODES, CODE, generator=generator) - 0.7,
        "paired_valid": valid,
    }


def conditioner_raw(batch, seed=0, size=0.5):
    """[B, latents and features]"""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(len(batch["main"]), LATENTS + FEATURES, generator=generator)


def conditioner_prediction(batch, settings, raw):
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


def conditioner_perfect(batch, settings):
    """The raw numbers of the targets; maps whose singular values are equal."""
    count = len(batch["main"])
    targets = torch.cat([batch["main"], batch["hier"].flatten(1)], dim=1)
    maps = [torch.eye(channels, side * side).flatten() for channels, side in MAPS]
    return torch.cat([targets.atanh(), torch.cat(maps).expand(count, -1)], dim=1)


@pytest.fixture
def conditioner():
    return SimpleNamespace(
        Tree=ConditionerTree,
        settings=functools.partial(make_settings, ConditionerTree),
        batch=conditioner_batch,
        prediction=conditioner_prediction,
        raw=conditioner_raw,
        perfect=conditioner_perfect,
        decode=decode,
    )


# The autoencoders: masks as images, in 2-D and 3-D; a latent of 2 channels, a quarter of the sides

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
class CompressionTree(Settings):
    model: KindSettings = field(default_factory=KindSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    loss: compression_loss.LossSettings = field(default_factory=compression_loss.LossSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)


def compression_batch(seed=0, images=3, size=24, empty=(), dims=2, depth=None):
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


def compression_shapes(batch):
    """Part of the prediction -> its shape without the samples."""
    sides = batch["image"].shape[2:]
    latent = (2, *(side // 4 for side in sides))
    image, patches = (1, *sides), (1, *[PATCHES] * len(sides))
    return dict(zip(PARTS, (image, image, latent, latent, latent, patches), strict=True))


def compression_raw(batch, seed=0, size=0.5):
    """[B, numbers of all parts]"""
    numbers = sum(int(np.prod(shape)) for shape in compression_shapes(batch).values())
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(len(batch["image"]), numbers, generator=generator)


def compression_prediction(batch, settings, raw):
    """The codes are the multiples of a half up to 1."""
    found = {}
    for name, shape in compression_shapes(batch).items():
        part, raw = raw.tensor_split([int(np.prod(shape))], dim=1)
        found[name] = part.unflatten(1, shape)
    found["logits"] = LOGIT_SCALE * found["logits"]
    found["deviation"] = found["deviation"].clamp(-10.0, 10.0).exp()
    found["fake_logits"] = 1.0 + found["fake_logits"]
    z = found["unquantised"]
    code = (2.0 * z.clamp(-1.0, 1.0)).round() / 2.0
    return {**found, "latent": z + (code - z).detach()}


def compression_perfect(batch, settings):
    image = batch["image"].flatten(1)
    rest = compression_raw(batch, size=0.0)[:, 2 * image.shape[1] :]
    return torch.cat([image, 2.0 * image - 1.0, rest], dim=1)


@pytest.fixture
def compression():
    return SimpleNamespace(
        Tree=CompressionTree,
        settings=functools.partial(make_settings, CompressionTree),
        batch=compression_batch,
        prediction=compression_prediction,
        raw=compression_raw,
        perfect=compression_perfect,
    )


# Balancers: three terms, and steps as a balancer sees them

NAMES = ("near", "far", "edge")
ONES = dict.fromkeys(NAMES, 1.0)


def summed(prediction, batch, settings):
    return prediction["x"].sum()


def counted(batch, settings):
    return torch.tensor(1.0)


TERMS = {name: Term(summed, counted) for name in NAMES}


def make_balanced(kind, names=NAMES, **changes):
    return make_balancer(BalancerSettings(kind=kind, **changes), {n: TERMS[n] for n in names})


def seen(losses, norms=None, seed=0, names=NAMES):
    norms = {} if norms is None else dict(zip(names, map(float, norms), strict=True))
    return Observed(dict(zip(names, map(float, losses), strict=True)), norms, seed)


def weights(balancer, step=0, base=ONES):
    return list(balancer.weights(base, step).values())


def course(steps, names=3, seed=0):
    """Losses and gradient norms that fall unevenly, [steps, names] each."""
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.85, 1.0, names)
    losses = rng.uniform(0.1, 5.0, names) * rates ** np.arange(steps)[:, None]
    noise = np.exp(0.05 * rng.normal(size=(2, steps, names)))
    return losses * noise[0], (0.3 + losses) * noise[1]


def follow(balancer, steps, first=0):
    losses, norms = course(40, len(balancer.names), seed=5)
    for step in range(first, steps):
        names = balancer.names
        balancer.observe(seen(losses[step], norms[step], seed=step, names=names), step)


@pytest.fixture(scope="session")
def balancers():
    makers = {"terms": TERMS, "make": make_balanced, "seen": seen, "course": course}
    return SimpleNamespace(**makers, weights=weights, follow=follow)
