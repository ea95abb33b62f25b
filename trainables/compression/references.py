"""What an autoencoder has to beat: the mean image, and the image made smaller until it has as many
numbers as the latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.rate import is_rounded
from models.autoencoders.interface import round_latent
from trainables.api import Loaders, Reference, Tensors
from trainables.compression.settings import CompressionSettings

_LARGEST = 512
"""Training images that the mean is taken of, evenly spaced."""


def references(settings: CompressionSettings, loaders: Loaders) -> dict[str, Reference]:
    """Both for the settings' own kind of model."""
    return {
        "mean": Reference(_mean(loaders), "the mean of the training images"),
        "downsampled": Reference(
            lambda batch: downsampled(batch["image"], settings),
            "the image averaged to as many numbers as the latent has, and interpolated",
        ),
    }


def _mean(loaders: Loaders) -> Callable[[Tensors], Tensors]:
    samples: Any = loaders.train
    count = min(len(samples), _LARGEST)
    places = [index * len(samples) // count for index in range(count)]
    mean = torch.stack([samples[(place, 0)]["image"] for place in places]).mean(dim=0)

    def predict(batch: Tensors) -> Tensors:
        return {"reconstruction": mean.to(batch["image"]).expand_as(batch["image"])}

    return predict


def downsampled(image: Tensor, settings: CompressionSettings) -> dict[str, Tensor]:
    """The prediction for images [B, C, *S]: their means over cells as the latent [B, C, *s], with
    the rate that it costs where it is rounded as the model's would be. The number of cells is that
    of the latent's values over C, or a little less, at equal sides of a cell.
    """
    space = image.shape[2:]
    numbers = math.prod(settings.model.latent_shape(space))
    latent = pooled(image, smaller(space, numbers, image.shape[1]))
    prediction = {"latent": latent, "reconstruction": _enlarged(latent, space)}
    if is_rounded(settings):
        symbols, rounded = round_latent(latent, settings.metric.rate_step)
        prediction |= {"symbols": symbols, "quantised_reconstruction": _enlarged(rounded, space)}
    return prediction


def smaller(space: Sequence[int], numbers: int, channels: int) -> tuple[int, ...]:
    """The sides of an image of `channels` that has at most as many `numbers`, 1 or more each."""
    factor = (math.prod(space) * channels / numbers) ** (1.0 / len(space))
    return tuple(max(1, min(side, math.floor(side / factor + 1e-9))) for side in space)


def pooled(image: Tensor, sides: Sequence[int]) -> Tensor:
    """Means over cells, [B, C, *sides]."""
    pool: Callable[..., Tensor] = (
        F.adaptive_avg_pool2d if image.ndim == 4 else F.adaptive_avg_pool3d
    )
    return pool(image, tuple(sides))


def _enlarged(cells: Tensor, space: Sequence[int]) -> Tensor:
    mode = "bilinear" if cells.ndim == 4 else "trilinear"
    return F.interpolate(cells, size=tuple(space), mode=mode, align_corners=False)
