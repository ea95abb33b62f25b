"""The terms of the image autoencoders, pure functions that sum over values, or over samples where
said, and their settings.

Shapes: B samples, C channels, *S the space, (H, W) or (D, H, W); c channels and *s space of the
latent. `image`, `reconstruction`, `logits` [B, C, *S]; `region` [B, 1, *S]; `latent`, `mean`,
`deviation`, `unquantised` [B, c, *s].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import counts
from losses.adversarial import CriticTree
from losses.balancers.settings import BalancerSettings
from losses.images import PerceptualSettings
from losses.regional import SizeWeights, weighted_values, weights_by_region
from losses.terms import Tensors, TermSettings
from models.autoencoders.settings import ModelSettings
from settings.schema import Settings, setting

DICE_SMOOTH = 1.0
"""Added to both sides of the Dice ratio: an empty mask that is predicted empty costs nothing."""


# Settings


@dataclass(frozen=True, kw_only=True)
class RegionalSettings(SizeWeights):
    """Weights of pixels by the longest diameter of the lesion that they belong to; 1 outside."""

    enabled: bool = setting(False, "weigh pixels of lesions by the size of the lesion")


@dataclass(frozen=True, kw_only=True)
class L1Settings(TermSettings):
    regional: RegionalSettings = field(default_factory=RegionalSettings)


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """A node for every term; `losses.compression.terms` says which of them a model has.

    The weights are those that the source document gives its VAE, for means over each term's own
    count; what it gives the VQ-VAE and the DC-AE is in the presets. `mse` is ours.
    """

    l1: L1Settings = field(default_factory=L1Settings)
    mse: TermSettings = field(default_factory=lambda: TermSettings(weight=10.0, enabled=False))
    perceptual: PerceptualSettings = field(
        default_factory=lambda: PerceptualSettings(weight=0.001)
    )
    kl: TermSettings = field(default_factory=lambda: TermSettings(weight=1e-6))
    vq: TermSettings = field(default_factory=lambda: TermSettings(weight=0.25))
    bce: TermSettings = field(default_factory=TermSettings)
    dice: TermSettings = field(default_factory=TermSettings)
    boundary: TermSettings = field(default_factory=lambda: TermSettings(weight=0.5))
    adversarial: TermSettings = field(
        default_factory=lambda: TermSettings(weight=0.01, enabled=False)
    )
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


class CompressionTree(CriticTree, Protocol):
    """What the terms read of a system's settings."""

    @property
    def model(self) -> ModelSettings: ...

    @property
    def loss(self) -> LossSettings: ...


# Reconstruction of images


def l1(prediction: Tensors, batch: Tensors, settings: CompressionTree) -> Tensor:
    """Sum of w |reconstruction - image|; w of `region_weights`, or 1."""
    error = (prediction["reconstruction"].float() - batch["image"].float()).abs()
    if settings.loss.l1.regional.enabled:
        error = region_weights(batch, settings) * error
    return error.sum()


def l1_count(batch: Tensors, settings: CompressionTree) -> Tensor:
    """The sum of the weights, so that the mere presence of lesions does not raise a batch's loss
    (001-M17: the source divides by the number of pixels).
    """
    if not settings.loss.l1.regional.enabled:
        return counts.values_of("image")(batch, settings)
    return weighted_values(batch, region_weights(batch, settings))


def region_weights(batch: Tensors, settings: CompressionTree) -> Tensor:
    """loss.l1.regional by the size of the lesion that a pixel belongs to, 1 outside, [B, 1, *S].

    Raises:
        ValueError: the batch has no `region`.
    """
    return weights_by_region(batch, settings.loss.l1.regional, "loss.l1.regional.enabled")


def mse(prediction: Tensors, batch: Tensors, settings: CompressionTree) -> Tensor:
    """Sum of (reconstruction - image)^2: what PSNR is made of."""
    return (prediction["reconstruction"].float() - batch["image"].float()).square().sum()


# Latents: sums over samples


def kl(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - log sigma^2 - 1) / 2, summed over the
    values of a sample's latent, nat (Kingma and Welling 2014, appendix B).
    """
    mean, deviation = prediction["mean"].float(), prediction["deviation"].float()
    return 0.5 * (mean.square() + deviation.square() - 2.0 * deviation.log() - 1.0).sum()


def vq(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Commitment (van den Oord et al. 2017, equation 3, last part): the mean of (z - sg(q))^2 over
    the values of a sample's latent, z before and q after the quantisation.

    The codebook has no gradient: it follows z as a moving average.
    """
    error = prediction["unquantised"].float() - prediction["latent"].float().detach()
    return error.square().flatten(1).mean(dim=1).sum()


# Masks


def bce(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Binary cross-entropy of the logits, summed over values, nat."""
    return _cross_entropy(prediction, batch).sum()


def _cross_entropy(prediction: Tensors, batch: Tensors) -> Tensor:
    logits, target = prediction["logits"].float(), batch["image"].float()
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def dice(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """1 - (2 sum p t + 1) / (sum p + sum t + 1) of each sample (Milletari et al. 2016, with a
    constant added), p the probability of each pixel and t its target; summed over samples.
    """
    share = prediction["logits"].float().sigmoid().flatten(1)
    target = batch["image"].float().flatten(1)
    both = (share * target).sum(dim=1)
    sizes = share.sum(dim=1) + target.sum(dim=1)
    return (1.0 - (2.0 * both + DICE_SMOOTH) / (sizes + DICE_SMOOTH)).sum()


def boundary(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """The cross-entropy on the pixels of `edge_map`, summed over them."""
    return (edge_map(batch["image"].float()) * _cross_entropy(prediction, batch)).sum()


def boundary_count(batch: Tensors, settings: object) -> Tensor:
    """The pixels of `edge_map`; none where no mask of the batch has an edge."""
    return edge_map(batch["image"].float()).sum(dtype=torch.float64)


def edge_map(mask: Tensor) -> Tensor:
    """1 where a neighbourhood of 3 pixels a side holds both values of a 0/1 mask. [B, C, *S]"""
    pool: Any = F.max_pool2d if mask.ndim == 4 else F.max_pool3d
    return pool(mask, 3, 1, 1) + pool(-mask, 3, 1, 1)
