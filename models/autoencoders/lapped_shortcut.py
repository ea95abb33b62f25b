"""A linear autoencoder beside the network, in which cells overlap: it begins as the cosine
transform of the pixels of a cell of the latent, cut to as many frequencies as the latent has
channels, and is trained with the network, the pixels of the neighbouring cells included.

The cosine transform is close to the principal components of a first-order Markov process, whose
neighbouring pixels correlate by a fixed number (Ahmed, Natarajan and Rao, IEEE Trans. Computers
C-23, 1974). So it needs no data, and a training begins about where the principal components of
cells end. What overlaps is a lapped transform (Malvar and Staelin, IEEE Trans. ASSP 37, 1989),
which has no edges between cells. The network has to learn only what is left, as behind the
shortcuts of DC-AE (arXiv 2410.10733, section 3.2), which have no parameters and average.

Shapes: B images, C channels, `*S` the space, c and `*s` of the latent, `*f` the pixels of a cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CORRELATION = 0.95
"""Of neighbouring pixels, in the process that orders and scales the frequencies."""

PIXEL_STD = 0.3
"""Of the process: that of images which are spread over 0 .. 1."""


class LappedShortcut(nn.Module):
    """Two linear maps, from an image to a latent and back, of each cell and the cells around it.
    Each latent channel begins as one frequency of one image channel in the cell itself, the
    strongest first, at variance 1 under the process; channels beyond the pixels of a cell begin
    as 0.
    """

    def __init__(self, channels: int, latent_channels: int, factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = tuple(factors)
        basis, deviations = strongest(self.factors, channels, latent_channels)
        shape = (latent_channels, channels, *(3 * side for side in self.factors))
        down, up = torch.zeros(shape, device="cpu"), torch.zeros(shape, device="cpu")
        scale = PIXEL_STD * deviations.view(-1, *[1] * (len(shape) - 1))
        cell = (slice(len(basis)), slice(None), *(slice(side, 2 * side) for side in self.factors))
        down[cell], up[cell] = basis / scale, basis * scale
        self.down = nn.Parameter(torch.empty(shape).copy_(down))
        self.up = nn.Parameter(torch.empty(shape).copy_(up))

    def encode(self, image: Tensor) -> Tensor:
        """[B, C, *S] -> [B, c, *s]"""
        convolve: Callable[..., Tensor] = F.conv2d if image.ndim == 4 else F.conv3d
        return convolve(image, self.down, stride=self.factors, padding=self.factors)

    def decode(self, latent: Tensor) -> Tensor:
        """[B, c, *s] -> [B, C, *S]"""
        is_flat = latent.ndim == 4
        convolve: Callable[..., Tensor] = F.conv_transpose2d if is_flat else F.conv_transpose3d
        return convolve(latent, self.up, stride=self.factors, padding=self.factors)


def strongest(factors: Sequence[int], channels: int, most: int) -> tuple[Tensor, Tensor]:
    """At most so many orthonormal patterns [K, C, *f] of a cell, and the standard deviation [K] of
    each in units of a pixel's, those of the largest first. Always on the CPU.
    """
    axes = [cosines(side) for side in factors]
    found: list[tuple[float, int, Any]] = []
    for frequencies in itertools.product(*(range(side) for side in factors)):
        variance = math.prod(
            float(variances[k]) for (_, variances), k in zip(axes, frequencies, strict=True)
        )
        found += [(-variance, channel, frequencies) for channel in range(channels)]
    chosen = sorted(found)[:most]
    basis = torch.zeros(len(chosen), channels, *factors, device="cpu")
    for row, (_, channel, frequencies) in enumerate(chosen):
        pattern = torch.ones((), device="cpu")
        for (rows, _), k in zip(axes, frequencies, strict=True):
            pattern = pattern[..., None] * rows[k]
        basis[row, channel] = pattern
    deviations = [math.sqrt(-variance) for variance, *_ in chosen]
    return basis, torch.tensor(deviations, device="cpu")


def cosines(side: int) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine transform (DCT-II) [side, side], a frequency a row, and the variance
    of each under the Markov process.
    """
    places = torch.arange(side, dtype=torch.float64, device="cpu")
    rows = torch.cos(math.pi / side * (places + 0.5) * places[:, None])
    rows = rows / rows.norm(dim=1, keepdim=True)
    covariance = CORRELATION ** (places[:, None] - places).abs()
    return rows.float(), (rows @ covariance * rows).sum(dim=1)
