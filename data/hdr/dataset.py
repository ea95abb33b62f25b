"""The data of HDR hole filling: settings, conversion to crops, and the datasets of a trial.

Frames come from the embedded generator or from a folder, are split by time, cut into crops once,
and read from a memory-mapped file by every trial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor
from torch.utils.data import Dataset

from data.array_file import ArrayWriter
from data.cache import cached_by, file_states, shaping
from data.files import DataError
from data.hdr.crops import CROP_CHANNELS, FixedCrops, TrainCrops, choose_crops, cut_crops
from data.hdr.files import Frame, FrameFiles, Repairs, find_frames, read_frame
from data.hdr.scenes import sequence
from settings.schema import Settings, SettingsError, setting

SPLITS = ("train", "validation", "test")

_FORMAT = 1
"""Version of the converted files; part of their name, so that files of another version are never
read.
"""

_OPEN_ONLY = ("validation_crops", "flips")
"""Settings that are applied on reading and do not change the converted files."""

_NAMED_FRAMES = 5  # how many bad frames an error names


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    source: str = setting(
        "embedded",
        "embedded: generated scenes; folder: frames from data.root",
        choices=("embedded", "folder"),
    )
    root: str = setting("", "folder with warp_hole/, ref/ and hole/ (or bistro/correct/)")
    validation_root: str = setting(
        "",
        "a second folder for validation and test, in the proportion of their shares; "
        "empty splits data.root in time",
    )
    frames: int = setting(30, "frames of the embedded sequence", low=3, high=100_000)
    height: int = setting(128, "of an embedded frame", unit="pixels", low=32, high=8192)
    width: int = setting(192, "of an embedded frame", unit="pixels", low=32, high=8192)
    seed: int = setting(0, "of the embedded sequence", low=0)
    crop: int = setting(64, "side of a crop, a multiple of 16", unit="pixels", low=32, high=4096)
    stride: int = setting(32, "step between crops", unit="pixels", low=1, high=4096)
    min_hole_share: float = setting(0.005, "smallest share of holes in a crop", low=0.0, high=1.0)
    max_crops_per_frame: int = setting(
        16, "most crops of a frame; of its crops the half with most holes is kept", low=1
    )
    validation_share: float = setting(
        0.1, "share of the frames, after those of training", low=0.0, high=0.9
    )
    test_share: float = setting(0.1, "share of the frames, the last ones", low=0.0, high=0.9)
    validation_crops: int = setting(
        64, "crops in the fixed validation subset, evenly spaced; 0 takes all", low=0
    )
    flips: bool = setting(True, "flip half of the training crops left to right")
    scale: float = setting(1.0, "radiance is divided by this", low=1e-9, high=1e9)
    max_bad_share: float = setting(
        0.05, "largest share of unusable frames before the data is refused", low=0.0, high=1.0
    )

    def check(self) -> None:
        if self.crop % 16:
            raise SettingsError(
                "data.crop must be a multiple of 16 (the network halves it four times), "
                f"not {self.crop}."
            )
        if self.validation_share + self.test_share >= 1.0:
            raise SettingsError(
                "data.validation_share + data.test_share must leave frames for training: it must "
                f"be below 1, not {self.validation_share:g} + {self.test_share:g}."
            )
        if self.source == "folder" and not self.root:
            raise SettingsError(
                "data.source=folder needs a folder: set data.root to that of the frames."
            )
        if self.source == "embedded" and (self.root or self.validation_root):
            raise SettingsError(
                "data.source=embedded reads no folder, but one is given: "
                f"{self.root or self.validation_root!r}. Set data.source=folder, or leave it out."
            )
        if self.source == "embedded" and self.crop > min(self.height, self.width):
            raise SettingsError(
                f"data.crop must fit into an embedded frame of {self.height}x{self.width}, "
                f"not {self.crop}."
            )


@dataclass
class Counts:
    """Counts of the frames and crops of one conversion, by what happened to them."""

    frames: int = 0
    bad_frames: int = 0
    unrecognised_files: int = 0
    negative_values: int = 0
    values_in_holes: int = 0
    crops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    left_out_crops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    bad: list[str] = field(default_factory=list)

    def note(self, repairs: Repairs) -> None:
        self.negative_values += repairs.negative_values
        self.values_in_holes += repairs.values_in_holes


@dataclass(frozen=True)
class Prepared:
    """The place of the crops, and what was counted; small and picklable.

    Attributes:
        folder: holds <split>.npy and index.json.
        frame_ids: the frames of each split, bad ones included.
    """

    folder: str
    counts: Counts
    frame_ids: Mapping[str, Sequence[int]]
    validation_crops: int
    flips: bool

    @property
    def notes(self) -> dict[str, float]:
        """The counts as numbers by name, for a trial's first report."""
        flat: dict[str, float] = {}
        for name, value in dataclasses.asdict(self.counts).items():
            if isinstance(value, dict):
                flat.update({f"{name}.{split}": float(count) for split, count in value.items()})
            elif isinstance(value, int):
                flat[name] = float(value)
        return flat


