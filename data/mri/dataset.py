"""The data of the brain-MRI systems: settings, conversion to samples, and the datasets of a trial.

Patients come from the embedded phantom or from a folder, are cut into slices or volumes once, and
are read from a memory-mapped store by every trial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor
from torch.utils.data import Dataset

from data.cache import cached_by, file_states, shaping
from data.mri.augment import AugmentSettings
from data.mri.convert import convert
from data.mri.files import find_patients
from data.mri.store import FixedSamples, TrainSamples
from data.mri.volumes import Rules
from settings.mri import GROUPS, channels_of
from settings.schema import Settings, SettingsError, setting

SPLITS = ("train", "validation", "test")

FORMAT = 3
"""Version of the converted files; part of their name, so that files of another version are never
read.
"""

_OPEN_ONLY = ("validation_samples",)
"""Settings that are applied on reading and do not change the converted files."""

_OTHER_DIMS = {
    2: ("volume_size", "depth_padding", "lesion_voxels"),
    3: ("image_size", "slices", "slice_sum", "lesion_pixels"),
}
"""Settings that do not matter to slices (2) and to volumes (3)."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    source: str = setting(
        "embedded",
        "embedded: synthetic patients; folder: patients from data.root",
        choices=("embedded", "folder"),
    )
    root: str = setting(
        "", "folder with train/, val/ and test/ (or test_new/), a folder a patient"
    )
    group: str = setting(
        "bravo",
        "what a sample is: one modality; dual: t1_pre and t1_gd as two channels; multi_modality: "
        "all four as samples of their own; seg: the lesion mask",
        choices=tuple(GROUPS),
    )
    image_size: int = setting(64, "side of a slice", unit="pixels", low=8, high=1024)
    volume_size: tuple[int, ...] = setting(
        (32, 32, 32), "D, H, W of a volume", unit="voxels", low=8, high=1024
    )
    depth_padding: str = setting(
        "replicate",
        "what volumes with fewer slices than D are filled with; masks always with zeros",
        choices=("replicate", "zero"),
    )
    fit: str = setting(
        "pad",
        "of slices of another shape than the samples': pad (zeros around, none of a mask), or "
        "stretch",
        choices=("pad", "stretch"),
    )
    normalise: str = setting(
        "percentile",
        "what becomes 0 and 1: percentiles of the values above 0, or the least and the greatest",
        choices=("percentile", "min_max"),
    )
    below_zero: str = setting(
        "auto",
        "values below 0: clip (they become 0), keep (the least is background, as in CT), auto "
        "(keep where most training images of the modality have a 1st percentile below minus a "
        "quarter of the 99th), or each (keep in every image with such a voxel)",
        choices=("auto", "clip", "keep", "each"),
    )
    low_percentile: float = setting(0.1, "of the values above 0, becomes 0", low=0.0, high=100.0)
    high_percentile: float = setting(
        99.9,
        "of the values above 0, becomes 1; enhancing lesions are among the brightest of them",
        low=0.0,
        high=100.0,
    )
    slice_sum: float = setting(
        1.0, "a slice is kept when its values in 0 .. 1 sum to more, in every channel", low=0.0
    )
    empty_masks: bool = setting(False, "with data.group=seg, keep masks without a lesion")
    require_seg: bool = setting(False, "a patient without a seg file is unusable")
    require_lesions: bool = setting(False, "a patient without a lesion is unusable")
    lesion_pixels: int = setting(
        1,
        "smaller components of a slice are ignored; the source ignores those below 5, at 64 px "
        "most tiny lesions",
        unit="pixels",
        low=1,
    )
    lesion_voxels: int = setting(
        1,
        "smaller components of a volume are ignored; the source ignores those below 10",
        unit="voxels",
        low=1,
    )
    patients: tuple[int, ...] = setting(
        (8, 6, 6), "embedded patients for train, validation and test", low=0, high=1000
    )
    slices: int = setting(32, "of an embedded patient that is cut into slices", low=8, high=256)
    seed: int = setting(0, "of the embedded patients", low=0)
    validation_samples: int = setting(
        64, "samples in the fixed validation subset, evenly spaced; 0 takes all", low=0
    )
    max_bad_share: float = setting(
        0.05, "largest share of unusable patients before the data is refused", low=0.0, high=1.0
    )

    def space(self, dims: int) -> tuple[int, ...]:
        """(H, W) or (D, H, W) of one sample."""
        return (self.image_size,) * 2 if dims == 2 else self.volume_size

    def check(self) -> None:
        for name in ("volume_size", "patients"):
            values = getattr(self, name)
            if len(values) != 3:
                raise SettingsError(
                    f"data.{name} takes three numbers, not {len(values)}: {list(values)}."
                )
        if not (self.patients[0] and self.patients[1]):
            raise SettingsError(
                "data.patients needs at least one for train and one for validation, not "
                f"{list(self.patients)}."
            )
        if self.low_percentile >= self.high_percentile:
            raise SettingsError(
                "data.low_percentile must lie below data.high_percentile, not "
                f"{self.low_percentile:g} and {self.high_percentile:g}."
            )
        if self.source == "folder" and not self.root:
            raise SettingsError(
                "data.source=folder needs a folder: set data.root to that with train/ and val/."
            )
        if self.source == "embedded" and self.root:
            raise SettingsError(
                f"data.source=embedded reads no folder, but data.root is {self.root!r}. Set "
                "data.source=folder, or leave it out."
            )


