"""What the metrics of HDR hole filling measure on one batch, as (sums, count).

Images without a hole are left out of what is measured in holes.

Shapes: B images, C = 3 channels, H rows, W columns; `radiance`, `target`, `log_base`, `log_delta`,
`unclamped` [B, C, H, W]; `hole` [B, 1, H, W] with 1 = hole; `cap` [B, 1|C, 1, 1]; `denom`
[B, 1, 1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metrics.image import over_images
from metrics.metric import Tensors
from models.hdr.cap import clamp_active
from models.hdr.exposure import mu_law, pu21
from models.hdr.head import HeadSettings, needed_cap, ring
from settings.schema import Settings, SettingsError, setting

PU_RANGE = 256.0
"""PU21 puts 100 cd/m2, an ordinary display's white, at 256: decibels compare to 8-bit images."""

Measured = tuple[Tensor, Tensor]


# Settings


@dataclass(frozen=True, kw_only=True)
class MetricSettings(Settings):
    """Constants of the metrics, fixed per sweep: a search over them could not be judged."""

    mu: float = setting(300.0, "mu of the mu-law images of the metrics", low=1.0, high=1e5)
    exposure: float = setting(0.8, "factor on radiance before the mu-law", low=1e-4, high=1e4)
    epsilon: float = setting(
        1e-4, "added to radiance before the logarithm of hole_log_rmse", low=1e-8, high=1.0
    )
    max_radiance: float = setting(
        1e3,
        "radiance that counts as white: clipped to it before mu-law and PU21",
        low=1e-3,
        high=1e8,
    )
    peak_cd_m2: float = setting(
        1e4, "luminance at which max_radiance is shown", unit="cd/m2", low=1.0, high=1e4
    )
    overflow_thresholds: tuple[float, ...] = setting(
        (1e2, 1e3, 1e4, 1e6), "radiances of the overflow rates, whole numbers", low=1.0, high=1e12
    )
    saturation_share: float = setting(
        0.99, "share of the cap that counts as saturated", low=0.5, high=1.0
    )
    ring_kernel: int = setting(3, "odd window of the ring around holes", unit="px", low=3, high=15)

    def check(self) -> None:
        if self.ring_kernel % 2 == 0:
            raise SettingsError(
                f"metric.ring_kernel must be odd, not {self.ring_kernel}. "
                f"Use {self.ring_kernel + 1}."
            )
        for threshold in self.overflow_thresholds:
            if threshold != int(threshold):
                raise SettingsError(
                    f"metric.overflow_thresholds must be whole numbers, not {threshold}: they "
                    f"name columns. Use {math.ceil(threshold)}."
                )
        if len(set(self.overflow_thresholds)) != len(self.overflow_thresholds):
            raise SettingsError(
                f"metric.overflow_thresholds must differ, not {self.overflow_thresholds}. "
                "Leave out the repeated."
            )


class HdrTree(Protocol):
    """What is read of a system's settings."""

    @property
    def hdr(self) -> HeadSettings: ...

    @property
    def metric(self) -> MetricSettings: ...


# Regions


def has_hole(batch: Tensors) -> Tensor:
    """[B], true for images with at least one hole pixel."""
    return batch["hole"].amax(dim=(1, 2, 3)) > 0


def _hole(batch: Tensors, like: Tensor) -> Tensor:
    return (batch["hole"] > 0).expand_as(like)


def _hole_and_ring(batch: Tensors, settings: HdrTree) -> Tensor:
    """[B, 1, H, W], true in the holes and on the rim around them."""
    return batch["hole"] + ring(batch["hole"], settings.metric.ring_kernel) > 0


def _share(mark: Tensor, region: Tensor) -> Measured:
    """(how often `mark` is true inside a region of the same shape, size of the region)"""
    return (mark & region).sum().double(), region.sum().double()


# Encodings of radiance


