"""The metrics of diffusion, over pairs of a validation image and a noise level that never change.

The objective is `denoising_mse`: the error of the clean estimate at five log-SNRs, as a geometric
mean over them (the plain mean is that of the noisiest one alone). Noise and error are in units of
the data's deviation, `deviation`, so that images in [0, 1] and standardised ones compare. At one
log-SNR every strategy and every prediction takes away the same from an image, so that it compares
them; not kinds of spaces, for in latents or rescaled subbands the same noise takes away other
things. The error of what the network predicts, `prediction_mse` over ten time bins, compares
neither.

Images are compared at the five log-SNRs as well, over all of them and by modality
(`metrics.by_modality`).

Shapes: B pairs, C channels, *S the sides of images; c channels and *s cells of what is diffused;
`prediction`, `target`, `clean`, `clean_estimate` [B, c, *s]; `reconstruction`, `image`
[B, C, *S]; `mask`, `region` [B, 1, *S]; `level`, `bin`, `deviation` [B].
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.by_modality import (
    distance_metrics,
    l1_metrics,
    ms_ssim_metrics,
    psnr_metrics,
    sharpness_metrics,
)
from metrics.metric import Metric, Tensors
from metrics.perceptual import LpipsSettings, MedicalNetSettings, RadImageNetSettings
from metrics.regional import regional_metrics
from settings.mri import MASK, SIZE_NAMES, channels_of
from settings.schema import Settings, setting

LEVELS = (-6.0, -3.0, 0.0, 3.0, 6.0)
"""Log-SNRs at which clean estimates are judged; `level` of a pair is a place among them, or -1."""

TIME_BINS = 10
"""Equal parts of t in [0, 1]; `bin` of a pair is one of them, or -1."""

REGIONS = ("prediction", "tumour", "background", *(f"tumour_{size}" for size in SIZE_NAMES))
"""Columns `<region>_mse_t<bin>`: of all cells, of lesions, of what is none, of lesions by size."""

Measured = tuple[Tensor, Tensor]
Measure = Callable[[Tensors, Tensors, Any], Measured]


@dataclass(frozen=True, kw_only=True)
class MetricSettings(Settings):
    """Settings of the metrics, fixed per sweep."""

    ms_ssim: bool = setting(
        True, "measure MS-SSIM of clean estimates; needs 11 px a side, along D of volumes 7"
    )
    lpips: LpipsSettings = field(default_factory=LpipsSettings)
    radimagenet: RadImageNetSettings = field(default_factory=RadImageNetSettings)
    medicalnet: MedicalNetSettings = field(default_factory=MedicalNetSettings)


class ModelNode(Protocol):
    @property
    def spatial_dims(self) -> int:
        """2 or 3."""


class SpaceNode(Protocol):
    @property
    def kind(self) -> str:
        """Of `models.diffusion.spaces.KINDS`."""

    @property
    def has_images(self) -> bool:
        """Whether there are images beside what is diffused."""


class GroupNode(Protocol):
    @property
    def group(self) -> str:
        """Of `settings.mri.GROUPS`."""


class DiffusionTree(Protocol):
    """What is read of a system's settings."""

    @property
    def model(self) -> ModelNode: ...

    @property
    def data(self) -> GroupNode: ...

    @property
    def metric(self) -> MetricSettings: ...

    @property
    def space(self) -> SpaceNode: ...


# The clean estimate at fixed log-SNRs


