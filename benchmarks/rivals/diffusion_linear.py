"""What a linear denoiser that knows more than the reference `linear` reaches on the demo of
`diffusion`: its covariance is a mixture of that of the augmented training images and of a
stationary one under the local deviation,

    S = w C + (1 - w) D^1/2 R D^1/2,

where `linear` has one variance for all that is outside of the training images' span. It trains no
network. The weight was chosen on two training patients of draw 4 that were left out.

    python -m benchmarks.rivals.diffusion_linear --json
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring.rows import Row, main, row, standard_error
from data.files import Float64

if TYPE_CHECKING:
    from models.diffusion.spaces import Space
    from trainables.api import Loaders
    from trainables.diffusion.prepared import Prepared
    from trainables.diffusion.settings import DiffusionSettings

DRAWS = (4, 5, 6, 7)
WEIGHT, SMOOTHED, COPIES = 0.3, 1.5, 6
"""w; the deviation of the Gaussian that the local variance is smoothed by, in pixels; augmented
copies of each training image."""


def measure() -> Iterator[Row]:
    """`denoising_mse`, mean over the draws, beside that of the reference; then the errors of
    both over the draws.
    """
    torch.set_num_threads(1)
    values: dict[tuple[str, str], list[float]] = {}
    for draw in DRAWS:
        for split, by_name in _of_draw(draw).items():
            for name, value in by_name.items():
                values.setdefault((split, name), []).append(value)
    for split in ("validation", "test"):
        fuller, linear = values[split, "fuller"], values[split, "linear"]
        peer = "the reference linear"
        yield row(
            f"diffusion_linear/{split}", statistics.mean(fuller), "", peer, statistics.mean(linear)
        )
        gains = [one - other for one, other in zip(linear, fuller, strict=True)]
        error = standard_error(gains)
        mean = statistics.mean(gains)
        yield Row(f"diffusion_linear/{split}/gain", mean, "", "its standard error", error, None)


def _of_draw(draw: int) -> dict[str, dict[str, float]]:
    from ray_jobs.verb import cache_directory
    from settings.flat import replace
    from settings.resolve import resolve
    from trainables.reporting.references import measure_references
    from trainables.system import load_system

    system = load_system("diffusion")
    begun = resolve(system.Settings, system.name, preset="right").settings
    changes = {"data.seed": draw, "train.test": True, "train.tensorboard": False}
    settings: DiffusionSettings = replace(begun, changes)
    prepared = system.prepare(settings, cache_directory())
    space = prepared.space(settings.space)
    mean, covariance = _fitted(_augmented(settings, prepared, space))
    found: dict[str, dict[str, float]] = {}
    loaders = system.loaders(settings, prepared)
    for split in ("validation", "test"):
        reference = measure_references(system, settings, prepared, split)["linear"]
        error = _error(settings, space, split, loaders, mean, covariance)
        found[split] = {"linear": reference["val.denoising_mse"], "fuller": error}
    return found


def _augmented(settings: DiffusionSettings, prepared: Prepared, space: Space) -> Float64:
    """Training images as a training sees them, standardised, [N, H, W]."""
    from data.mri.dataset import open_split

    samples: Any = open_split(prepared.data, "train", settings.augment)
    images = [
        space.encode(samples[(index, 1000 * copy + index)]["image"][None].float())[0, 0].numpy()
        for copy in range(COPIES)
        for index in range(len(samples))
    ]
    return np.stack(images).astype(np.float64)


def _fitted(images: Float64) -> tuple[Float64, Float64]:
    """(mean [n], S [n, n]) of images [N, H, W]."""
    from scipy.ndimage import gaussian_filter

    mean = images.mean(0)
    rows = images - mean
    deviation = np.sqrt(gaussian_filter((rows**2).mean(0), SMOOTHED) + 1e-4)
    local = deviation.ravel()
    stationary = _stationary(rows / deviation)
    flat = rows.reshape(len(rows), -1)
    sample = flat.T @ flat / len(flat)
    return mean.ravel(), WEIGHT * sample + (1 - WEIGHT) * local[:, None] * local * stationary


def _stationary(rows: Float64) -> Float64:
    """E[x(p) x(p + d)] of images [N, H, W] with zeros around them, as the matrix [n, n]."""
    height, width = rows.shape[1:]
    sides = (3 * height, 3 * width)
    spectrum = np.abs(np.fft.rfft2(rows, s=sides)) ** 2
    at = np.fft.irfft2(spectrum.mean(0), s=sides) / (height * width)
    down = (np.arange(height)[:, None] - np.arange(height)) % sides[0]
    across = (np.arange(width)[:, None] - np.arange(width)) % sides[1]
    return at[down[:, None, :, None], across[None, :, None, :]].reshape(height * width, -1)


def _error(
    settings: DiffusionSettings,
    space: Space,
    split: str,
    loaders: Loaders,
    mean: Float64,
    covariance: Float64,
) -> float:
    """The geometric mean over log-SNRs of the error of mean + S (S + r I)^-1 (y - mean)."""
    from scipy.linalg import cho_factor, cho_solve

    from metrics.diffusion import LEVELS
    from trainables.diffusion.forward import noised
    from trainables.diffusion.prediction import strategy_of
    from trainables.diffusion.samples import PAIRS
    from trainables.stepping.inputs import batch_of

    errors = []
    pairs: Any = getattr(loaders, split)
    for level in range(len(LEVELS)):
        batch = batch_of(loaders, split, list(range(level, len(pairs), PAIRS)))
        given = noised(space, batch, settings)
        at = strategy_of(settings, given["clean"].shape[2:]).coefficients(given["t"])
        ratio = float((at.sigma[0] / at.alpha[0]) ** 2)
        clean, scaled = _rows(given["clean"]), _rows(given["noisy"]) / float(at.alpha[0])
        system = covariance + ratio * np.eye(len(mean))
        solved = cho_solve(cho_factor(system.astype(np.float32)), (scaled - mean).T)
        errors.append(float(((mean + (covariance @ solved).T - clean) ** 2).mean()))
    return math.exp(statistics.mean(map(math.log, errors)))


def _rows(images: Tensor) -> Float64:
    return images.flatten(1).numpy().astype(np.float64)


if __name__ == "__main__":
    main(measure, __doc__)
