"""Samples of diffusion: validation goes over pairs of an image and a noise level that never
change, and counts of lesions by size go along where they are a condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.files import Float64
from data.mri.lesions import lesions_of
from metrics.diffusion import LEVELS, TIME_BINS

PAIRS = len(LEVELS) + 1
"""Pairs of an image: every log-SNR of `LEVELS`, and one of the time bins, in turn."""

LEVEL, BIN = "level", "bin"
"""Of a validation sample: its place in `LEVELS`, and its time bin; -1 for the other kind."""

Sample = dict[str, Tensor]


class Fixed(Protocol):
    """Samples that are read by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Pairs(Dataset[Sample]):
    """`pairs[index]`: image `index // PAIRS` with one of its levels. The noise is drawn from the
    index, so that every trial and every report sees the same.
    """

    def __init__(self, images: Fixed) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images) * PAIRS

    def __getitem__(self, index: int) -> Sample:
        image, place = divmod(index, PAIRS)
        by_time = place == PAIRS - 1
        return {
            **self.images[image],
            LEVEL: torch.tensor(-1 if by_time else place),
            BIN: torch.tensor(image % TIME_BINS if by_time else -1),
        }


class WithCounts(Dataset[Sample]):
    """Samples with `counts` int64 [K], their lesions in every bin of sizes. Of training samples
    they are counted after augmentation, for they are those of the image that is shown.
    """

    def __init__(self, samples: Dataset[Sample], edges_mm: Sequence[float], least: int) -> None:
        """Args: least: pixels of the smallest component that is a lesion."""
        self.samples, self.edges_mm, self.least = samples, tuple(edges_mm), least

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]  # map-style

    def __getitem__(self, at: int | tuple[int, int]) -> Sample:
        sample = self.samples[at]
        mask, spacing = sample["mask"][0].numpy(), sample["spacing"].tolist()
        diameters = lesions_of(mask, spacing, self.least).diameters_mm
        return {**sample, "counts": torch.from_numpy(size_counts(diameters, self.edges_mm))}


def size_counts(
    diameters_mm: Float64 | Sequence[float], edges_mm: Sequence[float]
) -> NDArray[np.int64]:
    """How many diameters lie in each bin, int64 [K]; one below the first edge is in none."""
    places = np.searchsorted(edges_mm, diameters_mm, side="right")
    return np.bincount(places, minlength=len(edges_mm) + 1)[1:].astype(np.int64)
