"""Weights of pixels by the size of the lesion that they belong to.

Shapes: B samples, *S the space, (H, W) or (D, H, W); `region` [B, 1, *S], 0 outside of lesions and
1 .. 4 by the size class of the pixel's lesion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from losses.terms import Tensors
from settings.mri import SIZE_NAMES
from settings.schema import Settings, setting


@dataclass(frozen=True, kw_only=True)
class SizeWeights(Settings):
    """Weights of pixels by the longest diameter of the lesion that they belong to; 1 outside."""

    tiny: float = setting(2.5, "weight in lesions below 10 mm", low=0.0, high=100.0)
    small: float = setting(1.8, "weight in lesions of 10 to 20 mm", low=0.0, high=100.0)
    medium: float = setting(1.4, "weight in lesions of 20 to 30 mm", low=0.0, high=100.0)
    large: float = setting(1.2, "weight in lesions of 30 mm or more", low=0.0, high=100.0)


class WeightsNode(Protocol):
    """What is read of a node with these weights."""

    @property
    def tiny(self) -> float: ...

    @property
    def small(self) -> float: ...

    @property
    def medium(self) -> float: ...

    @property
    def large(self) -> float: ...


def weights_by_region(batch: Tensors, weights: WeightsNode, key: str) -> Tensor:
    """The weight of every pixel, 1 outside of lesions, float32 [B, 1, *S].

    Args:
        key: of the switch that asks for the weights, for the message.

    Raises:
        ValueError: the batch has no `region`.
    """
    if "region" not in batch:
        raise ValueError(
            f"{key}=true weighs pixels by `region`, which this batch lacks: open the training "
            f"split with its regions, or set {key}=false."
        )
    table = [1.0, *(getattr(weights, name) for name in SIZE_NAMES)]
    region = batch["region"]
    return torch.tensor(table, dtype=torch.float32, device=region.device)[region.long()]


def weighted_values(batch: Tensors, weights: Tensor) -> Tensor:
    """The sum of the weights [B, 1, *S] over all pixels and channels of `image` [B, C, *S]."""
    # float32 weights have 24 digits, so that their float64 sum is exact in any order.
    return weights.sum(dtype=torch.float64) * batch["image"].shape[1]
