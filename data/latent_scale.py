"""The scale of latents: a shift and a deviation, of all numbers together or of each channel.

    standardised = (latent - shift) / deviation        restored = standardised x deviation + shift

Each is computed in float64 and rounded to float32 once. What comes back therefore differs from the
latent by at most 2^-24 (|latent - shift| + |latent|): two roundings of float32.

Shapes: latents [.., c, *s]; shift and deviation broadcast with [c, *s].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.files import Float32, Float64

_CONSTANT = 2.0**-20
"""Deviation / mean of what counts as constant: eight steps of float32. Earlier versions measured
up to 2e-7 where all numbers were the same.
"""


@dataclass(frozen=True)
class LatentScale:
    """What `standardised` and `restored` compute with.

    Attributes:
        shift, deviation: float64, a number or [c, 1, .., 1]. A network that has to restore what
            it draws keeps both as buffers.
    """

    shift: Float64
    deviation: Float64

    def standardised(self, latent: Float32) -> Float32:
        """Mean 0 and variance 1 over the training split."""
        return ((np.float64(latent) - self.shift) / self.deviation).astype(np.float32)

    def restored(self, standard: Float32) -> Float32:
        """The inverse of `standardised`: what the decoder of the autoencoder takes."""
        return (np.float64(standard) * self.deviation + self.shift).astype(np.float32)


def overall_scale(shift: float, scale_factor: float) -> LatentScale:
    """(latent - shift) x scale_factor, as diffusion models on latents scale theirs."""
    return LatentScale(np.asarray(shift, np.float64), np.asarray(1.0 / scale_factor, np.float64))


def channel_scale(mean: Sequence[float], std: Sequence[float], axes: int) -> LatentScale:
    """Each channel by its own mean and deviation.

    A constant channel (`constant_channels`) is shifted only, its deviation counts as 1: it is 0
    over the training split, and its mean wherever it is restored.

    Args:
        axes: of *s.
    """
    deviation = np.where(constant_channels(mean, std), 1.0, np.asarray(std, np.float64))
    shape = (-1, *[1] * axes)
    return LatentScale(np.asarray(mean, np.float64).reshape(shape), deviation.reshape(shape))


def constant_channels(
    mean: Sequence[float] | Float64, std: Sequence[float] | Float64
) -> NDArray[np.bool_]:
    """Which channels [c] are the same number throughout, but for the rounding of float32: their
    deviation is at most 2^-20 of their mean. To divide by it would make noise of rounding.
    """
    return np.asarray(std, np.float64) <= _CONSTANT * np.abs(np.asarray(mean, np.float64))
