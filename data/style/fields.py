"""Styles whose law is known: Gaussian random fields on a torus.

Of a style, cov(x[c, p], x[c', q]) = Sigma[c, c'] rho(p - q): a covariance of the channels, and a
correlation rho, the inverse Fourier transform of the spectrum. Every patch is Gaussian with mean
0 and the covariance of `FieldLaw.patch_covariance`, so that the Wasserstein distance of two styles
along a projection has a closed form.

Shapes: C channels, fields H x W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.files import Float32, Float64
from data.style.sets import SPLITS, StyleSet, StyleSets
from data.style.settings import DataSettings

_EXPONENT = 2.0
"""Of the spectrum (1 + (2 pi f l)^2)^-exponent: l is the length of correlation."""


@dataclass(frozen=True)
class FieldLaw:
    """The law of one style.

    Attributes:
        channel_covariance: Sigma [C, C], its mean variance 1.
        spectrum: [H, W] over the frequencies of `numpy.fft`, with mean 1, so that rho(0) = 1.
    """

    channel_covariance: Float64
    spectrum: Float64

    @property
    def correlation(self) -> Float64:
        """rho [H, W] at each shift, round the torus."""
        return np.fft.ifft2(self.spectrum).real

    def patch_covariance(self, side: int) -> Float64:
        """Of the values of a patch [C, side, side], in that order: [C side^2, C side^2]."""
        height, width = self.spectrum.shape
        y, x = np.divmod(np.arange(side**2), side)
        rho = self.correlation[(y[:, None] - y) % height, (x[:, None] - x) % width]
        return np.kron(self.channel_covariance, rho)

    def draw(self, count: int, generator: np.random.Generator) -> Float32:
        """Fields [count, C, H, W], independent of each other."""
        channels = len(self.channel_covariance)
        white = generator.standard_normal((count, channels, *self.spectrum.shape))
        smooth = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(self.spectrum)).real
        root = np.linalg.cholesky(self.channel_covariance)
        return np.einsum("cd,ndhw->nchw", root, smooth).astype(np.float32)


def spectrum_of(length: float, side: int) -> Float64:
    """(1 + (2 pi |f| l)^2)^-2 with mean 1; l = 0 is white noise."""
    frequency = np.fft.fftfreq(side)
    square = frequency[:, None] ** 2 + frequency**2
    power = (1.0 + (2.0 * np.pi * length) ** 2 * square) ** -_EXPONENT
    return power / power.mean()


def channel_covariance_of(channels: int, spread: float, seed: int, style: int) -> Float64:
    """Eigenvalues in geometric steps from the smallest to `spread` times it, their mean 1, in
    directions that seed and style draw.
    """
    generator = np.random.default_rng((seed, style, 0))
    directions, _ = np.linalg.qr(generator.standard_normal((channels, channels)))
    values = np.geomspace(1.0, spread, channels)
    covariance = (directions * (values / values.mean())) @ directions.T
    return (covariance + covariance.T) / 2.0


def law_of(style: int, settings: DataSettings) -> FieldLaw:
    """The law of the style of that number."""
    return FieldLaw(
        channel_covariance_of(
            settings.field_channels, settings.field_spread, settings.seed, style
        ),
        spectrum_of(settings.field_lengths[style], settings.field_side),
    )


def draw_fields(settings: DataSettings) -> StyleSets:
    """Independent fields of every style and split."""
    names = [f"field_{number}" for number in range(len(settings.field_lengths))]
    splits = {}
    for place, split in enumerate(SPLITS):
        count = settings.crops if split == "train" else settings.held_out_crops
        count = 0 if split == "test" and not settings.test_share else count
        found = [
            law_of(style, settings).draw(
                count, np.random.default_rng((settings.seed, style, place + 1))
            )
            for style in range(len(names))
        ]
        styles = np.repeat(np.arange(len(names)), count).tolist()
        units = [f"{names[style]}/{n % max(count, 1)}" for n, style in enumerate(styles)]
        splits[split] = StyleSet(np.concatenate(found), styles, units)
    return StyleSets("the Gaussian fields", names, splits, {"scale": 1.0, "source": "fields"})
