"""The deep compression autoencoder (DC-AE, arXiv 2410.10733) in three dimensions: encoder and
decoder of residual blocks, which the library's 2-D networks do not offer.

A change of size moves pixels into channels, or back, and has a shortcut without weights that does
the same to its input, so that the network learns a correction to a plain rearrangement. Parts are
named as in the 2-D networks of diffusers.

Shapes: [B, C, D, H, W]; factors (d, h, w) are pixels per cell along each axis.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.autoencoders.settings import DcaeSettings
from models.space_to_depth import pixel_shuffle, pixel_unshuffle

Factors = tuple[int, int, int]

NORM_EPS = 1e-5


def average_groups(x: Tensor, channels: int) -> Tensor:
    """Means over `channels` groups of neighbouring channels. [B, C, ...] -> [B, channels, ...]"""
    return x.unflatten(1, (channels, -1)).mean(dim=2)


def repeat_channels(x: Tensor, channels: int) -> Tensor:
    """Each channel repeated to give `channels` in all. [B, C, ...] -> [B, channels, ...]"""
    return x.repeat_interleave(channels // x.shape[1], dim=1)


class Down(nn.Module):
    """unshuffle(conv(x)) + average_groups(unshuffle(x)): sides divided by the factors."""

    def __init__(self, inputs: int, outputs: int, factors: Factors, shortcut: bool = True) -> None:
        super().__init__()
        self.outputs, self.factors, self.shortcut = outputs, factors, shortcut
        self.conv = nn.Conv3d(inputs, outputs // math.prod(factors), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        smaller = pixel_unshuffle(self.conv(x), self.factors)
        if not self.shortcut:
            return smaller
        return smaller + average_groups(pixel_unshuffle(x, self.factors), self.outputs)


class Up(nn.Module):
    """shuffle(conv(x)) + shuffle(repeat_channels(x)): sides multiplied by the factors."""

    def __init__(self, inputs: int, outputs: int, factors: Factors, shortcut: bool = True) -> None:
        super().__init__()
        self.expanded = outputs * math.prod(factors)
        self.factors, self.shortcut = factors, shortcut
        self.conv = nn.Conv3d(inputs, self.expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        larger = pixel_shuffle(self.conv(x), self.factors)
        if not self.shortcut:
            return larger
        return larger + pixel_shuffle(repeat_channels(x, self.expanded), self.factors)


class ChannelNorm(nn.Module):
    """x / sqrt(mean of x^2 over the channels) * weight + bias, at each voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        power = x.float().square().mean(dim=1, keepdim=True)
        unit = x * torch.rsqrt(power + NORM_EPS).to(x.dtype)
        weight, bias = (value.view(-1, 1, 1, 1) for value in (self.weight, self.bias))
        return unit * weight + bias


class ResidualBlock(nn.Module):
    """x + norm(conv(SiLU(conv(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            ChannelNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def stage_factors(settings: DcaeSettings) -> list[Factors]:
    """(d, 2, 2) of each change of size, finest first."""
    return [(depth, 2, 2) for depth in settings.depth_factors]


class Encoder(nn.Module):
    """[B, C, D, H, W] -> [B, c, D', H', W']; the last layer has the average of groups as its
    shortcut.
    """

    def __init__(self, settings: DcaeSettings, channels: int) -> None:
        super().__init__()
        widths, factors = settings.widths, stage_factors(settings)
        self.latent_channels = settings.latent_channels
        self.conv_in: nn.Module
        if settings.layers[0]:
            self.conv_in = nn.Conv3d(channels, widths[0], 3, padding=1)
        else:
            self.conv_in = Down(channels, widths[1], factors[0], shortcut=False)
        stages = [_blocks(*pair) for pair in zip(widths, settings.layers, strict=True)]
        for index, pair in enumerate(pairwise(widths)):
            if settings.layers[index]:
                stages[index].append(Down(*pair, factors[index]))
        self.down_blocks = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.conv_out = nn.Conv3d(widths[-1], settings.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(x) + average_groups(x, self.latent_channels)


class Decoder(nn.Module):
    """[B, c, D', H', W'] -> [B, C, D, H, W]; the first layer has repeated channels as its
    shortcut. `up_blocks` are in the order of the widths, finest first.
    """

    def __init__(self, settings: DcaeSettings, channels: int) -> None:
        super().__init__()
        widths, factors = settings.widths, stage_factors(settings)
        layers = settings.decoder_layers
        self.width = widths[-1]
        self.conv_in = nn.Conv3d(settings.latent_channels, widths[-1], 3, padding=1)
        stages = [_blocks(*pair) for pair in zip(widths, layers, strict=True)]
        for index, (fine, coarse) in enumerate(pairwise(widths)):
            if layers[index]:
                stages[index].insert(0, Up(coarse, fine, factors[index]))
        self.up_blocks = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        last = widths[0] if layers[0] else widths[1]
        self.norm_out = ChannelNorm(last)
        self.conv_out: nn.Module
        if layers[0]:
            self.conv_out = nn.Conv3d(last, channels, 3, padding=1)
        else:
            self.conv_out = Up(last, channels, factors[0], shortcut=False)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.conv_in(latent) + repeat_channels(latent, self.width)
        for stage in reversed(self.up_blocks):
            x = stage(x)
        return head(self, x)


def head(decoder: Decoder, x: Tensor) -> Tensor:
    """What the decoder does after its stages."""
    return decoder.conv_out(decoder.norm_out(x).relu())


def _blocks(width: int, layers: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(layers)]


def networks(settings: DcaeSettings, channels: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder for images with that many channels."""
    return Encoder(settings, channels), Decoder(settings, channels)
