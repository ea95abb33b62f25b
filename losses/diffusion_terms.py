"""The terms of diffusion, pure functions that sum over samples, or over cells where said, and
their settings.

What is compared is what the network predicts of x_t (a velocity, the noise) with what it should,
in the space of the diffusion. `losses.images.perceptual` compares the clean estimate as an image
with the image, both as they are after the space and its standardisation are undone (001-M24).

Shapes: B samples, C channels and *S the sides of images; c channels and *s cells of the space that
is diffused. `prediction`, `second`, `target` [B, c, *s]; `weight` [B], of Min-SNR; `image`
[B, C, *S]; `region` [B, 1, *S].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.balancers.settings import BalancerSettings
from losses.images import PerceptualSettings
from losses.regional import SizeWeights, weighted_values, weights_by_region
from losses.terms import Tensors, TermSettings
from models.diffusion.score_aug.sda import SdaSettings
from settings.schema import Settings, setting

LATENT = "latent"
"""Of a batch, where latents are diffused: [B, c, *s], before they are standardised."""


@dataclass(frozen=True, kw_only=True)
class RegionalTermSettings(TermSettings):
    """A second squared error, in which the pixels of lesions count more."""

    size: SizeWeights = field(default_factory=SizeWeights)
    normalised: bool = setting(
        True,
        "divide by the sum of the weights; false, by the number of values, the document's form, "
        "in which lesions raise the loss (001-M17)",
    )


@dataclass(frozen=True, kw_only=True)
class ConsistencyTermSettings(TermSettings):
    """The difference between two predictions of the same x_t (001-M2)."""

    probability: float = setting(
        0.5, "share of the training samples that are predicted twice", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class SdaTermSettings(SdaSettings, TermSettings):
    """A second squared error, of turned or flipped images at shifted times."""


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """A node for every term; `losses.diffusion.terms` says which of them a training has."""

    mse: TermSettings = field(default_factory=TermSettings)
    regional: RegionalTermSettings = field(
        default_factory=lambda: RegionalTermSettings(enabled=False)
    )
    perceptual: PerceptualSettings = field(
        default_factory=lambda: PerceptualSettings(weight=0.001, enabled=False)
    )
    consistency: ConsistencyTermSettings = field(
        default_factory=lambda: ConsistencyTermSettings(weight=0.1, enabled=False)
    )
    sda: SdaTermSettings = field(default_factory=lambda: SdaTermSettings(enabled=False))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


class GroupNode(Protocol):
    @property
    def group(self) -> str:
        """Of `settings.mri.GROUPS`."""


class SpaceNode(Protocol):
    @property
    def is_latent(self) -> bool:
        """Whether latents are diffused."""

    @property
    def has_images(self) -> bool:
        """Whether there are images beside what is diffused."""


class DiffusionTree(Protocol):
    """What the terms read of a system's settings."""

    @property
    def space(self) -> SpaceNode: ...

    @property
    def data(self) -> GroupNode: ...

    @property
    def loss(self) -> LossSettings: ...


def mse(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Sum over samples of the mean of (prediction - target)^2 over a sample's values, times the
    sample's weight.
    """
    return (prediction["weight"] * _squared_error(prediction).flatten(1).mean(dim=1)).sum()


def consistency(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Sum over samples of the mean of (prediction - second)^2: what the document calls
    self-conditioning. Both predictions are of the same x_t by the same network, so that the term
    and its gradient are 0 unless the network draws something, as `model.dit.drop_path` and
    `regulariser.feature_noise` do (001-M2).

    `second` [B, c, *s] is the prediction itself for samples that are predicted once.
    """
    difference = prediction["prediction"].float() - prediction["second"].float()
    return difference.square().flatten(1).mean(dim=1).sum()


def sda(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Sum over the augmented samples of the mean of (prediction - target)^2, times the sample's
    weight at its shifted time: the second loss of shifted data augmentation.

    `sda.prediction`, `sda.target` [B, c, *s]; `sda.weight` [B], 0 of samples that are not
    augmented. In evaluation nothing is, and the term is `mse`.
    """
    error = (prediction["sda.prediction"].float() - prediction["sda.target"].float()).square()
    return (prediction["sda.weight"] * error.flatten(1).mean(dim=1)).sum()


def regional(prediction: Tensors, batch: Tensors, settings: DiffusionTree) -> Tensor:
    """Sum over cells of w (prediction - target)^2, times the sample's weight; w is the mean of
    `loss.regional.size` over the pixels of a cell.
    """
    error = _squared_error(prediction).sum(dim=1, keepdim=True)
    weights = weights_by_region(batch, settings.loss.regional.size, "loss.regional.enabled")
    pool: Any = F.adaptive_avg_pool2d if error.ndim == 4 else F.adaptive_avg_pool3d
    by_sample = (pool(weights, error.shape[2:]) * error).flatten(1).sum(dim=1)
    return (prediction["weight"] * by_sample).sum()


def regional_count(batch: Tensors, settings: DiffusionTree) -> Tensor:
    """The sum of the weights over the values of the batch, so that the mere presence of lesions
    does not raise a batch's loss; without `normalised` the number of values (001-M17). A cell has
    as many channels as pixels (times C) in every space without loss; a latent has its own.
    """
    weights = weights_by_region(batch, settings.loss.regional.size, "loss.regional.enabled")
    if not settings.loss.regional.normalised:
        weights = torch.ones_like(weights)
    if LATENT not in batch:
        return weighted_values(batch, weights)
    latent = batch[LATENT]
    pool: Any = F.adaptive_avg_pool2d if latent.ndim == 4 else F.adaptive_avg_pool3d
    return pool(weights.double(), latent.shape[2:]).sum() * latent.shape[1]


def samples(batch: Tensors, settings: object) -> Tensor:
    """The samples of the batch, which has no images where latents came from a file."""
    given = batch["image"] if "image" in batch else batch[LATENT]
    return torch.tensor(len(given), dtype=torch.float64)


def _squared_error(prediction: Tensors) -> Tensor:
    return (prediction["prediction"].float() - prediction["target"].float()).square()