@dataclass(frozen=True)
class Prepared:
    """The place of the samples, and what was counted; small and picklable.

    Attributes:
        folder: holds a folder for each split (`data.mri.store`) and index.json.
        channels: of one sample.
        space: (H, W) or (D, H, W) of one sample.
        patients: names of the usable patients of each split; `patient` in a split's table is an
            index of them.
        counts: of what was kept, left out and changed, by name.
        warnings: what was left out or changed, in words with the file names.
        signed: the modalities whose values below 0 are kept, by decision of the training images;
            None where a setting decides (`data.below_zero`).
    """

    folder: str
    channels: int
    space: tuple[int, ...]
    patients: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]
    warnings: Sequence[str]
    validation_samples: int
    least_lesion: int
    signed: Sequence[str] | None

    @property
    def notes(self) -> dict[str, float]:
        """The counts for a trial's first report."""
        return {name: float(count) for name, count in self.counts.items()}


def prepare(settings: DataSettings, cache: Path, dims: int) -> Prepared:
    """Converts the patients to slices (`dims` 2) or volumes (3) in the cache, or finds them there.

    The name of the result is a hash of the settings that shape the samples and, for a folder, of
    the names, sizes and times of its files. It appears under that name only when it is complete.
    """
    if dims not in _OTHER_DIMS:
        raise ValueError(f"samples have 2 or 3 dimensions, not {dims}")
    unread = {*_OPEN_ONLY, *_OTHER_DIMS[dims]}
    states = _states(settings) if settings.source == "folder" else []
    key = FORMAT, dims, shaping(settings, unread), states

    def make(scratch: Path) -> dict[str, Any]:
        return _convert(settings, dims, scratch, cache)

    folder, index = cached_by(cache, "mri", key, make)
    return Prepared(
        folder=str(folder),
        channels=channels_of(settings.group),
        space=settings.space(dims),
        patients=index["patients"],
        counts=index["counts"],
        warnings=index["warnings"],
        validation_samples=settings.validation_samples,
        least_lesion=least_lesion(settings, dims),
        signed=index["signed"],
    )


@overload
def open_split(
    prepared: Prepared,
    split: Literal["train"],
    augment: AugmentSettings | None = None,
    regions: bool = False,
) -> TrainSamples: ...


@overload
def open_split(prepared: Prepared, split: Literal["validation", "test"]) -> FixedSamples: ...


@overload
def open_split(prepared: Prepared, split: str) -> Dataset[dict[str, Tensor]]: ...


def open_split(
    prepared: Prepared, split: str, augment: AugmentSettings | None = None, regions: bool = False
) -> Dataset[dict[str, Tensor]]:
    """The samples of a split: `train` is read by (index, seed) and augmented if asked for, with
    size classes and numbers of lesions if `regions`; the others by index, never augmented, always
    with both.
    """
    if split not in SPLITS:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}, not {split!r}")
    folder = Path(prepared.folder) / split
    if split == "train":
        return TrainSamples(folder, augment, prepared.least_lesion if regions else None)
    if augment is not None:
        raise ValueError(f"only train is augmented, not {split}")
    return FixedSamples(folder, prepared.validation_samples if split == "validation" else 0)


def units_of(prepared: Prepared, split: str, samples: FixedSamples) -> list[str]:
    """The patient of each of the samples of a split."""
    patients = samples.table["patient"][samples.chosen]
    return [prepared.patients[split][index] for index in patients]


def _convert(settings: DataSettings, dims: int, folder: Path, cache: Path) -> dict[str, Any]:
    """Writes the samples of all splits; returns the index."""
    from_folder = settings.source == "folder"
    root = _root(settings) if from_folder else _phantom(settings, cache, dims)
    patients, strangers = find_patients(root)
    conversion = convert(_rules(settings, dims), patients, folder)
    conversion.counts["unrecognised_files"] = len(strangers)
    source = str(root) if from_folder else "the embedded patients"
    conversion.refuse(source, settings.max_bad_share)
    return {
        "format": FORMAT,
        "counts": conversion.counts,
        "patients": conversion.patients,
        "warnings": list(conversion.warnings(from_folder)),
        "signed": conversion.rules.signed if settings.below_zero == "auto" else None,
    }


def _root(settings: DataSettings) -> Path:
    return Path(settings.root).expanduser()


def _states(settings: DataSettings) -> list[tuple[str, int, int]]:
    """The states of all files that may be read."""
    patients, _ = find_patients(_root(settings))
    everyone = [patient for split in patients.values() for patient in split]
    return file_states([path for patient in everyone for path in patient.files.values()])


def least_lesion(settings: DataSettings, dims: int) -> int:
    """Pixels of the smallest component that counts as a lesion."""
    return settings.lesion_pixels if dims == 2 else settings.lesion_voxels


def _phantom(settings: DataSettings, cache: Path, dims: int) -> Path:
    """The folder of the embedded patients, written once: as large as the samples need them."""
    from data.mri.phantom import write_patients

    patients = dict(zip(("train", "val", "test"), settings.patients, strict=True))
    size = max(settings.space(dims)[-2:])
    slices = settings.slices if dims == 2 else settings.volume_size[0]

    def make(scratch: Path) -> None:
        write_patients(scratch, patients, size, slices, settings.seed)

    key = FORMAT, patients, size, slices, settings.seed
    return cached_by(cache, "mri-phantom", key, make)[0]


def _rules(settings: DataSettings, dims: int) -> Rules:
    rules = {field.name for field in dataclasses.fields(Rules)}
    same = {k: v for k, v in dataclasses.asdict(settings).items() if k in rules}
    return Rules(space=settings.space(dims), least_lesion=least_lesion(settings, dims), **same)
