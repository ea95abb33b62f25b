"""Variational autoencoder with a KL term: MONAI's AutoencoderKL behind our interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.autoencoders.interface import Autoencoder
from models.autoencoders.lapped_shortcut import LappedShortcut
from models.autoencoders.settings import ModelSettings
from models.draws import draw_normal
from models.monai_modules import monai_module

_LOG_VARIANCE = -6.0
"""Of the latent where a shortcut begins: noise of a twentieth of what the shortcut puts there."""


class Vae(Autoencoder):
    """The latent is a Gaussian at each cell: a sample of it is decoded in training, drawn by the
    seed of the image, its mean otherwise.

    With a shortcut the network begins as nothing, or stays it: mean and reconstruction are the
    shortcut's.
    """

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        super().__init__(settings, channels)
        shape = settings.vae
        is_alone = shape.shortcut == "lapped_alone"
        network = NoNetwork(settings, channels) if is_alone else _network(settings, channels)
        self.network: Any = network.to(self.dtype)
        self.shortcut: LappedShortcut | None = None
        if shape.shortcut != "none":
            lapped = LappedShortcut(channels, shape.latent_channels, settings.factors)
            self.shortcut = lapped.to(self.dtype)
            if not is_alone:
                self._begin_as_nothing()

    @torch.no_grad()
    def _begin_as_nothing(self) -> None:
        mean, spread = self.network.quant_conv_mu.conv, self.network.quant_conv_log_sigma.conv
        for layer in (mean, spread, self.network.decoder.blocks[-1].conv):
            layer.weight.zero_()
            layer.bias.zero_()
        spread.bias.fill_(_LOG_VARIANCE)

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
        latent = latent.to(self.dtype)
        image: Tensor = self.network.decode(latent)
        if self.shortcut is not None:
            image = image + self.shortcut.decode(latent)
        return image.float()

    def last_layer(self) -> list[nn.Parameter]:
        if self.shortcut is not None and isinstance(self.network, NoNetwork):
            return [self.shortcut.up]
        return [self.network.decoder.blocks[-1].conv.weight]

    def _gaussian(self, image: Tensor) -> tuple[Tensor, Tensor]:
        self.check_image(image)
        image = image.to(self.dtype)
        mean, deviation = self.network.encode(image)
        if self.shortcut is not None:
            mean = mean + self.shortcut.encode(image)
        return mean.float(), deviation.float()


class NoNetwork(nn.Module):
    """In place of a network whose shortcut is trained alone: mean and reconstruction 0, and one
    learnt deviation for each channel of the latent.
    """

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        super().__init__()
        self.settings, self.channels = settings, channels
        self.log_variance = nn.Parameter(torch.full((settings.latent_channels,), _LOG_VARIANCE))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, *S] -> mean and deviation [B, c, *s]"""
        shape = self.settings.latent_shape(image.shape[2:])
        deviation = (0.5 * self.log_variance).exp().view(-1, *[1] * (len(shape) - 1))
        return image.new_zeros(len(image), *shape), deviation.expand(len(image), *shape)

    def decode(self, latent: Tensor) -> Tensor:
        """[B, c, *s] -> [B, C, *S]"""
        sides = zip(latent.shape[2:], self.settings.factors, strict=True)
        return latent.new_zeros(len(latent), self.channels, *(cells * f for cells, f in sides))


def _network(settings: ModelSettings, channels: int) -> nn.Module:
    shape = settings.vae
    levels = len(shape.widths)
    return monai_module("networks.nets").AutoencoderKL(
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
    )
