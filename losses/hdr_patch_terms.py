"""The terms of HDR hole filling, pure functions that sum over pixels, or over images where said,
and their settings.

Shapes: B images, C = 3 channels, H rows, W columns. `target`, `radiance`, `log_delta`, `log_base`,
`raw` [B, C, H, W]; `hole` [B, 1, H, W] with 1 = hole; `scale` [B, 1|C, 1, 1]. Logarithms are
natural. "Delta" is the residual that the head adds to the logarithm of the (prefilled) base:
log(radiance + eps) = log_base + Delta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import counts
from losses.adversarial import CriticTree
from losses.balancers.settings import BalancerSettings
from losses.terms import Tensors, TermSettings
from models.efficientnet import BACKBONES, STAGE_COUNTS
from models.hdr import head
from models.hdr.exposure import mu_law
from models.hdr.prefill import prefill
from models.perceptual import frozen_features
from settings.schema import Settings, SettingsError, setting

STD_FLOOR = 1e-8
"""Added to a variance before its root, whose slope at 0 is infinite (a hole of one pixel)."""

CHARBONNIER_EPSILON = 1e-6

LARGEST_COMPENSATION = 4.0
"""The document's bound on 1 / hole share, the factor on its mean over the whole image."""

LUMA = (0.2126, 0.7152, 0.0722)
"""Rec. ITU-R BT.709."""


# Settings


@dataclass(frozen=True, kw_only=True)
class LogSettings(TermSettings):
    """How the error e of the logarithm is penalised.

    l1: |e|. smooth_l1: e^2 / (2 beta) below beta, |e| - beta / 2 above. charbonnier:
    sqrt(e^2 + 1e-6).
    """

    kind: str = setting(
        "l1", "penalty on the log error", choices=("l1", "smooth_l1", "charbonnier")
    )
    beta: float = setting(
        0.2, "where smooth_l1 turns from square to line", unit="nat", low=1e-4, high=10.0
    )
    masked: bool = setting(
        False, "penalise mask * Delta, as the document does: half of it on the ring (004-M3)"
    )


@dataclass(frozen=True, kw_only=True)
class RegionSettings(TermSettings):
    over: str = setting(
        "region",
        "what the mean is over; image: as the document has it, a small region counts for little",
        choices=("region", "image"),
    )


@dataclass(frozen=True, kw_only=True)
class RangeSettings(TermSettings):
    enabled: bool = setting(False, "false switches the term off, as weight 0 does")
    safe_range: float = setting(
        6.0, "size of scale * |raw| that is still free", unit="nat", low=0.0, high=40.0
    )


@dataclass(frozen=True, kw_only=True)
class PerceptualSettings(TermSettings):
    enabled: bool = setting(False, "false switches the term off, as weight 0 does")
    backbone: str = setting(
        "efficientnet_lite0", "frozen network that sees the images", choices=BACKBONES
    )
    beta: float = setting(1e-3, "where smooth-L1 turns from square to line", low=1e-6, high=1.0)
    layer_weights: tuple[float, ...] = setting(
        (), "factor on each layer, finest first; without, their mean", low=0.0, high=1e3
    )

    def check(self) -> None:
        layers = STAGE_COUNTS[self.backbone]
        if self.layer_weights and len(self.layer_weights) != layers:
            raise SettingsError(
                f"loss.perceptual.layer_weights needs a factor for each of the {layers} layers of "
                f"{self.backbone}, or none for their mean, not {len(self.layer_weights)}."
            )


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """The weights are for means over each term's own count (pixels of the hole, images with a
    hole). The presets of the document's states have its weights, with its means: `over`, `masked`
    and `layer_weights`.
    """

    mu: float = setting(300.0, "mu of the mu-law images of the loss", low=1.0, high=1e5)
    exposure: float = setting(0.8, "factor on radiance before the mu-law", low=1e-4, high=1e4)
    log: LogSettings = field(default_factory=LogSettings)
    l1: TermSettings = field(default_factory=lambda: TermSettings(weight=1.0))
    edge: TermSettings = field(default_factory=lambda: TermSettings(weight=0.5))
    boundary: RegionSettings = field(default_factory=lambda: RegionSettings(weight=1.0))
    hole: RegionSettings = field(default_factory=lambda: RegionSettings(weight=2.0))
    context: RegionSettings = field(
        default_factory=lambda: RegionSettings(weight=1.0, enabled=False)
    )
    sparsity: TermSettings = field(default_factory=lambda: TermSettings(weight=0.1, enabled=False))
    range: RangeSettings = field(default_factory=RangeSettings)
    wasserstein: TermSettings = field(
        default_factory=lambda: TermSettings(weight=0.5, enabled=False)
    )
    moments: TermSettings = field(default_factory=lambda: TermSettings(weight=0.5, enabled=False))
    perceptual: PerceptualSettings = field(default_factory=PerceptualSettings)
    color: TermSettings = field(default_factory=lambda: TermSettings(weight=0.05, enabled=False))
    adversarial: TermSettings = field(
        default_factory=lambda: TermSettings(weight=0.01, enabled=False)
    )
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


