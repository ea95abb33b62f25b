"""The metrics of compression: how well an image is reconstructed, and what its latent costs.

The objective is rate against distortion, `rate_bpp` and `psnr_quantised_db` (masks:
`dice_quantised`), both at one rounding step that no trial can change: without a step a latent of
real numbers costs nothing, and a wider one would win. What is measured without rounding has the
plain name.

PSNR, MS-SSIM, L1 and the distances are means over images (PSNR at most 100 dB); a column of a
modality, `psnr_db_flair`, is the mean over its images, of `dual` that of its channel. Volumes have
`ms_ssim_3d` of the volume, and `ms_ssim` of its slices.

Shapes: B images, C channels, *S the space; `image`, `reconstruction`, `quantised_reconstruction`
[B, C, *S] in [0, 1]; `modality` [B]; `latent` [B, c, *s].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from metrics.by_modality import (
    Part,
    Score,
    distance_metrics,
    image_metric,
    l1_metrics,
    ms_ssim_metrics,
    mse,
    psnr,
    psnr_metrics,
    sharpness_metrics,
)
from metrics.codebook import codebook_metrics
from metrics.metric import Metric, Tensors, mean
from metrics.ms_ssim import ms_ssim
from metrics.perceptual import (
    LpipsSettings,
    MedicalNetSettings,
    RadImageNetSettings,
    efficientnet_distance,
)
from metrics.rate import READS as RATE_READS
from metrics.rate import rate_metrics
from metrics.regional import is_lesion, regional_metrics
from models.autoencoders.settings import ModelSettings
from settings.schema import Settings, setting

Measured = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class MetricSettings(Settings):
    """Settings of the metrics, fixed per sweep."""

    rate_step: float = setting(
        0.25,
        "step to which the latent is rounded for rate_bpp and the quantised images, in rms of "
        "the latent of an image",
        low=0.1,
        high=8.0,
    )
    ms_ssim: bool = setting(True, "measure MS-SSIM; needs 11 px a side, along D of volumes 7")
    efficientnet: bool = setting(
        True, "measure efficientnet_distance, of images and not of masks; needs 16 px a side"
    )
    lpips: LpipsSettings = field(default_factory=LpipsSettings)
    radimagenet: RadImageNetSettings = field(default_factory=RadImageNetSettings)
    medicalnet: MedicalNetSettings = field(default_factory=MedicalNetSettings)


class GroupNode(Protocol):
    @property
    def group(self) -> str:
        """Of `settings.mri.GROUPS`."""


class CompressionTree(Protocol):
    """What is read of a system's settings."""

    @property
    def model(self) -> ModelSettings: ...

    @property
    def data(self) -> GroupNode: ...

    @property
    def metric(self) -> MetricSettings: ...


# Measures


def psnr_scaled(predicted: Tensor, true: Tensor) -> Tensor:
    """PSNR of a p, with the factor a = <p, t> / <p, p> of each image, which brings it closest to
    the image: what is left where an image is right but for its brightness.
    """
    first, second = (image.double().flatten(1) for image in (predicted, true))
    power, product = first.square().sum(dim=1), (first * second).sum(dim=1)
    factor = torch.where(power == 0.0, 1.0, product / power)
    return psnr(factor[:, None] * first, second)


