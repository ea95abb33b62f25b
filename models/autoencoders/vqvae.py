"""Vector-quantised autoencoder: MONAI's VQVAE behind our interface.

The codes are no parameters of the optimizer. They are moving averages of what was assigned to
them, taken in every forward of a training: a step of n micro-batches moves them n times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.autoencoders.interface import Autoencoder, plain_autocast_off
from models.autoencoders.settings import ModelSettings

DOWN = (2, 4, 1, 1)
"""Stride, size, dilation and padding of a stage's convolution: it halves every side exactly."""

UP = (*DOWN, 0)
"""The same for the transposed convolution, without padding of its output."""


class Vqvae(Autoencoder):
    """Every cell of the latent is replaced by the nearest of K codes, with the gradient passed
    straight through.

    The average number of uses starts at one per code, not at MONAI's zero: its first update
    divides the random codes by a hundredth of their uses and by about epsilon where they have
    none, which moves most of the codebook out of reach of any encoder.
    """

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        from monai.networks.nets import VQVAE

        super().__init__(settings, channels)
        shape = settings.vqvae
        stages = len(shape.widths)
        self.network: Any = VQVAE(
            spatial_dims=settings.spatial_dims,
            in_channels=channels,
            out_channels=channels,
            channels=shape.widths,
            num_res_channels=shape.widths,
            num_res_layers=shape.res_blocks,
            downsample_parameters=(DOWN,) * stages,
            upsample_parameters=(UP,) * stages,
            num_embeddings=shape.codes,
            embedding_dim=shape.code_width,
            decay=shape.decay,
            epsilon=shape.epsilon,
            use_checkpointing=settings.checkpointing,
        ).to(self.dtype)
        self._codebook.float()  # steps of 1 - decay vanish in half precision
        self._codebook.ema_cluster_size.fill_(1.0)

    @property
    def _codebook(self) -> Any:
        """MONAI's EMAQuantizer."""
        return self.network.quantizer.quantizer

    @property
    def codes(self) -> Tensor:
        """The codebook [K, c]."""
        return self._codebook.embedding.weight

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Adds `unquantised` [B, c, *s], what the encoder made, and `codes` int64 [B, *s]."""
        unquantised = self._unquantised(image)
        with plain_autocast_off(image):
            latent, _, codes = self._codebook(unquantised)
        return {
            **self.decoded(latent),
            "latent": latent,
            "unquantised": unquantised,
            "codes": codes,
        }

    def encode(self, image: Tensor) -> Tensor:
        codes = self._nearest(self._unquantised(image))
        return self._codebook.embed(codes)

    def decode(self, latent: Tensor) -> Tensor:
        return self.network.decode(latent.to(self.dtype)).float()

    def last_layer(self) -> list[nn.Parameter]:
        return [self.network.decoder.blocks[-1].conv.weight]

    @torch.no_grad()
    def quantise(self, prediction: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
        """The numbers of the codes, and the reconstruction as it is: it was made of codes. `step`
        has no part in it.
        """
        return {
            "symbols": prediction["codes"][:, None],
            "quantised_reconstruction": prediction["reconstruction"],
        }

    def _unquantised(self, image: Tensor) -> Tensor:
        self.check_image(image)
        return self.network.encode(image.to(self.dtype)).float()

    def _nearest(self, latent: Tensor) -> Tensor:
        """The numbers of the nearest codes, int64 [B, *s]."""
        with plain_autocast_off(latent):
            return self._codebook.quantize(latent.float())[2]
