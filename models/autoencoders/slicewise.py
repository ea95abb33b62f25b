"""A 2-D autoencoder applied to every slice of a volume, as diffusion models of volumes take their
latents.

Shapes: volumes [B, C, D, H, W], their latents [B, c, D, h, w]: the depth stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.autoencoders.interface import Autoencoder


class Slicewise(nn.Module):
    """Encodes and decodes volumes slice by slice.

    Args:
        autoencoder: for slices.
        chunk: slices that go through it together; bounds the memory, not the result.
    """

    def __init__(self, autoencoder: Autoencoder, chunk: int = 32) -> None:
        super().__init__()
        dims = autoencoder.settings.spatial_dims
        if dims != 2:
            raise ValueError(
                f"only a 2-D autoencoder goes slice by slice, not one of {dims} dimensions. Call "
                "it on the volume itself, or train one with model.spatial_dims=2."
            )
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 slice, not {chunk}.")
        self.autoencoder, self.chunk = autoencoder, chunk

    def forward(self, volume: Tensor) -> Tensor:
        """The reconstruction [B, C, D, H, W]."""
        return self.autoencoder.to_image(self.decode(self.encode(volume)))

    def encode(self, volume: Tensor) -> Tensor:
        """[B, C, D, H, W] -> [B, c, D, h, w]"""
        return self._each(self.autoencoder.encode, volume)

    def decode(self, latent: Tensor) -> Tensor:
        """[B, c, D, h, w] -> [B, C, D, H, W]: images or logits, as the autoencoder's decoder."""
        return self._each(self.autoencoder.decode, latent)

    def latent_shape(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """(D, H, W) -> (c, D, h, w)."""
        depth, *plane = spatial
        channels, *cells = self.autoencoder.latent_shape(tuple(plane))
        return channels, depth, *cells

    def _each(self, function: Callable[[Tensor], Tensor], volume: Tensor) -> Tensor:
        if volume.ndim != 5:
            raise ValueError(
                "volumes and their latents have five axes, [B, C, D, H, W], not "
                f"{list(volume.shape)}."
            )
        slices = volume.transpose(1, 2).flatten(0, 1)  # [B D, C, H, W]
        done = torch.cat([function(part) for part in slices.split(self.chunk)])
        return done.unflatten(0, (volume.shape[0], volume.shape[2])).transpose(1, 2)
