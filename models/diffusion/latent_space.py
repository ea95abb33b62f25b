"""The latents of an autoencoder as a space of the diffusion, standardised as every space is.

The autoencoder is not a part of the space: it is frozen, and its weights are in no checkpoint of
what is trained here. The space knows it where images are to be made.

Shapes: images [B, C, *S], latents [B, c, *s].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.diffusion.spaces import Space


class Codec(nn.Module, ABC):
    """What a space asks of a frozen autoencoder."""

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """[B, C, *S] -> [B, c, *s]"""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """[B, c, *s] -> [B, C, *S], images and no logits."""


@dataclass(frozen=True)
class Cells:
    """What is known of latents without their autoencoder.

    Attributes:
        channels: c.
        factors: pixels per cell along each axis of *S.
    """

    channels: int
    factors: tuple[int, ...]


class LatentSpace(Space):
    """z = (latent - shift) / scale.

    Attributes:
        cells: of the latents.
    """

    def __init__(self, cells: Cells, codec: Codec | None) -> None:
        """Args: codec: moved to the device of what it is given; None where there is none."""
        super().__init__(len(cells.factors), cells.channels)
        self.cells = cells
        self.attach(codec)

    def attach(self, codec: Codec | None) -> None:
        """Names the autoencoder, which does not become a part of the space."""
        self._codec = (codec,)  # in a tuple, so that its weights are not those of the space
        self.decodes = codec is not None

    @property
    def codec(self) -> Codec | None:
        """The autoencoder, where it is at hand."""
        return self._codec[0]

    def channels_of(self, channels: int) -> int:
        """Those of the latents themselves: conditions do not enter as images do."""
        return channels

    def size_of(self, size: Sequence[int]) -> tuple[int, ...]:
        factors = self.cells.factors
        if len(size) != len(factors) or any(
            side < 1 or side % factor for side, factor in zip(size, factors, strict=True)
        ):
            raise ValueError(
                f"a cell of these latents has {' x '.join(map(str, factors))} pixels, and sides "
                f"are multiples of that, not {tuple(size)}. Change the size of the images, or "
                "take another autoencoder."
            )
        return tuple(side // factor for side, factor in zip(size, factors, strict=True))

    @torch.no_grad()
    def rearranged(self, image: Tensor) -> Tensor:
        """The latent of images. A training does not call it: latents are made once before."""
        return self._on(image).encode(image).float()

    def restored(self, values: Tensor) -> Tensor:
        return self._on(values).decode(values.float())

    def _on(self, values: Tensor) -> Codec:
        codec = self.codec
        if codec is None:
            raise ValueError(
                "these latents come from a file, and their autoencoder is not at hand: set "
                "space.latents to its checkpoint, or attach it."
            )
        codec.to(values.device)
        return codec