def _overlap(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """(pixels of the intersection, pixels of both masks added) of each image."""
    first, second = is_lesion(predicted).flatten(1), is_lesion(true).flatten(1)
    return (first * second).sum(dim=1), (first + second).sum(dim=1)


def dice(predicted: Tensor, true: Tensor) -> Tensor:
    """2 |A and B| / (|A| + |B|), 1 where both are empty: a lesion in an empty mask must show."""
    both, added = _overlap(predicted, true)
    return torch.where(added == 0, 1.0, 2.0 * both / added)


def iou(predicted: Tensor, true: Tensor) -> Tensor:
    """|A and B| / |A or B|, 1 where both are empty."""
    both, added = _overlap(predicted, true)
    return torch.where(added == 0, 1.0, both / (added - both))


def latent_moments(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """(sums of x and x^2, count) over all numbers of the latents."""
    latent = prediction["latent"].double()
    count = torch.tensor(latent.numel(), dtype=torch.float64, device=latent.device)
    return torch.stack([latent.sum(), latent.square().sum()]), count


def latent_mean(sums: Tensor, count: float) -> float:
    return mean(sums[0], count)


def latent_std(sums: Tensor, count: float) -> float:
    """Population standard deviation."""
    if count == 0:
        return math.nan
    first, second = (float(value) / count for value in sums)
    return math.sqrt(max(second - first * first, 0.0))


def scale_factor(sums: Tensor, count: float) -> float:
    deviation = latent_std(sums, count)
    return 1.0 / deviation if deviation > 0.0 else math.nan


# The declarations


def compression_metrics(settings: CompressionTree) -> list[Metric]:
    """The metrics for the kind, the number of axes, the mode and the modalities; `settings` is the
    system's whole tree. The first is the objective.

    Raises:
        SettingsError: a distance is switched on that takes images of another number of axes.
    """
    seg_mode, group = settings.model.seg_mode, settings.data.group
    quantised = list(_quantised(settings))
    return [
        quantised[0],
        *rate_metrics(settings),
        *quantised[1:],
        *(_masks() if seg_mode else ()),
        *_plain(settings),
        *_distances(settings),
        *regional_metrics(seg_mode),
        *(() if group == "seg" else sharpness_metrics(group)),
        *_LATENT,
        *(codebook_metrics() if settings.model.kind == "vqvae" else ()),
    ]


def _quantised(settings: CompressionTree) -> Iterator[Metric]:
    """The metrics of the image that is decoded from the quantised latent."""
    scores: list[tuple[str, Score, str]] = [("psnr_quantised_db", psnr, "PSNR")]
    if settings.model.seg_mode:
        scores.insert(0, ("dice_quantised", dice, "Dice"))
    if settings.metric.ms_ssim:
        volumes = settings.model.spatial_dims == 3
        name = "ms_ssim_3d_quantised" if volumes else "ms_ssim_quantised"
        scores.append((name, ms_ssim, "MS-SSIM"))
    for name, score, words in scores:
        text = f"{words} after rounding the latent to metric.rate_step"
        part = Part(settings.data.group)
        key = "quantised_reconstruction"
        yield image_metric(name, "max", score, text, part, key=key, reads=RATE_READS)


def _plain(settings: CompressionTree) -> Iterator[Metric]:
    group, whole = settings.data.group, Part(settings.data.group)
    yield from psnr_metrics(group)
    if not settings.model.seg_mode:
        text = "PSNR after each image's best factor"
        yield image_metric("psnr_scaled_db", None, psnr_scaled, text, whole)
    if settings.metric.ms_ssim:
        yield from ms_ssim_metrics(group, settings.model.spatial_dims)
    yield from l1_metrics(group)
    yield image_metric("mse", "min", mse, "mean square error", whole)


def _masks() -> tuple[Metric, ...]:
    whole = Part("seg")
    return (
        image_metric("dice", "max", dice, "Dice of the masks", whole),
        image_metric("iou", "max", iou, "IoU of the masks", whole),
    )


def _distances(settings: CompressionTree) -> Iterator[Metric]:
    node, model, group = settings.metric, settings.model, settings.data.group
    if node.efficientnet and model.spatial_dims == 2 and not model.seg_mode:
        name, text = "efficientnet_distance", "distance of EfficientNet-Lite0's features"
        yield image_metric(name, "min", efficientnet_distance, text, Part(group))
    yield from distance_metrics(settings, group)


_LATENT = (
    Metric("latent_mean", "", None, latent_moments, "mean of the latents", latent_mean),
    Metric("latent_std", "", None, latent_moments, "deviation of the latents", latent_std),
    Metric(
        "scale_factor",
        "",
        None,
        latent_moments,
        "1 / latent_std: what brings latents to unit variance for what is trained on them",
        scale_factor,
    ),
)
