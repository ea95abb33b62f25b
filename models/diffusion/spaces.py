"""The spaces that images are diffused in: pixels, pixels moved into channels, Haar wavelets; the
latents of an autoencoder are `models.diffusion.latent_space`.

A space rearranges an image, here without loss, and standardises the channels of the result
(001-M13: a loss over times compares noise with data of variance 1, so it needs them standardised).

Shapes: images [B, C, *S], `*S` (H, W) or (D, H, W); in the space [B, c, *s].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.space_to_depth import pixel_shuffle, pixel_unshuffle
from settings.schema import Settings, SettingsError, setting

LATENT = "latent"
KINDS = ("pixel", "space_to_depth", "wavelet", LATENT)

FILE_SUFFIX = ".arrow"
"""Of a file of latents, where a checkpoint is a folder."""

STATISTICS = ("voxels", "sample_means")

FACTOR = 2
"""Pixels along each axis in a cell of space_to_depth and wavelet."""


@dataclass(frozen=True, kw_only=True)
class SpaceSettings(Settings):
    """Where the diffusion takes place."""

    kind: str = setting(
        "pixel",
        "images as they are; blocks of 2 x 2 (x 2) pixels as channels; the subbands of one level "
        "of Haar wavelets; or the latents of an autoencoder",
        choices=KINDS,
    )
    latents: str = setting(
        "",
        "kind=latent: a training or checkpoint of the autoencoder, whose kind, channels and "
        "factor are its own; or a file of its latents, *.arrow, as encode_latents writes it",
    )
    statistics: str = setting(
        "voxels",
        "what a channel is divided by: the deviation of its values over all voxels; that of the "
        "means of the samples, the document's form (001-M19); or nothing, and it is not shifted "
        "either, as the document has images in [0, 1] (001-M13)",
        choices=(*STATISTICS, "none"),
    )
    input_scale: float = setting(
        1.0,
        "factor on the standardised values; below 1 an image has more noise at the same time, "
        "and counts less beside it in what is predicted (Chen 2023)",
        low=0.01,
        high=10.0,
    )

    @property
    def is_latent(self) -> bool:
        return self.kind == LATENT

    @property
    def has_images(self) -> bool:
        """Whether there are images beside what is diffused: not with a file of latents alone."""
        return not (self.is_latent and self.latents.endswith(FILE_SUFFIX))

    def check(self) -> None:
        if self.is_latent and not self.latents:
            raise SettingsError(
                "space.kind=latent diffuses the latents of an autoencoder, and space.latents "
                "names none. Set it to a training of one, such as runs/vae, or to a file of "
                "latents, *.arrow."
            )
        if self.statistics == "none" and self.input_scale != 1.0:
            raise SettingsError(
                f"space.input_scale={self.input_scale:g} is a factor on standardised values, and "
                "space.statistics=none leaves images as they are. Set space.statistics=voxels, "
                "or leave out the factor."
            )
        if self.latents and not self.is_latent:
            raise SettingsError(
                f"space.latents={self.latents} is read by space.kind=latent alone, not by "
                f"{self.kind}. Set space.kind=latent, or leave it out."
            )


class Space(nn.Module, ABC):
    """z = (rearranged(x) - shift) / scale, and back. The factor `input_scale` is a part of the
    scale: Chen, "On the importance of noise scheduling for diffusion models", arXiv:2301.10972.

    Attributes:
        dimensions: of `*S`.
        shift, scale: float32 [c], 0 and 1 until `standardise`; buffers, so that they are stored
            with what is trained in the space.
        deviation: float32 [], of the training split's values in the space, root of the mean
            variance of its channels: `input_scale` where they are standardised by their own. What
            is noised, judged and compared is in its units.
        decodes: whether it can make images; not without the autoencoder of latents.
    """

    shift: Tensor
    scale: Tensor
    deviation: Tensor
    decodes: bool = True

    def __init__(self, dimensions: int, channels: int) -> None:
        """Args: channels: C of the images."""
        super().__init__()
        self.dimensions = dimensions
        count = self.channels_of(channels)
        self.register_buffer("shift", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("deviation", torch.ones(()))

    @abstractmethod
    def channels_of(self, channels: int) -> int:
        """c of images with C channels."""

    @abstractmethod
    def size_of(self, size: Sequence[int]) -> tuple[int, ...]:
        """`*s` of images of size `*S`.

        Raises:
            ValueError: a side is not a whole number of cells.
        """

    @abstractmethod
    def rearranged(self, image: Tensor) -> Tensor:
        """[B, C, *S] -> [B, c, *s], for any C: conditions as well."""

    @abstractmethod
    def restored(self, values: Tensor) -> Tensor:
        """The inverse of `rearranged`."""

    def encode(self, image: Tensor) -> Tensor:
        """[B, C, *S] -> [B, c, *s], standardised."""
        return self.standardised(self.rearranged(image))

    def standardised(self, values: Tensor) -> Tensor:
        """What `rearranged` gives, by shift and scale."""
        shape = (-1, *[1] * self.dimensions)
        return (values - self.shift.view(shape)) / self.scale.view(shape)

    def decode(self, values: Tensor) -> Tensor:
        """The inverse of `encode`."""
        return self.restored(self.unscaled(values))

    def unscaled(self, values: Tensor) -> Tensor:
        """The inverse of `standardised`."""
        shape = (-1, *[1] * self.dimensions)
        return values * self.scale.view(shape) + self.shift.view(shape)

    @torch.no_grad()
    def standardise(
        self, shift: Tensor, scale: Tensor, deviations: Tensor | None = None
    ) -> None:
        """Sets shift and scale [c], the moments of the training split (`ChannelMoments`).

        Args:
            deviations: [c], of the values over all voxels; None where they are the scale.

        Raises:
            ValueError: one is not finite, or a scale is not above 0.
        """
        for name, value in (("shift", shift), ("scale", scale)):
            if value.shape != self.shift.shape or not bool(value.isfinite().all()):
                raise ValueError(
                    f"the {name} of a space has {len(self.shift)} finite numbers, one for each of "
                    f"its channels, not {value.tolist()}."
                )
        if not bool((scale > 0.0).all()):
            raise ValueError(
                "a channel whose values are all equal cannot be standardised: the scales are "
                f"{scale.tolist()}, and all must be above 0. Leave out the channel, or use "
                "space.kind=pixel or space.statistics=voxels."
            )
        self.shift.copy_(shift)
        self.scale.copy_(scale)
        if deviations is not None:
            self.deviation.copy_((deviations / scale).square().mean().sqrt())

    def moments(
        self, images: Iterable[Tensor], statistics: str = "voxels"
    ) -> tuple[Tensor, Tensor]:
        """Shift and scale float64 [c] of batches of images in this space, before any are set."""
        moments = ChannelMoments()
        for image in images:
            moments.add(self.rearranged(image))
        by_voxels = statistics == "voxels"
        return moments.mean, moments.deviation if by_voxels else moments.deviation_of_means


class PixelSpace(Space):
    """Images as they are."""

    def channels_of(self, channels: int) -> int:
        return channels

    def size_of(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(size)

    def rearranged(self, image: Tensor) -> Tensor:
        return image

    def restored(self, values: Tensor) -> Tensor:
        return values


class SpaceToDepth(Space):
    """Blocks of 2 x 2 pixels, or 2 x 2 x 2 voxels, as channels; those of an image's channel lie
    together, in row-major order.
    """

    def channels_of(self, channels: int) -> int:
        return channels * FACTOR**self.dimensions

    def size_of(self, size: Sequence[int]) -> tuple[int, ...]:
        if len(size) != self.dimensions or any(side < 1 or side % FACTOR for side in size):
            raise ValueError(
                f"this space takes images with {self.dimensions} sides that are multiples of "
                f"{FACTOR}, not {tuple(size)}. Change the size of the images, or use "
                "space.kind=pixel."
            )
        return tuple(side // FACTOR for side in size)

    def rearranged(self, image: Tensor) -> Tensor:
        self.size_of(image.shape[2:])
        return pixel_unshuffle(image, (FACTOR,) * self.dimensions)

    def restored(self, values: Tensor) -> Tensor:
        return pixel_shuffle(values, (FACTOR,) * self.dimensions)


class HaarWavelet(SpaceToDepth):
    """One level of the orthonormal Haar transform: along each axis neighbours a, b become
    (a + b) / sqrt(2) and (a - b) / sqrt(2). The 4 or 8 subbands of an image's channel lie
    together, low frequencies first, the last axis fastest: LLL, LLH, LHL, ..., HHH.

    White noise stays white noise of the same variance; a scale by subband changes that.
    """

    signs: Tensor

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__(dimensions, channels)
        signs = torch.ones(1, 1)
        for _ in range(dimensions):
            signs = torch.kron(signs, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        self.register_buffer("signs", signs, persistent=False)

    def rearranged(self, image: Tensor) -> Tensor:
        return self._by_subbands(super().rearranged(image))

    def restored(self, values: Tensor) -> Tensor:
        return super().restored(self._by_subbands(values))

    def _by_subbands(self, values: Tensor) -> Tensor:
        """The orthonormal matrix, which is symmetric and so its own inverse, over the pixels of
        each block.
        """
        count = len(self.signs)
        blocks = values.unflatten(1, (-1, count))
        sums = torch.einsum("ij,bcj...->bci...", self.signs.to(values.dtype), blocks)
        return (sums / math.sqrt(count)).flatten(1, 2)


SPACES: dict[str, type[Space]] = {
    "pixel": PixelSpace,
    "space_to_depth": SpaceToDepth,
    "wavelet": HaarWavelet,
}
"""Those without loss, by name, which need no more than the size of the images."""


def build_space(settings: SpaceSettings, dimensions: int, channels: int) -> Space:
    """The space of images with C channels, one of `SPACES`."""
    return SPACES[settings.kind](dimensions, channels)


class ChannelMoments:
    """Mean and deviation of every channel over the voxels of all samples, batch by batch in
    float64 (Chan, Golub and LeVeque, COMPSTAT 1982).

    Beside it the deviation over the *means* of samples, which the document takes for that of the
    voxels (001-M19): with N voxels of independent values it is sqrt(N) times too small.

    Attributes:
        mean: float64 [c].
    """

    def __init__(self) -> None:
        self.samples = 0
        self.mean = self._squares = self._squares_of_means = torch.zeros(0, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """[B, c, *s]; every batch has samples of one size."""
        by_voxel = values.detach().double().flatten(2)
        batch, channels, voxels = by_voxel.shape
        if not self.samples:
            self._voxels = voxels
            self.mean = by_voxel.new_zeros(channels)
            self._squares = self.mean.clone()
            self._squares_of_means = self.mean.clone()
        if voxels != self._voxels:
            raise ValueError(
                f"the moments are those of samples of one size, {self._voxels} voxels, not "
                f"{voxels}."
            )
        means = by_voxel.mean(dim=2)
        mean = means.mean(dim=0)
        both = self.samples + batch
        shared = (mean - self.mean).square() * (self.samples * batch / both)
        self._squares += (by_voxel - mean[:, None]).square().sum(dim=(0, 2)) + voxels * shared
        self._squares_of_means += (means - mean).square().sum(dim=0) + shared
        self.mean = self.mean + (mean - self.mean) * (batch / both)
        self.samples = both

    @property
    def deviation(self) -> Tensor:
        """Float64 [c], over all voxels of all samples."""
        return (self._squares / (self._count() * self._voxels)).sqrt()

    @property
    def deviation_of_means(self) -> Tensor:
        """Float64 [c], over the means of the samples."""
        return (self._squares_of_means / self._count()).sqrt()

    def _count(self) -> int:
        if not self.samples:
            raise ValueError("there are no moments of no samples: add a batch first.")
        return self.samples
