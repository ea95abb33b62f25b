"""Variational autoencoder with a KL term: MONAI's AutoencoderKL behind our interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from models.autoencoders.interface import Autoencoder
from models.autoencoders.settings import ModelSettings
from models.draws import draw_normal


class Vae(Autoencoder):
    """The latent is a Gaussian at each cell: a sample of it is decoded in training, drawn by the
    seed of the image, its mean otherwise.
    """

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        from monai.networks.nets import AutoencoderKL

        super().__init__(settings, channels)
        shape = settings.vae
        levels = len(shape.widths)
        self.network: Any = AutoencoderKL(
            spatial_dims=settings.spatial_dims,
            in_channels=channels,
            out_channels=channels,
            channels=shape.widths,
            latent_channels=shape.latent_channels,
            num_res_blocks=shape.res_blocks,
            attention_levels=[level >= levels - shape.attention for level in range(levels)],
            with_encoder_nonlocal_attn=shape.attention > 0,
            with_decoder_nonlocal_attn=shape.attention > 0,
            norm_num_groups=shape.norm_groups,
            use_checkpoint=settings.checkpointing,
            use_flash_attention=True,  # without it every pair of cells is held in memory
        ).to(self.dtype)

    def forward(self, image: Tensor, seed: Tensor | None = None) -> dict[str, Tensor]:
        """Adds `mean` and `deviation` [B, c, *s]."""
        mean, deviation = self._gaussian(image)
        latent = mean
        if self.training:
            noise = draw_normal(self.needed(seed), "model.vae", mean.shape[1:])
            latent = mean + deviation * noise
        return {
            **self.decoded(latent),
            "latent": latent,
            "mean": mean,
            "deviation": deviation,
        }

    def encode(self, image: Tensor) -> Tensor:
        return self._gaussian(image)[0]

    def decode(self, latent: Tensor) -> Tensor:
        return self.network.decode(latent.to(self.dtype)).float()

    def last_layer(self) -> list[nn.Parameter]:
        return [self.network.decoder.blocks[-1].conv.weight]

    def _gaussian(self, image: Tensor) -> tuple[Tensor, Tensor]:
        self.check_image(image)
        mean, deviation = self.network.encode(image.to(self.dtype))
        return mean.float(), deviation.float()