def denoising_sums(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """For each of `LEVELS` the sum of the pairs' mean squared errors, then the number of pairs:
    [5 + 5]; the pairs. In units of the data's variance.
    """
    estimate, clean = prediction["clean_estimate"].double(), prediction["clean"].double()
    error = (estimate - clean).square().flatten(1).mean(dim=1)
    error = error / prediction["deviation"].double().square()
    places = torch.arange(len(LEVELS), device=error.device)
    is_at = batch["level"][None] == places[:, None]
    sums = torch.where(is_at, error, 0.0).sum(dim=1)
    return torch.cat([sums, is_at.double().sum(dim=1)]), error.new_tensor(len(error))


def _by_level(sums: Tensor) -> list[float]:
    totals, counts = sums.view(2, -1).tolist()
    pairs = zip(totals, counts, strict=True)
    return [total / count if count > 0 else math.nan for total, count in pairs]


def geometric_mean(sums: Tensor, pairs: float) -> float:
    """Over the levels; NaN where one was not measured."""
    values = _by_level(sums)
    if any(math.isnan(value) for value in values):
        return math.nan
    if min(values) <= 0.0:
        return 0.0
    return math.exp(sum(math.log(value) for value in values) / len(values))


def error_at(level: int, sums: Tensor, pairs: float) -> float:
    return _by_level(sums)[level]


# What is predicted, by time and region


def time_sums(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """For each of `REGIONS` and each time bin: the sum of the squared errors of what is
    predicted, mean over channels, over the region's cells, and the number of cells: [7 * 10 * 2];
    the pairs. A cell is lesion as far as its pixels are. A file of latents has no sizes.
    """
    difference = prediction["prediction"].double() - prediction["target"].double()
    error = difference.square().mean(dim=1, keepdim=True)
    pool: Any = F.adaptive_avg_pool2d if error.ndim == 4 else F.adaptive_avg_pool3d
    region = batch.get("region", torch.zeros_like(batch["mask"]))
    tumour, *sizes = (
        pool(inside.double(), error.shape[2:])
        for inside in (batch["mask"], *(region == size + 1 for size in range(len(SIZE_NAMES))))
    )
    bins = torch.arange(TIME_BINS, device=error.device)
    is_at = batch["bin"][None] == bins[:, None]
    rows = []
    for share in (torch.ones_like(tumour), tumour, 1.0 - tumour, *sizes):
        by_pair = torch.stack(
            [(share * error).flatten(1).sum(dim=1), share.flatten(1).sum(dim=1)], dim=1
        )
        rows.append(torch.where(is_at[..., None], by_pair, 0.0).sum(dim=1))
    return torch.stack(rows).flatten(), error.new_tensor(len(error))


def time_bin(region: int, place: int, sums: Tensor, pairs: float) -> float:
    total, cells = sums.view(len(REGIONS), TIME_BINS, 2)[region, place].tolist()
    return total / cells if cells > 0 else math.nan


def all_bins(sums: Tensor, pairs: float) -> float:
    """Over all cells of all time bins."""
    total, cells = sums.view(len(REGIONS), TIME_BINS, 2)[0].sum(dim=0).tolist()
    return total / cells if cells > 0 else math.nan


# Images


class AtLevels:
    """A measure of the pairs at fixed log-SNRs alone."""

    def __init__(self, measure: Measure, *, clamped: bool = False) -> None:
        """Args: clamped: the measure is of images in [0, 1], so that estimates are cut to it."""
        self.measure, self.clamped = measure, clamped

    def __call__(self, prediction: Tensors, batch: Tensors, settings: object) -> Measured:
        at = batch["level"] >= 0
        predicted, given = (_of_pairs(tensors, at) for tensors in (prediction, batch))
        if self.clamped:
            predicted["reconstruction"] = predicted["reconstruction"].clamp(0.0, 1.0)
        return self.measure(predicted, given, settings)


def _of_pairs(tensors: Tensors, chosen: Tensor) -> dict[str, Tensor]:
    return {name: values[chosen] for name, values in tensors.items()}


# The declarations


def diffusion_metrics(settings: DiffusionTree) -> list[Metric]:
    """The metrics; the first is the objective. `settings` is the system's whole tree. Images are
    compared where there are some: not with a file of latents.
    """
    of_images = _images(settings) if settings.space.has_images else ()
    return [*_denoising(settings), *_predicted(), *of_images]


def _space_keys(settings: DiffusionTree) -> tuple[str, ...]:
    """The keys of the space that a comparison at one log-SNR reads: not `statistics` where one
    channel is diffused, whose deviation noise and error are in units of. With several each would
    need a log-SNR of its own.
    """
    is_one = settings.space.kind == "pixel" and channels_of(settings.data.group) == 1
    return ("space.kind", "space.latents") if is_one else ("space.*",)


_NOISED = ("strategy.*", "space.*")


def _denoising(settings: DiffusionTree) -> Iterator[Metric]:
    reads = _space_keys(settings)
    text = "squared error of the clean estimate, geometric mean over log-SNR -6, -3, 0, 3, 6"
    yield Metric("denoising_mse", "", "min", denoising_sums, text, geometric_mean, reads)
    for place, level in enumerate(LEVELS):
        name = f"denoising_mse_log_snr_{'m' if level < 0 else ''}{abs(level):.0f}"
        finish = functools.partial(error_at, place)
        text = f"squared error of the clean estimate at log-SNR {level:g}"
        yield Metric(name, "", "min", denoising_sums, text, finish, reads, detail=True)


def _predicted() -> Iterator[Metric]:
    text = "squared error of what is predicted, ten time bins alike"
    yield Metric("prediction_mse", "", "min", time_sums, text, all_bins, _NOISED)
    for row, region in enumerate(REGIONS):
        words = f", {_words_of(region)}" if row else ""
        for place in range(TIME_BINS):
            ends = f"{place / TIME_BINS:g} to {(place + 1) / TIME_BINS:g}"
            finish = functools.partial(time_bin, row, place)
            text = f"squared error of what is predicted, t from {ends}{words}"
            name = f"{region}_mse_t{place}"
            yield Metric(name, "", "min", time_sums, text, finish, _NOISED, detail=True)


def _words_of(region: str) -> str:
    """One of `REGIONS` in words."""
    name, _, size = region.partition("_")
    return "background" if name == "background" else f"{size} lesions".lstrip()


def _images(settings: DiffusionTree) -> Iterator[Metric]:
    """Of clean estimates: the measures that every system has of its reconstructions."""
    group, dims = settings.data.group, settings.model.spatial_dims
    cut: list[Metric] = []
    if settings.metric.ms_ssim:
        cut += ms_ssim_metrics(group, dims)
    cut += distance_metrics(settings, group)
    plain = [*psnr_metrics(group), *l1_metrics(group), *regional_metrics(seg_mode=False)]
    if group != MASK:
        plain += sharpness_metrics(group)
    for metrics, clamped in ((plain, False), (cut, True)):
        shared: dict[Measure, AtLevels] = {}
        for metric in metrics:
            measure = shared.setdefault(metric.measure, AtLevels(metric.measure, clamped=clamped))
            text = f"{metric.help}, of clean estimates"
            reads = (*metric.reads, *_space_keys(settings))
            yield dataclasses.replace(metric, measure=measure, help=text, reads=reads)
