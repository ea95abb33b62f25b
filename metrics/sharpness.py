"""How sharp the boundaries of lesions are in the reconstruction, against the image.

    boundary_sharpness = mean |grad reconstruction| / mean |grad image|

over the pixels on either side of the boundary of the lesion mask (those whose 3-neighbourhood
holds lesion and background), pooled over all channels and the whole validation set. 1 is as sharp
as the image, below is blurred, above is sharper than it was: no direction is better. The
document names the measure and defines it nowhere; this definition is ours.

Gradients are central differences in 1/mm, so that thick slices count by their thickness; one-sided
at the edge of the image.

Shapes: B images, C channels, *S the space; images [B, C, *S]; `mask` [B, 1, *S] of 0 and 1;
`spacing` [B, dims] mm per pixel, in the order of *S.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def boundary(mask: Tensor) -> Tensor:
    """True at the pixels on either side of the mask's boundary. [B, 1, *S]"""
    pool = F.max_pool2d if mask.ndim == 4 else F.max_pool3d
    mask = mask.float()
    most, least = (sign * pool(sign * mask, 3, stride=1, padding=1) for sign in (1.0, -1.0))
    return most > least


def gradient_size(image: Tensor, spacing: Tensor) -> Tensor:
    """|grad image| of every pixel and channel in 1/mm, float64. [B, C, *S]"""
    space = tuple(range(2, image.ndim))
    parts = torch.gradient(image.double(), dim=space)
    each = spacing.double().view(len(image), len(space), *([1] * (image.ndim - 1))).unbind(dim=1)
    squares = [(part / mm).square() for part, mm in zip(parts, each, strict=True)]
    return torch.stack(squares).sum(dim=0).sqrt()


def sharpness_sums(
    predicted: Tensor, true: Tensor, mask: Tensor, spacing: Tensor
) -> tuple[Tensor, Tensor]:
    """([sum of |grad predicted|, sum of |grad true|] on the boundary, number of values there)"""
    inside = boundary(mask).expand_as(true)
    sums = [torch.where(inside, gradient_size(x, spacing), 0.0).sum() for x in (predicted, true)]
    return torch.stack(sums), inside.sum().double()


def sharpness(sums: Tensor, count: float) -> float:
    """NaN without a boundary, and where the image has none in the mask's place."""
    predicted, true = (float(value) for value in sums)
    return predicted / true if count > 0 and true > 0.0 else math.nan
