"""Errors by region: lesions against background, and lesions by the class of their size.

Two means, because they answer different questions (001-M25: weighting by pixels hides small
lesions; in a slice one of 20 mm has the pixels of forty-four of 3 mm): `tumour_*` and `regional_*`
are means over pixels, `lesion_*` are means over lesions. Lesions and size classes come with the
batch.

Dice by lesion needs an owner for every pixel of the prediction: a lesion's own pixels, and the
background within `HALO_PX` of it. Without that margin a class would not see what was added around
its lesions, and Dice would be recall; further off no lesion owns it, and only the Dice of the
whole image counts it.

Shapes: B images, C channels, *S the space; images [B, C, *S]; `mask` [B, 1, *S] of 0 and 1;
`region` [B, 1, *S]: 0 background, 1 .. 4 the class of the pixel's lesion; `lesion` [B, 1, *S]: its
number from 1, 0 background; N = B * `MOST_LESIONS` places for lesions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from metrics.metric import Metric, Tensors
from settings.mri import SIZE_NAMES

Measured = tuple[Tensor, Tensor]

HALO_PX = 2

MOST_LESIONS = 256
"""The most lesions in an image; `lesion` is a byte."""

THRESHOLD = 0.5
"""A pixel with a probability above it is lesion."""

CLASSES = ("", *SIZE_NAMES)
"""All lesions, and those of one size."""

PIXELS = ("tumour_l1", "background_l1", *(f"tumour_l1_{size}" for size in SIZE_NAMES))
LESIONS = tuple(f"lesion_l1_{size}".rstrip("_") for size in CLASSES)


def is_lesion(image: Tensor) -> Tensor:
    """1 above `THRESHOLD`, else 0, float64; NaN stays, so that a broken prediction shows."""
    return torch.where(torch.isnan(image), image, image > THRESHOLD).double()


def sums_by_lesion(labels: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each of the values [B, 1, *S] over the pixels of every label, float64 [N]."""
    images = torch.arange(len(labels), device=labels.device)
    places = images.view(-1, *[1] * (labels.ndim - 1)) * MOST_LESIONS + labels.long()
    labelled = labels > 0
    slots = len(labels) * MOST_LESIONS
    return [
        torch.bincount(places[labelled], weights=value[labelled].double(), minlength=slots)
        for value in values
    ]


def members(classes: Tensor) -> Tensor:
    """Which lesions are of each of `CLASSES`: [N] numbers of classes, 0 no lesion -> [5, N]"""
    sizes = [classes == number for number in range(1, len(CLASSES))]
    return torch.stack([classes > 0, *sizes])


# Errors of images


