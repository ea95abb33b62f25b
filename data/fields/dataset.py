"""The data of the conditioner: images, the fields or latents that belong to them, and the samples
of a trial.

Images and targets come from the embedded generator or from the user's files and are converted
once; every trial reads memory maps, or keeps its split on the GPU.

Legend: P samples, S image side, T time steps, N mesh nodes, M main latent size, K hierarchical
codes of size h.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.cache import cached_by, file_states, shaping
from data.fields.files import check_pairs, read_targets, target_files
from data.fields.outlines import samples
from data.files import DataError
from data.image_folder import ImageCounts, ImageRules, find_images, write_images
from data.split import random_split, take_test
from settings.schema import Settings, SettingsError, setting
from settings.words import counted, worded

_FORMAT = 2
"""Version of the converted files; part of their name, so that files of another version are never
read.
"""

_OPEN_ONLY = ("on_device",)
"""Settings that are applied on reading and do not change the converted files."""

_FOLDER_ONLY = ("images", "targets")


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    source: str = setting(
        "generated",
        "generated: outlines and the heat that leaves them; folder: data.images and data.targets",
        choices=("generated", "folder"),
    )
    images: str = setting("", "folder of .png and .jpg images, in natural order (2 before 10)")
    targets: str = setting(
        "",
        "fields: a file .npy, .npz, .parquet or .pickle; latents: a folder with main.npy and "
        "hier.npy, or a file .npz or .parquet; samples in the order of the images",
    )
    kind: str = setting(
        "fields",
        "of data.targets: fields [samples, times, nodes], or latents, which need no VAE",
        choices=("fields", "latents"),
    )
    allow_pickle: bool = setting(
        False,
        "read a .pickle file; a pickle is a program, and reading one can run anything its author "
        "put there: only for files that you made yourself",
    )
    image_size: int = setting(64, "side of an image", unit="pixels", low=8, high=4096)
    fit: str = setting(
        "refuse",
        "of a picture that is not square: refuse, stretch, or pad with black",
        choices=("refuse", "stretch", "pad"),
    )
    invert: bool = setting(
        False, "exchange black and white; a background must be black, as augmentation fills it in"
    )
    binarize_at: int = setting(
        0, "grey values above become white, others black; 0 keeps them", low=0, high=254
    )
    count: int = setting(
        1200, "of generated samples for training and validation", low=2, high=1_000_000
    )
    test_count: int = setting(
        80, "of generated samples for a test, in addition to data.count", low=0, high=1_000_000
    )
    seed: int = setting(0, "of the generated samples", low=0)
    times: int = setting(32, "time steps of a generated field", low=2, high=4096)
    probes_per_side: int = setting(
        8, "nodes on a side of a generated field: 8 gives 64 nodes", low=1, high=256
    )
    symmetric: bool = setting(
        False, "generated fields do not change when the outline is flipped left to right"
    )
    validation_share: float = setting(0.2, "of the samples", low=0.01, high=0.9)
    test_share: float = setting(
        0.0, "of the samples, taken out of those to train on, for a test", low=0.0, high=0.9
    )
    split_seed: int = setting(0, "of the random choice of samples for validation", low=0)
    on_device: str = setting(
        "auto",
        "auto: keep the samples on the GPU where they take at most a quarter of its free memory "
        "and train.loader_workers is 0; never: read them from disk",
        choices=("auto", "never"),
    )

    def check(self) -> None:
        given = [name for name in _FOLDER_ONLY if getattr(self, name)]
        if self.source == "folder" and len(given) < 2:
            raise SettingsError(
                "data.source=folder needs both data.images and data.targets; set to something: "
                f"{', '.join(f'data.{name}' for name in given) or 'neither'}."
            )
        if self.source == "generated" and given:
            raise SettingsError(
                f"data.source=generated reads no files, but data.{given[0]} is "
                f"{getattr(self, given[0])!r}. Set data.source=folder, or leave it out."
            )
        if self.source == "generated" and self.invert:
            raise SettingsError(
                "data.invert=true is for images with a light background; generated ones have a "
                "black one. Leave it out."
            )
        if self.source == "generated" and self.kind == "latents":
            raise SettingsError(
                "data.kind=latents needs latents of your own (data.source=folder): the generator "
                "makes fields."
            )


@dataclass(frozen=True)
class Arrays:
    """The place of the converted data, and what was counted; small and picklable.

    Attributes:
        folder: holds images.npy [P, 1, S, S] of bytes; train.npy, validation.npy and test.npy
            (indices into P, ascending); and main.npy [P, M] and hier.npy [P, K, h] where latents
            were given, as given: they are not scaled yet.
        fields: the file [P, T, N] in float32, "" where latents were given. A .npy file in float32
            is used in place, any other was converted into `folder`.
        latents: `folder` where latents were given, else "".
        warnings: what was changed in the images, perhaps against the user's intent, in words.
    """

    folder: str
    fields: str
    latents: str
    counts: Mapping[str, int]
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def notes(self) -> dict[str, float]:
        """The counts as numbers by name, for a trial's first report."""
        return {name: float(count) for name, count in self.counts.items()}

    @property
    def images_file(self) -> Path:
        return Path(self.folder) / "images.npy"

    def indices_file(self, split: str) -> Path:
        return Path(self.folder) / f"{split}.npy"

    def indices(self, split: str) -> NDArray[np.int64]:
        """The indices of the samples of `train`, `validation` or `test`."""
        return np.load(self.indices_file(split), allow_pickle=False)


