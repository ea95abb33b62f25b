"""Masks as a condition of a network: a learned reduction of their bit planes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BitPlaneReduction(nn.Module):
    """Planes [.., K, h, w] of 0 and 1 (one for each pixel of a block, K = block², or of a stack of
    `depth` blocks, K = depth block²) -> condition [.., width, h, w]: a 1 x 1 convolution over the
    planes.

    `..` is any number of axes, a batch or the slices of its volumes. The exact mask enters, rather
    than its words read as numbers (001-M1). A map from K bits to fewer numbers cannot keep them
    all; which of them matter is learned with the network.

    The rows of the weight start orthonormal: distances between masks are kept up to the factor
    sqrt(width / K) on average, and none of the outputs repeats another. A block without lesion
    gives the bias alone.
    """

    def __init__(self, block: int, width: int, depth: int = 1) -> None:
        super().__init__()
        planes = depth * block * block
        if not 1 <= width <= planes:
            raise ValueError(
                f"{planes} planes (blocks of {block} x {block} px) are reduced to 1 .. {planes} "
                f"channels, not {width}."
            )
        self.block, self.width = block, width
        self.reduce = nn.Linear(planes, width)
        nn.init.orthogonal_(self.reduce.weight)
        nn.init.zeros_(self.reduce.bias)

    def forward(self, planes: Tensor) -> Tensor:
        expected = self.reduce.in_features
        if planes.dim() < 3 or planes.shape[-3] != expected:
            raise ValueError(
                f"blocks of {self.block} x {self.block} px have {expected} planes "
                f"[.., {expected}, h, w], and these are {list(planes.shape)}."
            )
        if not torch.is_floating_point(planes):
            raise ValueError(
                f"the planes are floating-point zeros and ones, not {planes.dtype}: the words of "
                "data.mri.mask_codec.encode are for storage, its bit_planes are for networks."
            )
        return self.reduce(planes.movedim(-3, -1)).movedim(-1, -3)