def mu_encoded(radiance: Tensor, mu: float, exposure: float, limit: float) -> Tensor:
    """mu-law of radiance clipped to 0 .. limit, over its value at the limit: [0, 1], float64."""
    white = float(mu_law(torch.tensor(limit, dtype=torch.float64), mu, exposure))
    return mu_law(radiance.double().clamp(0.0, limit), mu, exposure) / white


def pu_encoded(radiance: Tensor, peak_cd_m2: float, limit: float) -> Tensor:
    """PU21 of radiance clipped to 0 .. limit and shown with the limit at `peak_cd_m2`; float64."""
    return pu21(radiance.double().clamp(0.0, limit), cd_m2_per_unit=peak_cd_m2 / limit)


# Error in the logarithm, PSNR, SSIM, seam


def hole_log_square(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Measured:
    """Square of log(radiance + eps) - log(target + eps) in holes; eps is `metric.epsilon`."""
    epsilon = settings.metric.epsilon
    predicted, target = prediction["radiance"].double(), batch["target"].double()
    error = torch.log(predicted + epsilon) - torch.log(target + epsilon)
    inside = _hole(batch, error)
    return torch.where(inside, error.square(), 0.0).sum(), inside.sum().double()


def root_of_mean(sums: Tensor, count: float) -> float:
    return math.sqrt(float(sums) / count) if count > 0 else float("nan")


def _encoded(
    encoding: str, prediction: Tensors, batch: Tensors, settings: HdrTree
) -> tuple[Tensor, Tensor, float]:
    """(prediction, target, data range) under mu-law ("mu") or PU21 ("pu")."""
    constants = settings.metric
    pair = (prediction["radiance"], batch["target"])
    if encoding == "mu":
        limit = constants.max_radiance
        first, second = (mu_encoded(x, constants.mu, constants.exposure, limit) for x in pair)
        return first, second, 1.0
    first, second = (pu_encoded(x, constants.peak_cd_m2, constants.max_radiance) for x in pair)
    return first, second, PU_RANGE


def similarity(
    score: Callable[..., Tensor],
    encoding: str,
    in_hole: bool,
    prediction: Tensors,
    batch: Tensors,
    settings: HdrTree,
) -> Measured:
    predicted, target, data_range = _encoded(encoding, prediction, batch, settings)
    if not in_hole:
        return over_images(score(predicted, target, data_range))
    return over_images(score(predicted, target, data_range, batch["hole"]), has_hole(batch))


def seam_error(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Measured:
    """|error of the mu-law step| over the pairs of neighbours of which one is a hole pixel."""
    predicted, target, _ = _encoded("mu", prediction, batch, settings)
    error = predicted - target
    total = torch.zeros((), dtype=torch.float64, device=error.device)
    count = torch.zeros((), dtype=torch.float64, device=error.device)
    for axis in (-1, -2):
        steps = error.diff(dim=axis).abs()
        crossing = (batch["hole"].diff(dim=axis) != 0).expand_as(steps)
        total = total + torch.where(crossing, steps, 0.0).sum()
        count = count + crossing.sum()
    return total, count


# Change over time

SAME_SURFACE = 0.1
"""Largest |step| of the target's log radiance along the motion, over the colours of a pixel, at
which both frames show one surface: light drifts by hundredths, another surface is nats away.
"""


def moved(image: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels [B, C, H, W] of the frame before where the motion [B, 2, H, W] (pixels, x then y)
    takes them, the nearest pixel each, and [B, 1, H, W], whether their origin is in the frame.
    """
    height, width = image.shape[-2:]
    column, row = motion.round().unbind(1)
    column = torch.arange(width, device=image.device) - column
    row = torch.arange(height, device=image.device)[:, None] - row
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    index = index.long().flatten(1)[:, None].expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, index).view_as(image), inside[:, None]


def flicker(
    predicted: tuple[Tensor, Tensor], before: Tensors, after: Tensors, epsilon: float
) -> Measured:
    """|step of the predicted log radiance from one frame to the next, along the motion, less that
    of the targets|, over the values of pixels that are a hole in the second frame or come from one
    in the first, and are the same surface in both (`SAME_SURFACE`).

    Args:
        predicted: radiance of the first and of the second frame.
        before, after: the frames; `after` with `motion`.
    """
    steps = []
    for first, second in (predicted, (before["target"], after["target"])):
        logs = [torch.log(image.double() + epsilon) for image in (first, second)]
        origin, inside = moved(logs[0], after["motion"])
        steps.append(logs[1] - origin)
    was_hole, _ = moved(before["hole"], after["motion"])
    same = steps[1].abs().amax(dim=1, keepdim=True) <= SAME_SURFACE
    region = inside & same & ((after["hole"] > 0) | (was_hole > 0))
    error = (steps[0] - steps[1]).abs()
    inside_all = region.expand_as(error)
    return torch.where(inside_all, error, 0.0).sum(), inside_all.sum().double()


# Overflow


def overflow(threshold: float, prediction: Tensors, batch: Tensors, settings: HdrTree) -> Measured:
    """Pixels of hole and ring of which a channel lies above the threshold (or is NaN)."""
    above = ~(prediction["radiance"] <= threshold).all(dim=1, keepdim=True)
    return _share(above, _hole_and_ring(batch, settings))


def overflow_above_target(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Measured:
    """Pixels of hole and ring of which a channel lies above all of the image's target."""
    brightest = batch["target"].amax(dim=(1, 2, 3), keepdim=True)
    above = ~(prediction["radiance"] <= brightest).all(dim=1, keepdim=True)
    return _share(above, _hole_and_ring(batch, settings))


def nonfinite(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Values that are infinite or NaN, counted before anything is cleaned (004-M20)."""
    radiance = prediction["radiance"]
    return _share(~torch.isfinite(radiance), torch.ones_like(radiance, dtype=torch.bool))


# The cap and the clamp


def saturation(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Measured:
    """Values in holes whose residual reaches `metric.saturation_share` of its bound."""
    size = prediction["log_delta"].abs()
    saturated = size >= settings.metric.saturation_share * prediction["cap"]
    return _share(saturated, _hole(batch, size))


def unreachable(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Measured:
    """Targets in holes that no output can reach: |log(target + eps) - log_base| > cap (004-M1).

    eps is the head's own.
    """
    target = batch["target"].float()
    needed = needed_cap(target, prediction["log_base"], settings.hdr.epsilon)
    return _share(needed > prediction["cap"], _hole(batch, needed))


def clamped(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Measured:
    """Values in holes that the safety clamp changes; none while the cap is below it (004-M5)."""
    active = clamp_active(settings.hdr.clamp, prediction["unclamped"])
    return _share(active, _hole(batch, active))


def cap_per_image(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    caps = prediction["cap"].double().flatten(1).mean(1)
    return over_images(caps.expand(batch["target"].shape[0]))


# The dynamic range of the input


def log_range(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Sums of x and x^2 over images, x the 1-99 % log range of valid pixels (004-M4)."""
    return _powers(prediction["denom"].double().flatten())


def log_range_with_holes(prediction: Tensors, batch: Tensors, settings: HdrTree) -> Measured:
    """The same as the document has it, from the least to the greatest of all pixels.

    A hole sets the least to log(eps), so this measures that there is a hole (004-M4).
    """
    logs = torch.log(batch["warped"].double() + settings.hdr.epsilon).flatten(1)
    return _powers(logs.amax(1) - logs.amin(1))


def _powers(values: Tensor) -> Measured:
    """(sums of x and x^2, count) of values [B]."""
    count = torch.tensor(values.numel(), dtype=torch.float64, device=values.device)
    return torch.stack((values.sum(), values.square().sum())), count


def first_moment(sums: Tensor, count: float) -> float:
    return float(sums[0]) / count if count > 0 else float("nan")


def coefficient_of_variation(sums: Tensor, count: float) -> float:
    """Standard deviation (population) over mean."""
    if count == 0 or float(sums[0]) == 0.0:
        return float("nan")
    mean, square = (float(value) / count for value in sums)
    return math.sqrt(max(square - mean * mean, 0.0)) / mean
