"""The distance of two images in the features of a frozen network trained on photographs; for
volumes, that of their slices.

Shapes: B samples, C channels, images [B, C, H, W], volumes [B, C, D, H, W], values about [0, 1].
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from models.efficientnet import SHORTEST_SIDE, ImageFeatures

TINY = 1e-10
"""Added to a squared length, whose root has an infinite slope at 0 (an empty background)."""

_SCRAMBLE = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_STEP = 0x9E3779B97F4A7C15 - 2**64
"""splitmix64's constants, as signed numbers."""


@functools.cache
def frozen_features(backbone: str, device: torch.device) -> ImageFeatures:
    """The feature network, loaded once per process and device."""
    return ImageFeatures(backbone).to(device)


def distance(features: ImageFeatures, x: Tensor, y: Tensor) -> Tensor:
    """LPIPS without its learnt weights, [B] in [0, 4]: 0 for equal images.

    sum over channels of (f(x) - f(y))^2, f the features scaled to unit length over their channels,
    mean over positions (Zhang et al. 2018, equation 1 with w = 1) and over the network's stages.
    Each channel is seen as a grey image of its own, and the mean is taken over the channels.
    No gradient reaches y.
    """
    with torch.no_grad():
        wanted = [_unit(stage) for stage in features(_grey(y))]
    given = [_unit(stage) for stage in features(_grey(x))]
    each = [
        (a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(given, wanted, strict=True)
    ]
    return torch.stack(each).mean(dim=0).unflatten(0, x.shape[:2]).mean(dim=1)


def _grey(image: Tensor) -> Tensor:
    """[B, C, H, W] -> [B C, 3, H, W]"""
    return image.float().flatten(0, 1)[:, None].expand(-1, 3, -1, -1)


def _unit(stage: Tensor) -> Tensor:
    return stage * torch.rsqrt(stage.square().sum(dim=1, keepdim=True) + TINY)


def volume_distance(
    features: ImageFeatures, x: Tensor, y: Tensor, share: float, seeds: Tensor
) -> Tensor:
    """`distance` of a share of the slices across each axis, [B]: mean over slices, then over axes.

    An axis whose slices are narrower than the network's smallest image is left out; that depends
    on the shape of the volume alone.

    Args:
        share: of the slices across each axis; one at least is taken.
        seeds: int64 [B]; a sample's slices are a function of its own seed.

    Raises:
        ValueError: no axis is left.
    """
    sizes = tuple(x.shape[2:])
    wide = [a for a in range(3) if min(sizes[:a] + sizes[a + 1 :]) >= SHORTEST_SIDE]
    if not wide:
        raise ValueError(
            f"a perceptual distance needs slices of {SHORTEST_SIDE} px a side or more across one "
            f"axis at least, and a volume of {' x '.join(map(str, sizes))} has none. Enlarge it."
        )
    distances = []
    for axis in wide:
        chosen = chosen_slices(seeds, sizes[axis], share, axis)
        first, second = (_slices(volume, axis, chosen) for volume in (x, y))
        distances.append(distance(features, first, second).unflatten(0, chosen.shape).mean(dim=1))
    return torch.stack(distances).mean(dim=0)


def _slices(volume: Tensor, axis: int, chosen: Tensor) -> Tensor:
    """[B, C, D, H, W], [B, k] -> [B k, C, ., .]"""
    rows = torch.arange(len(volume), device=volume.device)[:, None]
    return volume.movedim(2 + axis, 1)[rows, chosen].flatten(0, 1)


def chosen_slices(seeds: Tensor, size: int, share: float, axis: int) -> Tensor:
    """Numbers of round(share * size) different slices for each sample, [B, k].

    Every slice gets a hash (splitmix64 of seed, axis and number); the smallest are taken. So the
    choice needs no generator, and no copy to the host.
    """
    count = min(max(1, round(share * size)), size)
    number = torch.arange(1, size + 1, device=seeds.device) + axis * (1 << 32)
    z = _scrambled(seeds[:, None] * _STEP) + number * _STEP
    return _scrambled(z).argsort(dim=1, stable=True)[:, :count]


def _scrambled(z: Tensor) -> Tensor:
    z = (z ^ (z >> 30)) * _SCRAMBLE[0]
    z = (z ^ (z >> 27)) * _SCRAMBLE[1]
    return z ^ (z >> 31)


def content_seeds(image: Tensor) -> Tensor:
    """A seed for each sample from its values, int64 [B]: the sum of their bits, which is exact
    in any order.
    """
    return image.float().contiguous().view(torch.int32).flatten(1).sum(dim=1)
