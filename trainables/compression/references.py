"""What an autoencoder has to beat: the mean image; the image made smaller until it has as many
numbers as the latent; principal components of whole images, and of the pixels of a latent's cell,
as many; and an image codec (`trainables.compression.codec`).

Shapes: N training images, B of a batch, C channels, *S the space; *f the pixels of a cell of the
latent [B, c, *s], P = C prod(f) their values; K components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.rate import is_rounded
from models.autoencoders.interface import round_latent
from trainables.api import Loaders, Reference, Tensors
from trainables.compression.codec import codec_references
from trainables.compression.settings import CompressionSettings
from trainables.principal import principal_axes

_LARGEST = 512
"""Training images that all of this is fitted to, evenly spaced."""

_NUMBERS = 2**25
"""Values of training images that are held at once: 128 MiB. 512 of 256 x 256 pixels, and 3
volumes of 160 x 256 x 256, whose components would be those of three patients.
"""

_FEWEST = 16
"""Training images below which there are no components of whole images, unless the training split
has no more.
"""

_SIDE = 2048
"""Of the largest matrix whose eigenvectors are looked for: seconds on a core."""

COSTS = ("rate_bpp",)


def references(
    settings: CompressionSettings, loaders: Loaders, room: int = _NUMBERS
) -> dict[str, Reference]:
    """All of them for the settings' own kind of model.

    Args:
        room: values of training images that are held at once.
    """
    fitted = _fit(settings, loaders, room)
    space = fitted.mean.shape[1:]
    numbers = math.prod(settings.model.latent_shape(space))
    references = {
        "mean": Reference(_mean(fitted.mean), "the mean of the training images"),
        "downsampled": Reference(
            lambda batch: downsampled(batch["image"], settings),
            "the image averaged to as many numbers as the latent has, and interpolated",
            costs=COSTS,
        ),
    }
    if fitted.images is not None:
        whole = _whole(fitted.images, fitted.mean, numbers)
        count = len(whole.axes)
        few = "" if count == numbers else f"; the latent has {numbers} numbers"
        about = f"the first {count} principal components of {len(fitted.images)} training images"
        references["principal_components"] = _reference(whole, settings, f"{about}{few}")
    cells = _cells(fitted.cells, settings)
    factors = " x ".join(map(str, settings.model.factors))
    about = (
        f"the first {len(cells.axes)} principal components of each {factors} pixels of training "
        "images: a linear network with this latent"
    )
    references["cell_components"] = _reference(cells, settings, about)
    return {**references, **codec_references(settings, fitted.mean.shape[0], tuple(space))}


@dataclass(frozen=True)
class _Fit:
    """What the training images say.

    Attributes:
        mean: [C, *S].
        images: [N, C, *S] evenly spaced ones; None where too few fit.
        cells: [n, P] evenly spaced cells of them.
    """

    mean: Tensor
    images: Tensor | None
    cells: Tensor


def _fit(settings: CompressionSettings, loaders: Loaders, room: int) -> _Fit:
    """One pass over the training images."""
    count = min(len(loaders.train), _LARGEST)  # type: ignore[arg-type]  # map-style by contract
    shape = next(_images(loaders, 1)).shape
    fits = min(count, room // math.prod(shape))
    held = set(_evenly(count, fits)) if fits >= min(count, _FEWEST) else set()
    factors = settings.model.factors
    values = shape[0] * math.prod(factors)  # of a cell
    wanted = max(_SIDE, room // 8 // values)
    total, images, cells = torch.zeros(shape, dtype=torch.float64), [], []
    for number, image in enumerate(_images(loaders, count)):
        total += image
        if number in held:
            images.append(image)
        rows = to_cells(image[None], factors).flatten(0, -2)
        cells.append(rows[_evenly(len(rows), min(len(rows), -(-wanted // count)))])
    return _Fit(
        (total / count).float(), torch.stack(images) if images else None, torch.cat(cells)
    )


def _images(loaders: Loaders, count: int) -> Iterator[Tensor]:
    """Training images, evenly spaced."""
    samples: Any = loaders.train
    for place in _evenly(len(samples), count):
        yield samples[(place, 0)]["image"]


def _evenly(size: int, count: int) -> list[int]:
    return [index * size // count for index in range(count)]


def _mean(mean: Tensor) -> Callable[[Tensors], Tensors]:
    def predict(batch: Tensors) -> Tensors:
        return {"reconstruction": mean.to(batch["image"]).expand_as(batch["image"])}

    return predict


@dataclass(frozen=True)
class Linear:
    """A linear autoencoder: its latent is what the axes say of an image's pieces.

    Attributes:
        middle: [P], of a piece.
        axes: orthonormal [K, P].
        pieces: images [B, C, *S] -> [B, *s, P]; all of an image is one piece where *s is empty.
        images: the inverse, of pieces and the size of the images.
    """

    middle: Tensor
    axes: Tensor
    pieces: Callable[[Tensor], Tensor]
    images: Callable[[Tensor, torch.Size], Tensor]

    def encode(self, image: Tensor) -> Tensor:
        """[B, C, *S] -> [B, K, *s]"""
        pieces = self.pieces(image.float())
        return ((pieces - self.middle.to(pieces)) @ self.axes.to(pieces).T).movedim(-1, 1)

    def decode(self, latent: Tensor, size: torch.Size) -> Tensor:
        pieces = latent.movedim(1, -1) @ self.axes.to(latent) + self.middle.to(latent)
        return self.images(pieces, size)


def _reference(linear: Linear, settings: CompressionSettings, about: str) -> Reference:
    def predict(batch: Tensors) -> Tensors:
        size = batch["image"].shape
        latent = linear.encode(batch["image"])
        return _through(latent, lambda numbers: linear.decode(numbers, size), settings)

    return Reference(predict, about, costs=COSTS)


def _whole(images: Tensor, mean: Tensor, numbers: int) -> Linear:
    """Of whole images. The mean is that of all training images, of which `images` may be some."""
    axes = principal_axes(images.flatten(1), mean.flatten(), numbers)
    return Linear(
        mean.flatten(), axes, lambda image: image.flatten(1), lambda flat, size: flat.view(size)
    )


def _cells(rows: Tensor, settings: CompressionSettings) -> Linear:
    """Of the pixels of a cell, as many as the latent has channels."""
    middle = rows.double().mean(dim=0).float()
    axes = principal_axes(rows, middle, settings.model.latent_channels)
    factors = settings.model.factors
    return Linear(
        middle,
        axes,
        lambda image: to_cells(image, factors),
        lambda cells, size: from_cells(cells, size, factors),
    )


def to_cells(image: Tensor, factors: Sequence[int]) -> Tensor:
    """[B, C, *S] -> [B, *s, P]"""
    sides = [side // f for side, f in zip(image.shape[2:], factors, strict=True)]
    split = [number for pair in zip(sides, factors, strict=True) for number in pair]
    axes = len(factors)
    places = [2 + 2 * axis for axis in range(axes)]
    pixels = [3 + 2 * axis for axis in range(axes)]
    parts = image.reshape(*image.shape[:2], *split).permute(0, *places, 1, *pixels)
    return parts.flatten(1 + axes)


def from_cells(cells: Tensor, size: Sequence[int], factors: Sequence[int]) -> Tensor:
    """[B, *s, P] -> [B, C, *S] of that size: the inverse of `to_cells`."""
    axes = len(factors)
    parts = cells.reshape(*cells.shape[: 1 + axes], size[1], *factors)
    order = [number for axis in range(axes) for number in (1 + axis, 2 + axes + axis)]
    return parts.permute(0, 1 + axes, *order).reshape(tuple(size))


def downsampled(image: Tensor, settings: CompressionSettings) -> Tensors:
    """The prediction for images [B, C, *S]: their means over cells as the latent [B, C, *s], with
    the rate that it costs where it is rounded as the model's would be. The number of cells is that
    of the latent's values over C, or a little less, at equal sides of a cell.
    """
    space = image.shape[2:]
    numbers = math.prod(settings.model.latent_shape(space))
    latent = pooled(image, smaller(space, numbers, image.shape[1]))
    return _through(latent, lambda cells: _enlarged(cells, space), settings)


def _through(
    latent: Tensor, decode: Callable[[Tensor], Tensor], settings: CompressionSettings
) -> Tensors:
    """The prediction of what decodes a latent."""
    prediction = {"latent": latent, "reconstruction": decode(latent)}
    if is_rounded(settings):
        symbols, rounded = round_latent(latent, settings.metric.rate_step)
        prediction |= {"symbols": symbols, "quantised_reconstruction": decode(rounded)}
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