def error_sums(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Sum and count of each of `PIXELS`, then of `LESIONS`, whose values are the mean errors of
    lesions: [11 * 2]; the images. An error is |reconstruction - image|, mean over channels.
    """
    difference = prediction["reconstruction"].double() - batch["image"].double()
    error = difference.abs().mean(dim=1, keepdim=True)
    mask, region = batch["mask"] > 0, batch["region"]
    regions = (mask, ~mask, *(region == size for size in range(1, len(CLASSES))))
    rows = [torch.stack([error[inside].sum(), inside.sum().double()]) for inside in regions]
    total, size, pixels = sums_by_lesion(batch["lesion"], (error, region, torch.ones_like(error)))
    means, classes = (x / pixels.clamp(min=1.0) for x in (total, size))
    rows += [torch.stack([means[each].sum(), each.sum().double()]) for each in members(classes)]
    return torch.cat(rows), error.new_tensor(len(error))


def mean_of(row: int, sums: Tensor, images: float) -> float:
    total, count = (float(value) for value in sums.view(-1, 2)[row])
    return total / count if count > 0 else math.nan


def ratio(sums: Tensor, images: float) -> float:
    """tumour_l1 over background_l1."""
    tumour, background = mean_of(0, sums, images), mean_of(1, sums, images)
    return tumour / background if background > 0.0 else math.nan


# Overlap of masks


def owners(batch: Tensors) -> Tensor:
    """`lesion`, spread to the background within `HALO_PX`; where two meet, the higher number."""
    lesion = batch["lesion"].float()
    pool = F.max_pool2d if lesion.ndim == 4 else F.max_pool3d
    spread = pool(lesion, 2 * HALO_PX + 1, stride=1, padding=HALO_PX)
    return torch.where(batch["mask"] > 0, lesion, spread).long()


def overlap_sums(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """For each of `CLASSES`: pixels of the intersection, of the prediction and of the lesions, sum
    of the Dice of each lesion, lesions: [5 * 5]; the images.
    """
    mask, region = is_lesion(prediction["reconstruction"][:, :1]), batch["region"]
    both, size, true = sums_by_lesion(batch["lesion"], (mask, region, torch.ones_like(mask)))
    (predicted,) = sums_by_lesion(owners(batch), (mask,))
    exists = true > 0
    dice = torch.where(exists, 2.0 * both / (predicted + true), 0.0)
    values = torch.stack([both, predicted, true, dice, exists.double()])
    classes = size / true.clamp(min=1.0)
    rows = [values[:, each].sum(dim=1) for each in members(classes)]
    return torch.cat(rows), mask.new_tensor(len(mask))


def _row(row: int, sums: Tensor) -> list[float]:
    return [float(value) for value in sums.view(len(CLASSES), -1)[row]]


def pooled_dice(row: int, sums: Tensor, images: float) -> float:
    both, predicted, true, _, lesions = _row(row, sums)
    return 2.0 * both / (predicted + true) if lesions > 0 else math.nan


def pooled_iou(row: int, sums: Tensor, images: float) -> float:
    both, predicted, true, _, lesions = _row(row, sums)
    return both / (predicted + true - both) if lesions > 0 else math.nan


def mean_dice(row: int, sums: Tensor, images: float) -> float:
    *_, total, lesions = _row(row, sums)
    return total / lesions if lesions > 0 else math.nan


# The declarations


def regional_metrics(seg_mode: bool) -> tuple[Metric, ...]:
    """Errors of the image by region; with `seg_mode` also the overlap of the masks."""
    errors = []
    for row, name in enumerate((*PIXELS, *LESIONS)):
        words = "mean over lesions" if name in LESIONS else "mean over pixels"
        finish = functools.partial(mean_of, row)
        text = f"mean absolute error, {words}{_of_size(name)}"
        detail = name.endswith(SIZE_NAMES)
        errors.append(Metric(name, "", "min", error_sums, text, finish, detail=detail))
    text = "tumour_l1 over background_l1"
    errors.insert(2, Metric("tumour_background_ratio", "", None, error_sums, text, ratio))
    return (*errors, *(_overlap_metrics() if seg_mode else ()))


def _of_size(name: str) -> str:
    """Whose pixels or lesions a name means, in words."""
    region, _, size = name.partition("_l1")
    if region == "background":
        return " of the background"
    size = f"{size.removeprefix('_')} " if size else ""
    return f" of {size}lesions" if region == "tumour" else f", {size}only" if size else ""


def _overlap_metrics() -> tuple[Metric, ...]:
    near = f"and of the background within {HALO_PX} px of them"
    rows: list[tuple[str, int, Callable[[int, Tensor, float], float], str]] = [
        ("regional_iou", 0, pooled_iou, f"IoU over all pixels of lesions {near}")
    ]
    for row, size in enumerate(CLASSES):
        end, words = (f"_{size}", f"{size} lesions") if size else ("", "lesions")
        pooled, mean = f"Dice over all pixels of {words} {near}", f"Dice of each of the {words}"
        rows.append((f"regional_dice{end}", row, pooled_dice, pooled))
        rows.append((f"lesion_dice{end}", row, mean_dice, f"{mean} {near}, their mean"))
    return tuple(
        Metric(
            name,
            "",
            "max",
            overlap_sums,
            text,
            functools.partial(finish, row),
            detail=name.endswith(SIZE_NAMES),
        )
        for name, row, finish, text in rows
    )
