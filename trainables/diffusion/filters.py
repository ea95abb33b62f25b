"""Which generated masks, and images under masks, are taken, and how often others are drawn in
their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.files import Float64
from data.mri.lesions import lesions_of
from models.draws import hash63
from settings.schema import Settings, setting
from trainables.diffusion.samples import size_counts

_ATTEMPT = 11
"""Of the seeds of further attempts; those of a training and of samples have other numbers."""


@dataclass(frozen=True, kw_only=True)
class FilterSettings(Settings):
    """Of masks, and of images under their masks: those that miss it are drawn again, from seeds
    of their own.
    """

    enabled: bool = setting(False, "draw again what misses what is asked for")
    white: float = setting(0.04, "largest share of an image that may be lesion", low=0.0, high=1.0)
    least: int = setting(1, "fewest lesions", low=0, high=255)
    most: int = setting(5, "most lesions, where no counts are asked for", low=0, high=255)
    brain: float = setting(
        0.05,
        "of images under masks: a pixel above it is brain, and so is what brain encloses",
        low=0.0,
        high=1.0,
    )
    inside: float = setting(
        1.0, "of images under masks: least share of the lesions that is brain", low=0.0, high=1.0
    )
    retries: int = setting(10, "most further attempts for a sample", low=0, high=1000)


@dataclass(frozen=True)
class Filter:
    """What a mask has to be, or an image under its mask.

    A brain is known where there is an image: the lesions of the mask that it was made under are
    looked for in it. A mask that is made alone has none.

    Attributes:
        counts: lesions in every bin of sizes; empty where any will do.
        edges_mm: of these bins.
        least_pixels: of the smallest component that is a lesion.
    """

    settings: FilterSettings
    counts: Sequence[int]
    edges_mm: Sequence[float]
    least_pixels: int

    def takes(self, image: Tensor, affine: Float64, given: Tensor | None = None) -> bool:
        """Whether it is kept.

        Args:
            image: a mask [1, *S], whose pixels above 1/2 are lesion; or an image [C, *S].
            affine: [4, 4], from (d, h, w) to mm.
            given: the mask [1, *S] that the image was made under.
        """
        if given is not None:
            return share_in_brain(image, given, self.settings.brain) >= self.settings.inside
        mask = (image[0] > 0.5).numpy()
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[3 - mask.ndim :]
        diameters = lesions_of(mask, spacing.tolist(), self.least_pixels).diameters_mm
        if mask.mean() > self.settings.white:
            return False
        if self.counts:
            return size_counts(diameters, self.edges_mm).tolist() == list(self.counts)
        return self.settings.least <= len(diameters) <= self.settings.most


def share_in_brain(image: Tensor, mask: Tensor, threshold: float) -> float:
    """The share of the mask [1, *S] that lies in the brain of an image [C, *S]: where a channel is
    above the threshold, and where that encloses it, for a lesion may be dark. 1 of an empty mask.
    """
    from scipy import ndimage

    is_lesion = (mask[0] > 0.5).numpy()
    is_brain = ndimage.binary_fill_holes((image > threshold).any(dim=0).numpy())
    return float(is_brain[is_lesion].mean()) if is_lesion.any() else 1.0


def with_retries(
    made: Callable[[Tensor, Sequence[int]], Tensor],
    seeds: Tensor,
    takes: Callable[[Tensor, int], bool],
    retries: int,
) -> tuple[Tensor, int, int]:
    """Images for seeds, of which those that are not taken are made again from further seeds of
    the same sample; the last attempt stays.

    Args:
        made: images [b, ...] of seeds [b] and their places in the batch.
        takes: whether an image of that place is taken.

    Returns:
        (images [B, ...], further attempts, samples that no attempt has met)
    """
    images = made(seeds, range(len(seeds))).clone()
    attempts = 0
    for attempt in range(1, retries + 1):
        missed = [place for place, image in enumerate(images) if not takes(image, place)]
        if not missed:
            return images, attempts, 0
        again = [hash63(int(seeds[place]), _ATTEMPT, attempt) for place in missed]
        images[missed] = made(torch.tensor(again, dtype=torch.int64), missed)
        attempts += len(missed)
    return images, attempts, sum(not takes(image, place) for place, image in enumerate(images))
