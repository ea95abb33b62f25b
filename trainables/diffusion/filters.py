"""Which generated masks, and images under masks, are taken, and how often others are drawn in
their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
class Miss:
    """Why a mask or an image is not taken.

    Attributes:
        rule: `white`, `counts`, `lesions` or `inside`.
        text: what it has, and what was asked for.
    """

    rule: str
    text: str


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

    def miss(self, image: Tensor, affine: Float64, given: Tensor | None = None) -> Miss | None:
        """What it misses; None where it is taken.

        Args:
            image: a mask [1, *S], whose pixels above 1/2 are lesion; or an image [C, *S].
            affine: [4, 4], from (d, h, w) to mm.
            given: the mask [1, *S] that the image was made under.
        """
        asked = self.settings
        if given is not None:
            inside = share_in_brain(image, given, asked.brain)
            text = f"share of the lesions in brain: {inside:.3g}; filter.inside={asked.inside:g}"
            return None if inside >= asked.inside else Miss("inside", text)
        mask = (image[0] > 0.5).numpy()
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[3 - mask.ndim :]
        diameters = lesions_of(mask, spacing.tolist(), self.least_pixels).diameters_mm
        if (white := float(mask.mean())) > asked.white:
            return Miss("white", f"share of lesion: {white:.3g}; filter.white={asked.white:g}")
        if self.counts:
            counts, wanted = size_counts(diameters, self.edges_mm).tolist(), list(self.counts)
            text = f"lesions by size: {counts}; counts={wanted}"
            return None if counts == wanted else Miss("counts", text)
        number = len(diameters)
        if asked.least <= number <= asked.most:
            return None
        bounds = f"filter.least={asked.least}, filter.most={asked.most}"
        return Miss("lesions", f"lesions: {number}; {bounds}")


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
    miss: Callable[[Tensor, int], Miss | None],
    retries: int,
) -> tuple[Tensor, int, Mapping[int, Miss]]:
    """Images for seeds, of which those that are not taken are made again from further seeds of
    the same sample; the last attempt stays.

    Args:
        made: images [b, ...] of seeds [b] and their places in the batch.
        miss: what an image of that place misses.

    Returns:
        (images [B, ...], further attempts, what the samples miss that no attempt has met, by
        their places)
    """
    images = made(seeds, range(len(seeds))).clone()
    attempts = 0
    misses = _misses(images, range(len(seeds)), miss)
    for attempt in range(1, retries + 1):
        if not misses:
            break
        places = list(misses)
        again = [hash63(int(seeds[place]), _ATTEMPT, attempt) for place in places]
        images[places] = made(torch.tensor(again, dtype=torch.int64), places)
        attempts += len(places)
        misses = _misses(images, places, miss)
    return images, attempts, misses


def _misses(
    images: Tensor, places: Sequence[int], miss: Callable[[Tensor, int], Miss | None]
) -> dict[int, Miss]:
    looked = {place: miss(images[place], place) for place in places}
    return {place: one for place, one in looked.items() if one is not None}
