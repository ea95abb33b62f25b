"""What the sums of terms are divided by: never a function of the prediction. A shape is counted on
the host, a mask where it is.

Shapes: B images, C channels, H rows, W columns; `target` [B, C, H, W]; `hole` [B, 1, H, W].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from losses.terms import Tensors


def images(batch: Tensors, settings: object) -> Tensor:
    """The images of the batch."""
    return torch.tensor(batch["target"].shape[0], dtype=torch.float64)


def values(batch: Tensors, settings: object) -> Tensor:
    """Every value of the target: pixels times channels."""
    return torch.tensor(batch["target"].numel(), dtype=torch.float64)


def differences(batch: Tensors, settings: object) -> Tensor:
    """The pairs of neighbours along rows and columns, times channels."""
    n, channels, height, width = batch["target"].shape
    pairs = height * (width - 1) + (height - 1) * width
    return torch.tensor(n * channels * pairs, dtype=torch.float64)


def hole_values(batch: Tensors, settings: object) -> Tensor:
    """The values inside holes: hole pixels times channels."""
    return weighted_values(batch, batch["hole"])


def images_with_hole(batch: Tensors, settings: object) -> Tensor:
    """The images that have at least one hole pixel."""
    return (batch["hole"].amax(dim=(1, 2, 3)) > 0).sum().double()


def weighted_values(batch: Tensors, weight: Tensor) -> Tensor:
    """The sum of a weight per pixel [B, 1, H, W] over all channels."""
    # float64: a float32 sum loses pixels from 2^24 on.
    return weight.sum(dtype=torch.float64) * batch["target"].shape[1]


Count = Callable[[Tensors, Any], Tensor]


def values_of(name: str) -> Count:
    """The values of a named tensor of the batch."""

    def count(batch: Tensors, settings: object) -> Tensor:
        return torch.tensor(batch[name].numel(), dtype=torch.float64)

    return count


def samples_of(name: str) -> Count:
    """The samples of a named tensor of the batch."""

    def count(batch: Tensors, settings: object) -> Tensor:
        return torch.tensor(batch[name].shape[0], dtype=torch.float64)

    return count


def marked(name: str) -> Count:
    """The sum of a 0/1 mark per sample, [B]."""

    def count(batch: Tensors, settings: object) -> Tensor:
        return batch[name].sum(dtype=torch.float64)

    return count