@dataclass(frozen=True)
class _Source:
    """The frames of one split: ids, and how to get each frame."""

    ids: Sequence[int]
    files: Sequence[FrameFiles] | None  # None: embedded

    def part(self, low: int, high: int) -> _Source:
        return _Source(self.ids[low:high], None if self.files is None else self.files[low:high])


def prepare(settings: DataSettings, cache: Path) -> Prepared:
    """Converts the frames to crops in the cache, or finds them there.

    The name of the result is a hash of the settings that shape the crops and, for a folder, of the
    names, sizes and times of its files. It appears under that name only when it is complete.
    """
    sources, strangers = _split_sources(settings)

    def make(scratch: Path) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "counts": dataclasses.asdict(_convert(settings, sources, scratch)),
            "frame_ids": {split: list(source.ids) for split, source in sources.items()},
        }

    key = _FORMAT, shaping(settings, _OPEN_ONLY), file_states(_files_of(sources))
    folder, index = cached_by(cache, "hdr", key, make)
    return Prepared(
        folder=str(folder),
        counts=Counts(**{**index["counts"], "unrecognised_files": strangers}),
        frame_ids=index["frame_ids"],
        validation_crops=settings.validation_crops,
        flips=settings.flips,
    )


def _files_of(sources: Mapping[str, _Source]) -> list[Path]:
    return [
        path
        for source in sources.values()
        for frame in source.files or ()
        for path in frame.files.values()
    ]


def _split_sources(settings: DataSettings) -> tuple[dict[str, _Source], int]:
    """The frames of each split, and the count of files that fit no frame."""
    if settings.source == "embedded":
        return _in_time(_Source(range(settings.frames), None), settings), 0
    files, strangers = find_frames(Path(settings.root).expanduser())
    source = _Source([frame.id for frame in files], files)
    if not settings.validation_root:
        return _in_time(source, settings), len(strangers)
    files, more = find_frames(Path(settings.validation_root).expanduser())
    rest = _Source([frame.id for frame in files], files)
    shares = settings.validation_share + settings.test_share
    last = round(len(files) * settings.test_share / shares) if shares else 0
    cut = max(len(files) - last, 1)
    splits = {"train": source, "validation": rest.part(0, cut), "test": rest.part(cut, len(files))}
    return splits, len(strangers) + len(more)


def _in_time(source: _Source, settings: DataSettings) -> dict[str, _Source]:
    ends = split_frames(len(source.ids), settings)
    return {split: source.part(ends[i], ends[i + 1]) for i, split in enumerate(SPLITS)}


def split_frames(count: int, settings: DataSettings) -> tuple[int, int, int, int]:
    """Where the three contiguous runs of `count` frames begin and end.

    Validation has at least one frame, and so has training.
    """
    validation = max(1, round(settings.validation_share * count))
    test = round(settings.test_share * count)
    train = count - validation - test
    if train < 1:
        raise DataError(
            f"{_place(settings)}: expected frames for training beside {validation} for validation "
            f"and {test} for test, found {count} in all. Add frames or lower the shares."
        )
    return 0, train, train + validation, count


