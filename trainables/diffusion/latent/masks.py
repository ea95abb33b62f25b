"""How the lesion mask enters a diffusion of latents: the bits of every cell, reduced to as many
numbers as the latent has, or the latent of an encoder of masks. Never as numbers of smaller masks,
nor as bits that are read as a number (001-M1).

Shapes: B samples; mask [B, 1, *S] of 0 and 1, *S (H, W) or (D, H, W); latents [B, c, *s].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data.mri.mask_codec import bit_planes
from models.autoencoders.bit_planes import BitPlaneReduction
from models.diffusion.latent_space import Codec
from trainables.api import Tensors
from trainables.diffusion.latent.latents import MASK_LATENT

_BLOCK_AXES = 2


class MaskEntry(nn.Module, ABC):
    """The condition image of masks [B, width, *s]. "Not given" is a learned vector in every cell,
    for an empty mask is something else (001-M10).

    Attributes:
        width: channels of the condition image.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.null = nn.Parameter(torch.randn(width))

    @abstractmethod
    def images(self, batch: Tensors) -> Tensor:
        """Of masks that are given, [B, width, *s]."""

    def forward(self, batch: Tensors, is_null: Tensor | None) -> Tensor:
        """Args: is_null: bool [B], whose masks are not given."""
        images = self.images(batch)
        if is_null is None:
            return images
        axes = [1] * (images.ndim - 2)
        null = self.null.to(images.dtype).view(1, -1, *axes)
        return torch.where(is_null.view(-1, 1, *axes), null, images)


class BitPlanes(MaskEntry):
    """The bits of the pixels of a cell, through a learned 1 x 1 reduction to `width` numbers."""

    def __init__(self, factors: Sequence[int], width: int) -> None:
        """
        Args:
            factors: pixels per cell along each axis of *S; those of H and W are equal.
            width: fewer where a cell has fewer pixels.
        """
        *depth, self.block, across = factors
        if self.block != across:
            raise ValueError(f"a cell is as high as it is wide, not {self.block} x {across} px.")
        self.depth = depth[0] if depth else 1
        width = min(width, self.depth * self.block**2)
        super().__init__(width)
        self.reduction = BitPlaneReduction(self.block, width, self.depth)

    def images(self, batch: Tensors) -> Tensor:
        planes = bit_planes(batch["mask"][:, 0] > 0.5, self.block)  # [B, (D,) block², h, w]
        if planes.ndim == _BLOCK_AXES + 2:
            return self.reduction(planes)
        by_cell = planes.unflatten(1, (-1, self.depth)).flatten(2, 3)  # [B, d, K, h, w]
        return self.reduction(by_cell).transpose(1, 2)


class EncodedMask(MaskEntry):
    """The latents of masks, standardised by the training split."""

    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int, moments: Sequence[Sequence[float]], encoder: Codec) -> None:
        """Args: encoder: frozen, of masks whose latents are not in the batch; no part of this."""
        super().__init__(channels)
        shift, scale = moments
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self._encoder = (encoder,)

    def images(self, batch: Tensors) -> Tensor:
        latent = batch.get(MASK_LATENT)
        if latent is None:
            with torch.no_grad():
                encoder: Any = self._encoder[0].to(batch["mask"].device)
                latent = encoder.encode(batch["mask"].float())
        shape = (-1, *[1] * (latent.ndim - 2))
        return (latent.float() - self.shift.view(shape)) / self.scale.view(shape)
