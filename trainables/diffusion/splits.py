"""The samples of every split: images, images with their latents, or latents of a file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.latent_samples import LatentSamples
from data.mri.dataset import open_split, units_of
from data.mri.store import FixedSamples, TrainSamples
from trainables.diffusion.latents import PreparedLatents, WithLatents
from trainables.diffusion.prepared import Prepared
from trainables.diffusion.settings import DiffusionSettings

Fixed = FixedSamples | WithLatents


@dataclass(frozen=True)
class Splits:
    """Samples before they become pairs.

    Attributes:
        train: read by (index, seed).
        fixed: validation and test, read by index; a split may be empty.
        units: of those, the patient of each sample.
    """

    train: TrainSamples | WithLatents
    fixed: Mapping[str, Fixed]
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
    fixed: dict[str, Fixed] = {}
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
    fixed: dict[str, Fixed] = {}
    for split in ("validation", "test"):
        samples = opened.get(split)
        rows = [] if samples is None else samples.rows.tolist()
        fixed[split] = WithLatents(samples or opened["train"], latents, rows)
    units = {split: opened[split].units if split in opened else [] for split in fixed}
    train = opened["train"]
    return Splits(WithLatents(train, latents, train.rows.tolist()), fixed, units)
