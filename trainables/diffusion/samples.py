"""Samples of diffusion: images, images with their latents, or latents of a file alone. Validation
goes over pairs of an image and a noise level that never change, and counts of lesions by size go
along where they are a condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.files import Float64
from data.latent_samples import LatentSamples
from data.mri.dataset import open_split, units_of
from data.mri.lesions import lesions_of
from data.mri.store import FixedSamples, TrainSamples
from metrics.diffusion import LEVELS, TIME_BINS
from trainables.api import Order, grouped
from trainables.diffusion.latent.latents import PreparedLatents, WithLatents
from trainables.diffusion.prepared import Prepared
from trainables.diffusion.settings import DiffusionSettings

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


def order_of(settings: DiffusionSettings, train: TrainSamples | WithLatents) -> Order | None:
    """In which order training samples are drawn, by `condition.mode.batches`; None mixes all."""
    batches = settings.condition.mode.batches
    if batches == "mixed":
        return None
    if isinstance(train, WithLatents):
        column = train.prepared.latents.column("modality")
        modalities = [int(column[row]) for row in train.rows]
    else:
        modalities = train.table["modality"].tolist()
    return grouped(modalities, in_turn=batches == "in_turn")


# The splits

Stored = FixedSamples | WithLatents


@dataclass(frozen=True)
class Splits:
    """Samples before they become pairs.

    Attributes:
        train: read by (index, seed).
        fixed: validation and test, read by index; a split may be empty.
        units: of those, the patient of each sample.
    """

    train: TrainSamples | WithLatents
    fixed: Mapping[str, Stored]
    units: Mapping[str, Sequence[str]]


def open_splits(settings: DiffusionSettings, prepared: Prepared) -> Splits:
    """All splits as the space of these settings takes them."""
    latents = prepared.latents if settings.space.is_latent else None
    if latents is not None and not settings.space.has_images:
        return _of_file(latents, prepared.data.validation_samples)
    data = prepared.data
    train = open_split(data, "train", settings.augment, regions=settings.loss.regional.is_on)
    stored = {"validation": open_split(data, "validation"), "test": open_split(data, "test")}
    units = {split: units_of(data, split, samples) for split, samples in stored.items()}
    if latents is None:
        return Splits(train, stored, units)
    fixed: dict[str, Stored] = {}
    for split, samples in stored.items():
        rows = latents.rows(split)
        fixed[split] = WithLatents(samples, latents, [rows[at] for at in samples.chosen])
    return Splits(WithLatents(train, latents, latents.rows("train")), fixed, units)


def _of_file(latents: PreparedLatents, validation_samples: int) -> Splits:
    most = {"validation": validation_samples}
    there = set(latents.latents.column("split"))
    opened = {
        split: LatentSamples(Path(latents.file), split, scale="none", most=most.get(split, 0))
        for split in ("train", "validation", "test")
        if split in there
    }
    fixed: dict[str, Stored] = {}
    for split in ("validation", "test"):
        samples = opened.get(split)
        rows = [] if samples is None else samples.rows.tolist()
        fixed[split] = WithLatents(samples or opened["train"], latents, rows)
    units = {split: opened[split].units if split in opened else [] for split in fixed}
    train = opened["train"]
    return Splits(WithLatents(train, latents, train.rows.tolist()), fixed, units)
