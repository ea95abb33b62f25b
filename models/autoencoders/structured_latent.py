"""Structured latents (DC-AE 1.5, arXiv 2508.00413): the leading channels learn to carry the
structure of an image, the later ones its details, because in training a random number of leading
channels must do without the rest.

Shapes: latent [B, c, *s]. What trains on such latents masks with the same channel numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.draws import draw_integers
from settings.schema import Settings, SettingsError, setting

FEWEST_CHANNELS = 64
"""The document refuses structure at c = 32 and allows it from here on."""


@dataclass(frozen=True, kw_only=True)
class StructuredSettings(Settings):
    """How many channels a training step may keep: min_channels, + channel_step, ... and all."""

    enabled: bool = setting(False, "keep a random number of leading channels in training")
    min_channels: int = setting(16, "the fewest channels that are kept", low=1, high=1024)
    channel_step: int = setting(4, "between two numbers of channels", low=1, high=1024)

    def options(self, channels: int) -> tuple[int, ...]:
        """The numbers of channels to draw from, ascending; the last is all of them."""
        if channels < FEWEST_CHANNELS:
            raise SettingsError(
                f"structured latents need at least {FEWEST_CHANNELS} channels (the document rules "
                f"them out for small latents), not {channels}. Set model.dcae.latent_channels to "
                f"{FEWEST_CHANNELS} or more, or model.dcae.structured.enabled=false."
            )
        if self.min_channels >= channels:
            raise SettingsError(
                "model.dcae.structured.min_channels must be below model.dcae.latent_channels, "
                f"not {self.min_channels} of {channels}: nothing would ever be left out."
            )
        return (*range(self.min_channels, channels, self.channel_step), channels)


def draw(options: tuple[int, ...], seed: Tensor) -> int:
    """One of the numbers, all equally likely.

    One number for all samples of an update, as the paper draws it for an iteration: only then can
    a convolution leave out what is not kept.

    Args:
        seed: int64 [B] on the CPU, the same for all samples.
    """
    return options[int(draw_integers(seed[:1], "model.dcae.structured", len(options)))]


def keep_leading(latent: Tensor, count: int) -> Tensor:
    """The latent with zeros from channel `count` on."""
    leading = torch.arange(latent.shape[1], device=latent.device) < count
    return latent * leading.view(-1, *[1] * (latent.ndim - 2)).to(latent.dtype)


def project_out(features: Tensor, conv: nn.Module, channels: int, count: int) -> Tensor:
    """The encoder's last layer, for the first `count` of its channels: convolution plus the mean
    of each channel's group of features. [B, width, *s] -> [B, count, *s]

    Equal to masking the full result, in gradients too; it only saves the work for the rest.
    """
    means = features.unflatten(1, (channels, -1))[:, :count].mean(dim=2)
    weight, bias = _convolution(conv)
    return _convolve(features, weight[:count], bias[:count]) + means


def project_in(latent: Tensor, conv: nn.Module, channels: int, width: int) -> Tensor:
    """The decoder's first layer on the leading channels alone; those that are missing count as
    zeros. [B, count, *s] -> [B, width, *s]
    """
    count, repeats = latent.shape[1], width // channels
    weight, bias = _convolution(conv)
    repeated = latent.repeat_interleave(repeats, dim=1)
    padding = (0, 0) * (latent.ndim - 2) + (0, width - count * repeats)
    return _convolve(latent, weight[:, :count], bias) + F.pad(repeated, padding)


def _convolution(conv: nn.Module) -> tuple[Tensor, Tensor]:
    if not isinstance(conv, (nn.Conv2d, nn.Conv3d)) or conv.bias is None:
        raise TypeError(f"a 3-wide convolution with a bias is expected, not {conv!r}.")
    return conv.weight, conv.bias


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolution of size 3 with stride 1, in two or three dimensions."""
    convolution = F.conv2d if x.ndim == 4 else F.conv3d
    return convolution(x, weight, bias, padding=1)
