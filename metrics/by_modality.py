"""Measures of a reconstruction against its image, over all images and by modality, for every
system of medical images: `psnr_db` and `psnr_db_flair`.

PSNR, MS-SSIM, L1 and the distances are means over images (PSNR at most 100 dB); a column of a
modality is the mean over its images, of `dual` that of its channel. Volumes have `ms_ssim_3d` of
the volume, and `ms_ssim` of its slices.

Shapes: B images, C channels, *S the space; `image`, `reconstruction` [B, C, *S] in [0, 1]; `mask`
[B, 1, *S]; `modality` [B]; `spacing` [B, dims] mm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from metrics.image import over_images, psnr_db
from metrics.metric import Metric, Mode, Tensors
from metrics.ms_ssim import ms_ssim, ms_ssim_of_slices
from metrics.perceptual import DistanceTree, extra_distance, networks
from metrics.sharpness import sharpness, sharpness_sums
from settings.mri import GROUPS, MODALITIES

Measured = tuple[Tensor, Tensor]
Score = Callable[[Tensor, Tensor], Tensor]
"""(predicted, true) [b, c, *S] -> a value for each image [b]."""


@dataclass(frozen=True)
class Part:
    """The images of a batch that are of one modality; all of them where it is ""."""

    group: str
    modality: str = ""

    def samples(self, values: Tensor, batch: Tensors) -> Tensor:
        """The pooled samples that are of the modality."""
        if not self.modality or self.group != "multi_modality":
            return values
        return values[batch["modality"] == MODALITIES.index(self.modality)]

    def images(self, values: Tensor, batch: Tensors) -> Tensor:
        """The images of the modality, or their channels where these are modalities."""
        if self.modality and self.group == "dual":
            place = GROUPS[self.group].index(self.modality)
            values = values[:, place : place + 1]
        return self.samples(values, batch)


def parts(group: str) -> tuple[Part, ...]:
    """All images, and each modality where there are several."""
    names = GROUPS[group] if len(GROUPS[group]) > 1 else ()
    return Part(group), *(Part(group, name) for name in names)


# Measures


def score_images(
    score: Score, key: str, part: Part, prediction: Tensors, batch: Tensors, settings: object
) -> Measured:
    predicted, true = (part.images(x, batch) for x in (prediction[key], batch["image"]))
    return over_images(score(predicted, true))


def psnr(predicted: Tensor, true: Tensor) -> Tensor:
    return psnr_db(predicted.double(), true.double(), data_range=1.0)


def l1(predicted: Tensor, true: Tensor) -> Tensor:
    return (predicted.double() - true.double()).abs().flatten(1).mean(dim=1)


def mse(predicted: Tensor, true: Tensor) -> Tensor:
    return (predicted.double() - true.double()).square().flatten(1).mean(dim=1)


def boundary(part: Part, prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    pair = (prediction["reconstruction"], batch["image"])
    predicted, true = (part.images(image, batch) for image in pair)
    mask, spacing = (part.samples(batch[key], batch) for key in ("mask", "spacing"))
    return sharpness_sums(predicted, true, mask, spacing)


# The declarations


def image_metric(
    name: str,
    mode: Mode | None,
    score: Score,
    text: str,
    part: Part,
    *,
    key: str = "reconstruction",
    reads: tuple[str, ...] = (),
) -> Metric:
    """The mean of a score over the images of a part, as a column with its modality."""
    end = f"_{part.modality}" if part.modality else ""
    words = f" of {part.modality}" if part.modality else ""
    return Metric(
        f"{name}{end}",
        "dB" if name.endswith("_db") else "",
        mode,
        functools.partial(score_images, score, key, part),
        f"{text}{words}, mean over images",
        reads=reads,
        detail=bool(part.modality),
    )


def psnr_metrics(group: str) -> Iterator[Metric]:
    for part in parts(group):
        yield image_metric("psnr_db", "max", psnr, "PSNR", part)


def l1_metrics(group: str) -> Iterator[Metric]:
    for part in parts(group):
        yield image_metric("l1", "min", l1, "mean absolute error", part)


def ms_ssim_metrics(group: str, dims: int) -> Iterator[Metric]:
    """Of images, or of the slices of volumes; and of whole volumes."""
    score, words = (ms_ssim_of_slices, " of slices") if dims == 3 else (ms_ssim, "")
    for part in parts(group):
        yield image_metric("ms_ssim", "max", score, f"MS-SSIM{words}", part)
    if dims == 3:
        yield image_metric("ms_ssim_3d", "max", ms_ssim, "MS-SSIM of volumes", Part(group))


def distance_metrics(settings: DistanceTree, group: str) -> Iterator[Metric]:
    """The distances that are switched on; LPIPS by modality as well."""
    for name, network in networks(settings).items():
        score = functools.partial(extra_distance, name, network)
        if name == "lpips":
            for part in parts(group):
                yield image_metric(
                    name, "min", score, "LPIPS", part, reads=("metric.lpips.network",)
                )
            continue
        text = f"distance of the features of {network}"
        yield image_metric(f"{name}_distance", "min", score, text, Part(group))


def sharpness_metrics(group: str) -> Iterator[Metric]:
    for part in parts(group):
        end = f"_{part.modality}" if part.modality else ""
        yield Metric(
            f"boundary_sharpness{end}",
            "",
            None,
            functools.partial(boundary, part),
            f"gradient on the boundary of lesions{end.replace('_', ' of ', 1)} over the image's",
            sharpness,
            detail=bool(part.modality),
        )