def _convert(settings: DataSettings, sources: Mapping[str, _Source], folder: Path) -> Counts:
    counts = Counts()
    for split, frames in _frames(settings, sources, counts):
        with ArrayWriter(
            folder / f"{split}.npy", (CROP_CHANNELS, settings.crop, settings.crop)
        ) as writer:
            for frame in frames:
                corners, possible = choose_crops(
                    frame.hole,
                    settings.crop,
                    settings.stride,
                    settings.min_hole_share,
                    settings.max_crops_per_frame,
                )
                writer.append(cut_crops(frame, corners, settings.crop, settings.scale))
                counts.left_out_crops[split] += possible - len(corners)
        counts.crops[split] = writer.count
    _refuse_bad(settings, sources, counts)
    return counts


def _frames(
    settings: DataSettings, sources: Mapping[str, _Source], counts: Counts
) -> Iterator[tuple[str, Iterator[Frame]]]:
    """Split by split, the frames that can be used; in the order of the splits, each read to its
    end.
    """
    embedded = sequence(settings.frames, settings.height, settings.width, settings.seed)
    for split, source in sources.items():
        if source.files is None:
            counts.frames += len(source.ids)
            yield split, (next(embedded) for _ in source.ids)
        else:
            yield split, _readable(source.files, settings.crop, counts)


def _readable(files: Sequence[FrameFiles], crop: int, counts: Counts) -> Iterator[Frame]:
    for entry in files:
        counts.frames += 1
        try:
            frame, repairs = read_frame(entry)
            height, width = frame.hole.shape[-2:]
            if min(height, width) < crop:
                raise DataError(
                    f"{entry.files['target']}: expected at least {crop}x{crop} (data.crop), "
                    f"found {height}x{width}."
                )
        except DataError as error:
            counts.bad_frames += 1
            counts.bad.append(str(error))
            continue
        counts.note(repairs)
        yield frame


def _place(settings: DataSettings) -> str:
    folders = [folder for folder in (settings.root, settings.validation_root) if folder]
    return " and ".join(folders) or "the embedded sequence"


def _refuse_bad(settings: DataSettings, sources: Mapping[str, _Source], counts: Counts) -> None:
    named = "".join(f"\n  {text}" for text in counts.bad[:_NAMED_FRAMES])
    if counts.bad_frames > settings.max_bad_share * counts.frames:
        raise DataError(
            f"{_place(settings)}: expected at most {settings.max_bad_share:.1%} bad frames "
            f"(data.max_bad_share), found {counts.bad_frames} of {counts.frames}. "
            f"The first:{named}"
        )
    for split in ("train", "validation"):
        if counts.crops[split] == 0:
            raise DataError(
                f"{_place(settings)}: expected crops for {split}, found none in "
                f"{len(sources[split].ids)} frames: {counts.left_out_crops[split]} crops have "
                f"fewer than {settings.min_hole_share:.2%} holes. Lower data.min_hole_share or "
                f"data.crop.{named}"
            )


@overload
def open_split(prepared: Prepared, split: Literal["train"]) -> TrainCrops: ...


@overload
def open_split(prepared: Prepared, split: Literal["validation", "test"]) -> FixedCrops: ...


@overload
def open_split(prepared: Prepared, split: str) -> Dataset[dict[str, Tensor]]: ...


def open_split(prepared: Prepared, split: str) -> Dataset[dict[str, Tensor]]:
    """The crops of a split: `train` is read by (index, seed), the others by index."""
    if split not in SPLITS:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}, not {split!r}")
    path = Path(prepared.folder) / f"{split}.npy"
    if split == "train":
        return TrainCrops(path, prepared.flips)
    return FixedCrops(path, prepared.validation_crops if split == "validation" else 0)