def prepare_arrays(settings: DataSettings, cache: Path) -> Arrays:
    """Converts images and targets in the cache, or finds them there.

    The name of the result is a hash of the settings that shape it and, for files, of their names,
    sizes and times.

    Raises:
        DataError: files that are missing, damaged or do not belong together.
    """
    files: list[Path] = []
    if settings.source == "folder":
        images, _ = find_images(_path(settings.images))
        files = [*images, *target_files(_path(settings.targets), settings.kind)]
    key = _FORMAT, shaping(settings, _OPEN_ONLY), file_states(files)

    def make(scratch: Path) -> dict[str, Any]:
        return _convert(settings, scratch)

    folder, index = cached_by(cache, "conditioner", key, make)
    fields = index["fields"] and str(folder / index["fields"])  # an absolute path stays itself
    return Arrays(
        folder=str(folder),
        fields=fields,
        latents=str(folder) if settings.kind == "latents" else "",
        counts=index["counts"],
        warnings=tuple(index["warnings"]),
    )


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _convert(settings: DataSettings, folder: Path) -> dict[str, Any]:
    if settings.source == "generated":
        return _generate(settings, folder)
    images, other_files = find_images(_path(settings.images))
    targets = read_targets(_path(settings.targets), settings.kind, settings.allow_pickle)
    check_pairs(_path(settings.images), images, targets)  # first: the images take longer
    rules = ImageRules(settings.image_size, settings.fit, settings.invert, settings.binarize_at)
    counts = write_images(images, rules, folder / "images.npy")
    counts.other_files = other_files
    for name in ("main", "hier"):
        if name in targets.arrays:
            np.save(folder / f"{name}.npy", targets.arrays[name].astype(np.float32))
    fields = targets.arrays.get("fields")
    return {
        "fields": "" if fields is None else _place_fields(targets.path, fields, folder),
        "counts": {**_split(settings, len(images), folder), **dataclasses.asdict(counts)},
        "warnings": _warnings(settings, counts, len(images)),
    }


def _place_fields(path: Path, fields: NDArray[Any], folder: Path) -> str:
    """The path of the fields in float32: their own if they already are, since the disk may not
    have room for them twice; else the name of a copy in the folder.
    """
    if isinstance(fields, np.memmap) and fields.dtype == np.float32 and fields.flags.c_contiguous:
        return str(path.absolute())
    stored = np.lib.format.open_memmap(
        folder / "fields.npy", mode="w+", dtype=np.float32, shape=fields.shape
    )
    for row in range(len(fields)):
        stored[row] = fields[row]
    stored.flush()
    return "fields.npy"


def _generate(settings: DataSettings, folder: Path) -> dict[str, Any]:
    side, nodes = settings.image_size, settings.probes_per_side**2
    count = settings.count + settings.test_count
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, 1, side, side)
    )
    fields = np.lib.format.open_memmap(
        folder / "fields.npy",
        mode="w+",
        dtype=np.float32,
        shape=(count, settings.times, nodes),
    )
    bodies = samples(
        count,
        settings.seed,
        side,
        settings.times,
        settings.probes_per_side,
        settings.symmetric,
    )
    for row, (image, temperatures) in enumerate(bodies):
        pixels = np.rint(image * 255.0).astype(np.uint8)
        if settings.binarize_at:
            pixels = np.where(pixels > settings.binarize_at, 255, 0).astype(np.uint8)
        images[row, 0], fields[row] = pixels, temperatures
    images.flush()
    fields.flush()
    return {
        "fields": "fields.npy",
        "counts": _split(settings, settings.count, folder, settings.test_count),
        "warnings": [],
    }


def _split(settings: DataSettings, count: int, folder: Path, more: int = 0) -> dict[str, int]:
    """Writes the indices of the splits of `count` samples; `more` after them are for a test."""
    place = settings.images or "the generated samples"
    if count < 2:
        raise DataError(f"{place}: expected samples for training and validation, found {count}.")
    seed = settings.split_seed
    train, validation = random_split(count, settings.validation_share, seed)
    train, test = take_test(place, train, count, settings.test_share, seed)
    test = np.concatenate([test, np.arange(count, count + more)])
    splits = {"train": train, "validation": validation, "test": test}
    for split, indices in splits.items():
        np.save(folder / f"{split}.npy", indices)
    return {"samples": count + more, **{split: len(indices) for split, indices in splits.items()}}


def _warnings(settings: DataSettings, counts: ImageCounts, count: int) -> list[str]:
    def of_all(some: int, *verbs: str) -> str:
        return f"{some} of {counted(count, 'image')} {worded(some, *verbs)}"

    warnings = []
    if counts.light_border > count / 2 and not settings.invert:
        warnings.append(
            f"{of_all(counts.light_border, 'has', 'have')} a light border, but augmentation fills "
            "in black: data.invert=true makes the background black."
        )
    if counts.blank:
        clear = counts.with_transparency
        warnings.append(
            f"{of_all(counts.blank, 'shows', 'show')} one grey value throughout"
            + (
                f"; {counted(clear, 'has', 'have')} transparent parts, which are drawn black."
                if clear
                else "."
            )
        )
    if counts.not_square:
        warnings.append(
            f"{of_all(counts.not_square, 'is', 'are')} not square: data.fit={settings.fit}."
        )
    return warnings
