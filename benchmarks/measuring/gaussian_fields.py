"""Gaussian random fields with a chosen covariance of channels and spectrum, and in closed form the
sliced Wasserstein distance of the patches of two of them.

A field on a torus is x_c(p) = m_c + sum over d of L_cd g_d(p), with L L^T the covariance of the
channels and g_d independent with the autocorrelation rho, the transform of the spectrum. A patch
is normal with the covariance C_cd rho(i - j) between (c, i) and (d, j). Projected on d it is
N(<m, d>, d^T Sigma d), and of two normal laws of numbers

    W_2^2 = (m_1 - m_2)^2 + (s_1 - s_2)^2.

Shapes: C channels, k the side of a patch, D = C k^2, P directions, S the side of a field.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky


@dataclass(frozen=True)
class Law:
    """The law of a field.

    Attributes:
        covariance: of the channels, [C, C].
        slope: power falls with the frequency f (in cycles of the side) as (1 + f^2)^(-slope / 2):
            0 is white, and above it fields are the smoother the larger it is.
        mean: of each channel, [C].
    """

    covariance: np.ndarray
    slope: float
    mean: np.ndarray

    def spectrum(self, side: int) -> np.ndarray:
        """Of mean 1, so that the variance of g is 1, [S, S]."""
        f = np.fft.fftfreq(side, 1.0 / side)
        power = (1.0 + f[:, None] ** 2 + f[None] ** 2) ** (-self.slope / 2)
        return power / power.mean()

    def draw(self, count: int, side: int, generator: np.random.Generator) -> np.ndarray:
        """Fields, float64 [count, C, S, S]."""
        white = generator.normal(size=(count, len(self.mean), side, side))
        filtered = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(self.spectrum(side))).real
        mixed = np.einsum("cd,ndhw->nchw", cholesky(self.covariance, lower=True), filtered)
        return mixed + self.mean[:, None, None]

    def patch_covariance(self, size: int, side: int) -> np.ndarray:
        """Of patches of k x k as `unfold` orders them, channel first, [D, D]."""
        rho = np.fft.ifft2(self.spectrum(side)).real
        rows, columns = np.divmod(np.arange(size**2), size)
        apart = rho[rows[:, None] - rows[None], columns[:, None] - columns[None]]
        return np.kron(self.covariance, apart)

    def patch_mean(self, size: int) -> np.ndarray:
        """[D]."""
        return np.repeat(self.mean, size**2)

    def draw_patches(
        self, count: int, size: int, side: int, generator: np.random.Generator
    ) -> np.ndarray:
        """Independent patches, one of each of `count` fields, as columns, float64 [D, count].
        Those of one field overlap and are alike, and count for fewer.
        """
        factor = cholesky(self.patch_covariance(size, side), lower=True)
        normals = generator.normal(size=(len(factor), count))
        return factor @ normals + self.patch_mean(size)[:, None]


def sliced_wasserstein(
    one: Law, other: Law, size: int, side: int, directions: np.ndarray
) -> float:
    """SW_2^2 of the patches of two fields over unit directions [P, D]."""
    means = [directions @ law.patch_mean(size) for law in (one, other)]
    deviations = [
        np.sqrt(np.einsum("pd,de,pe->p", directions, law.patch_covariance(size, side), directions))
        for law in (one, other)
    ]
    squares = (means[0] - means[1]) ** 2 + (deviations[0] - deviations[1]) ** 2
    return float(squares.mean())


def two_styles() -> tuple[Law, Law]:
    """Two laws of four channels that differ in mean, covariance and smoothness."""
    generator = np.random.default_rng(0)
    mixings = generator.normal(size=(2, 4, 4)) / 2.0
    covariances = [m @ m.T + 0.25 * np.eye(4) for m in mixings]
    mean = np.array([2.0, -2.0, 1.0, 0.0])
    return Law(covariances[0], 3.0, mean), Law(covariances[1], 1.0, -mean)