class HdrTree(CriticTree, Protocol):
    """What the terms read of a system's settings."""

    @property
    def hdr(self) -> head.HeadSettings: ...

    @property
    def loss(self) -> LossSettings: ...


# Regions and images


def ring(batch: Tensors, settings: HdrTree) -> Tensor:
    """The rim of valid pixels around the holes, as the head has it. [B, 1, H, W]"""
    return head.ring(batch["hole"], settings.hdr.ring_kernel)


def residual_weight(batch: Tensors, settings: HdrTree) -> Tensor:
    """The head's mask as a weight: hole + ring_scale * ring, or 1 when `hdr.mask` is off."""
    return head.residual_mask(settings.hdr, batch["hole"])


def needed_delta(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """The Delta that reaches the target: log(target + eps) - log_base."""
    return torch.log(batch["target"].float() + settings.hdr.epsilon) - prediction["log_base"]


def mu_images(prediction: Tensors, batch: Tensors, settings: HdrTree) -> tuple[Tensor, Tensor]:
    """(prediction, target) under the loss's mu-law; 1 is white, highlights exceed it."""
    mu, exposure = settings.loss.mu, settings.loss.exposure
    predicted = mu_law(prediction["radiance"].float(), mu, exposure)
    return predicted, mu_law(batch["target"].float(), mu, exposure)


# Sums over pixels


def log_residual(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """Sum of w * l(Delta - needed Delta), w the head's mask, on Delta *before* that mask.

    004-M3: the document halves Delta on the ring and then compares it with the full one, so the
    network has to predict twice the truth there (`loss.log.masked`); here the mask is only a
    weight.
    """
    delta = prediction["log_delta"].float()
    if settings.loss.log.masked:
        delta = residual_weight(batch, settings) * delta
    error = delta - needed_delta(prediction, batch, settings)
    kind, beta = settings.loss.log.kind, settings.loss.log.beta
    if kind == "l1":
        cost = error.abs()
    elif kind == "smooth_l1":
        cost = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)
    else:
        cost = torch.sqrt(error.square() + CHARBONNIER_EPSILON)
    return (residual_weight(batch, settings) * cost).sum()


def log_residual_count(batch: Tensors, settings: HdrTree) -> Tensor:
    return counts.weighted_values(batch, residual_weight(batch, settings))


def mu_l1(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    predicted, target = mu_images(prediction, batch, settings)
    return (predicted - target).abs().sum()


def hole_l1(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """L1 in the holes; over the whole image times min(4, 1 / hole share), which a mean over the
    holes needs not. The share is that of each image: a sample does not depend on its neighbours.
    """
    predicted, target = mu_images(prediction, batch, settings)
    weight = batch["hole"]
    if settings.loss.hole.over == "image":
        share = weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / share.clamp(min=1.0 / LARGEST_COMPENSATION)
    return (weight * (predicted - target).abs()).sum()


def hole_count(batch: Tensors, settings: HdrTree) -> Tensor:
    return _count_over(settings.loss.hole, batch, batch["hole"])


def _count_over(term: RegionSettings, batch: Tensors, region: Tensor) -> Tensor:
    if term.over == "image":
        return counts.values(batch, term)
    return counts.weighted_values(batch, region)


def boundary_l1(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    predicted, target = mu_images(prediction, batch, settings)
    return (ring(batch, settings) * (predicted - target).abs()).sum()


def boundary_count(batch: Tensors, settings: HdrTree) -> Tensor:
    return _count_over(settings.loss.boundary, batch, ring(batch, settings))


def context_l1(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """L1 on valid pixels outside the ring; with `hdr.mask` they cannot change: gradient 0."""
    predicted, target = mu_images(prediction, batch, settings)
    return (_outside(batch, settings) * (predicted - target).abs()).sum()


def context_count(batch: Tensors, settings: HdrTree) -> Tensor:
    return _count_over(settings.loss.context, batch, _outside(batch, settings))


def _outside(batch: Tensors, settings: HdrTree) -> Tensor:
    return 1.0 - batch["hole"] - ring(batch, settings)


def edge(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """L1 between the forward differences of the mu-law images, along columns and rows."""
    predicted, target = mu_images(prediction, batch, settings)
    error = predicted - target
    return error.diff(dim=-1).abs().sum() + error.diff(dim=-2).abs().sum()


def sparsity(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """Sum over the holes of |Delta - the prefill's Delta|.

    004-M15: the document's mean |Delta| pulls the hole's Delta, which has to be near 14 over a
    base of 0, down to 0. Over a prefilled base the prefill's own Delta is 0. With
    `hdr.prefill=zero` a small Delta would mean black, so the reference is what a median-log
    prefill would have needed: log(median + eps) - log_base, from the sample's own valid pixels,
    never from the batch. The minimum, 0, lies at the prefill and not at the target.
    """
    delta = prediction["log_delta"].float()
    if settings.hdr.prefill == "zero":
        epsilon = settings.hdr.epsilon
        filled = prefill("median_log", batch["warped"].float(), batch["hole"], epsilon)
        delta = delta - (torch.log(filled + epsilon) - prediction["log_base"])
    return (batch["hole"] * delta.abs()).sum()


def range_penalty(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """Sum over hole and ring of relu(scale * |raw| - safe_range), on the *pre-activation*.

    scale * raw is the Delta that the squash would give if it were linear (its slope at 0 is 1), so
    the penalty keeps its slope where the squash saturates; on Delta itself, as in the document, it
    vanishes there (004-M6). Over a base of 0 the needed Delta is about 14 and a safe range of 6
    forbids it (004-M1).
    """
    region = batch["hole"] + ring(batch, settings)
    linear = prediction["scale"].float() * prediction["raw"].float().abs()
    return (region * F.relu(linear - settings.loss.range.safe_range)).sum()


def range_count(batch: Tensors, settings: HdrTree) -> Tensor:
    return counts.weighted_values(batch, batch["hole"] + ring(batch, settings))


# Sums over images: what is not additive over pixels


def wasserstein(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """Sum over images of W1 between predicted and needed Delta in the holes, mean over channels.

    On a line, W1 of two samples of equal size is the mean |difference| of the sorted values; the
    document's "histogram matching" is the same quantity (004-M13). Inside the holes of one image
    only: the document flattens the batch and mixes images. Position is ignored, so it only makes
    sense beside another term.
    """
    inside = batch["hole"] > 0
    predicted = _sorted_inside(prediction["log_delta"].float(), inside)
    needed = _sorted_inside(needed_delta(prediction, batch, settings), inside)
    pixels = inside.flatten(1).sum(1).clamp(min=1)
    return ((predicted - needed).abs().sum(-1).mean(1) / pixels).sum()


def _sorted_inside(values: Tensor, inside: Tensor) -> Tensor:
    """Sorted values, [B, C, H*W]; those outside become one constant at the end, which cancels."""
    largest = torch.finfo(values.dtype).max
    return values.masked_fill(~inside, largest).flatten(2).sort(dim=-1).values


def moments(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """Sum over images of |difference of mean| + |difference of deviation| of Delta in the holes.

    Without the mask both moments are dominated by the pixels outside, where Delta is 0 (004-M14).
    """
    predicted = masked_moments(prediction["log_delta"].float(), batch["hole"])
    needed = masked_moments(needed_delta(prediction, batch, settings), batch["hole"])
    return (predicted - needed).abs().sum(0).mean(1).sum()


def color(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """As `moments`, of chroma (R - Y, B - Y of the mu-law image) in hole and ring."""
    region = (batch["hole"] + ring(batch, settings)) * _has_hole(batch)
    predicted, target = (
        masked_moments(_chroma(image), region) for image in mu_images(prediction, batch, settings)
    )
    return (predicted - target).abs().sum(0).mean(1).sum()


def _has_hole(batch: Tensors) -> Tensor:
    return (batch["hole"].amax(dim=(1, 2, 3), keepdim=True) > 0).float()


def _chroma(image: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 2, H, W]"""
    red, green, blue = image.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return torch.stack((red - luma, blue - luma), dim=1)


def masked_moments(values: Tensor, mask: Tensor) -> Tensor:
    """Mean and (population) standard deviation per image and channel inside a 0/1 mask.

    Args:
        values: [B, C, H, W]; mask: [B, 1, H, W].

    Returns:
        [2, B, C]; (0, root of STD_FLOOR) where the mask is empty.
    """
    pixels = mask.sum((2, 3)).clamp(min=1.0)
    mean = (values * mask).sum((2, 3)) / pixels
    centred = (values - mean[..., None, None]) * mask
    variance = centred.square().sum((2, 3)) / pixels
    return torch.stack((mean, torch.sqrt(variance + STD_FLOOR)))


def perceptual(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Tensor:
    """Sum over images of smooth-L1 between features of the mu-law images, mean over the layers or
    their sum with `layer_weights`.

    The networks were trained on images in [0, 1], so highlights above white are clipped and get no
    gradient from this term.
    """
    predicted, target = (image.clamp(0.0, 1.0) for image in mu_images(prediction, batch, settings))
    node = settings.loss.perceptual
    network = frozen_features(node.backbone, predicted.device)
    with torch.no_grad():
        goals = network(target)
    total = torch.zeros((), device=predicted.device)
    weights = node.layer_weights or (1.0,) * len(goals)
    for features, goal, weight in zip(network(predicted), goals, weights, strict=True):
        cost = F.smooth_l1_loss(features.float(), goal.float(), reduction="none", beta=node.beta)
        total = total + weight * cost.flatten(1).mean(1).sum()
    return total if node.layer_weights else total / len(goals)
