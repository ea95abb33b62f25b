"""Frames turned into files of crops, in two passes: what there is, and what is bad, is known
before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.array_file import make_array, write_rows
from data.files import DataError
from data.hdr.crops import channels_of, choose_crops, cut_crops
from data.hdr.files import CHANNELS, REQUIRED, Frame, Repairs, read_frame
from data.hdr.scenes import FRAMES_PER_SHOT, shot
from data.hdr.settings import DataSettings
from data.hdr.splits import SPLITS, Entry, place
from data.parallel import each
from settings.words import counted

OPTIONAL = tuple(part for part in CHANNELS if part not in REQUIRED)

_NAMED_FRAMES = 5  # how many bad frames an error names


@dataclass
class Counts:
    """Counts of the frames and crops of one conversion, by what happened to them."""

    frames: int = 0
    bad_frames: int = 0
    frames_without_holes: int = 0
    frames_without_occlusion: int = 0
    frames_without_motion: int = 0
    unrecognised_files: int = 0
    negative_values: int = 0
    values_in_holes: int = 0
    crops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    left_out_crops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    bad: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Converted:
    """What a conversion has made.

    Attributes:
        parts: of a frame, that the crops have: those that some frame of the data has.
        lacking: those of them that some frames do not have.
        units: split -> (unit, how many crops), in the order of the crops.
    """

    counts: Counts
    parts: Sequence[str]
    lacking: Sequence[str]
    units: Mapping[str, Sequence[tuple[str, int]]]


@dataclass(frozen=True)
class _Seen:
    """What the first pass found of a frame; of a bad one why it is bad, and nothing else.

    Attributes:
        corners: [N, 2], of the crops to keep.
        possible: crops on its grid.
        parts: those of `OPTIONAL` that it has.
    """

    bad: str = ""
    corners: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    possible: int = 0
    parts: frozenset[str] = frozenset()
    has_hole: bool = True
    repairs: Repairs = field(default_factory=Repairs)


@dataclass(frozen=True)
class _Job:
    """Frames that are read together: those of an embedded shot, or one of a folder.

    Attributes:
        numbers: their places in the list of all frames.
    """

    numbers: tuple[int, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class _Cut:
    """The crops of a frame: the file and the first row in it that they go to, and their corners.
    """

    path: Path
    row: int
    corners: NDArray[np.int64]


def crops_file(folder: Path, split: str) -> Path:
    """The crops [N, C, S, S] of a split."""
    return folder / f"{split}.npy"


def known_file(folder: Path, split: str) -> Path:
    """Whether the frame of each crop has each part of `lacking`, bool [N, lacking]; there where
    some lack one.
    """
    return folder / f"{split}_known.npy"


def convert(
    settings: DataSettings,
    splits: Mapping[str, Sequence[Entry]],
    folder: Path,
    workers: int | None = None,
) -> Converted:
    """Writes the crops of each split; the files are the same for any number of workers.

    Raises:
        DataError: too many bad frames, or no crops for a split that needs some; nothing has been
            written then.
    """
    entries = [entry for split in SPLITS for entry in splits[split]]
    split_of = [split for split in SPLITS for _ in splits[split]]
    jobs = _jobs(settings, entries)
    frames = _in_order(jobs, each(partial(_look, settings), jobs, "reading frames", workers))
    counts = _counted(frames, split_of)
    _refuse_bad(settings, splits, counts)
    usable = [seen for seen in frames if not seen.bad]
    there = {part: sum(part in seen.parts for seen in usable) for part in OPTIONAL}
    parts = [part for part in CHANNELS if there.get(part, 1)]
    lacking = [part for part in OPTIONAL if 0 < there[part] < len(usable)]
    counts.frames_without_occlusion = len(usable) - there["occlusion"]
    counts.frames_without_motion = len(usable) - there["motion"]

    cuts: list[_Cut] = []
    rows = dict.fromkeys(SPLITS, 0)
    for split, seen in zip(split_of, frames, strict=True):
        cuts.append(_Cut(crops_file(folder, split), rows[split], seen.corners))
        rows[split] += len(seen.corners)
    for split, count in rows.items():
        shape = count, channels_of(parts), settings.crop, settings.crop
        make_array(crops_file(folder, split), shape)
        if lacking:
            of_split = [s for s, of in zip(frames, split_of, strict=True) if of == split]
            known = [[part in s.parts for part in lacking] for s in of_split for _ in s.corners]
            np.save(known_file(folder, split), np.array(known, bool).reshape(-1, len(lacking)))
    work = [(job, [cuts[number] for number in job.numbers]) for job in jobs]
    work = [(job, of_job) for job, of_job in work if any(len(cut.corners) for cut in of_job)]
    each(partial(_cut, settings, parts), work, "cutting crops", workers)
    units = _units(entries, frames, split_of)
    return Converted(counts, parts, lacking, units)


def _jobs(settings: DataSettings, entries: Sequence[Entry]) -> list[_Job]:
    numbered = list(enumerate(entries))
    if settings.source == "folder":
        return [_Job((number,), (entry,)) for number, entry in numbered]
    in_time = sorted(numbered, key=lambda each: each[1].id)
    shots = groupby(in_time, key=lambda each: each[1].id // FRAMES_PER_SHOT)
    return [_Job(*zip(*of_shot, strict=True)) for _, of_shot in shots]


def _in_order(jobs: Sequence[_Job], found: Sequence[Sequence[_Seen]]) -> list[_Seen]:
    numbers = [number for job in jobs for number in job.numbers]
    every = [seen for of_job in found for seen in of_job]
    by_number = dict(zip(numbers, every, strict=True))
    return [by_number[number] for number in range(len(by_number))]


def _read(settings: DataSettings, job: _Job) -> Iterator[tuple[Frame, Repairs]]:
    """The frames of a job. Raises `DataError` on a bad one, which is then its only one."""
    first = job.entries[0]
    if first.files is None:
        index = first.id // FRAMES_PER_SHOT
        size = settings.height, settings.width
        for frame in shot(index, len(job.entries), *size, settings.seed):
            yield frame, Repairs()
        return
    frame, repairs = read_frame(first.files)
    height, width = frame.hole.shape[-2:]
    if min(height, width) < settings.crop:
        raise DataError(
            f"{first.files.files['target']}: expected at least {settings.crop}x{settings.crop} "
            f"(data.crop), found {height}x{width}."
        )
    yield frame, repairs


def _look(settings: DataSettings, job: _Job) -> list[_Seen]:
    try:
        return [_seen(settings, frame, repairs) for frame, repairs in _read(settings, job)]
    except DataError as error:
        return [_Seen(bad=str(error))]


def _seen(settings: DataSettings, frame: Frame, repairs: Repairs) -> _Seen:
    most = None if settings.split == "all" else settings.max_crops_per_frame
    corners, possible = choose_crops(
        frame.hole, settings.crop, settings.stride, settings.min_hole_share, most
    )
    return _Seen(
        corners=corners,
        possible=possible,
        parts=frozenset(part for part in OPTIONAL if getattr(frame, part) is not None),
        has_hole=bool(frame.hole.any()),
        repairs=repairs,
    )


def _cut(
    settings: DataSettings, parts: Sequence[str], work: tuple[_Job, Sequence[_Cut]]
) -> None:
    """Writes the crops of a job's frames to their places."""
    job, cuts = work
    for (frame, _), cut in zip(_read(settings, job), cuts, strict=True):
        if len(cut.corners):
            crops = cut_crops(frame, cut.corners, settings.crop, settings.scale, parts)
            write_rows(cut.path, cut.row, crops)


def _counted(frames: Sequence[_Seen], split_of: Sequence[str]) -> Counts:
    counts = Counts(frames=len(frames))
    for seen, split in zip(frames, split_of, strict=True):
        if seen.bad:
            counts.bad_frames += 1
            counts.bad.append(seen.bad)
        counts.frames_without_holes += not seen.has_hole
        counts.negative_values += seen.repairs.negative_values
        counts.values_in_holes += seen.repairs.values_in_holes
        counts.crops[split] += len(seen.corners)
        counts.left_out_crops[split] += seen.possible - len(seen.corners)
    return counts


def _units(
    entries: Sequence[Entry], frames: Sequence[_Seen], split_of: Sequence[str]
) -> dict[str, list[tuple[str, int]]]:
    units: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for entry, seen, split in zip(entries, frames, split_of, strict=True):
        if len(seen.corners):
            of_split = units[split]
            of_split[entry.unit] = of_split.get(entry.unit, 0) + len(seen.corners)
    return {split: list(of_split.items()) for split, of_split in units.items()}


def _refuse_bad(
    settings: DataSettings, splits: Mapping[str, Sequence[Entry]], counts: Counts
) -> None:
    named = "".join(f"\n  {text}" for text in counts.bad[:_NAMED_FRAMES])
    if counts.bad_frames > settings.max_bad_share * counts.frames:
        raise DataError(
            f"{place(settings)}: expected at most {settings.max_bad_share:.1%} bad frames "
            f"(data.max_bad_share), found {counts.bad_frames} of {counts.frames}. "
            f"The first:{named}"
        )
    for split in ("validation",) if settings.split == "all" else ("train", "validation"):
        if counts.crops[split] == 0:
            raise DataError(
                f"{place(settings)}: expected crops for {split}, found none in "
                f"{counted(len(splits[split]), 'frame')}: "
                f"{counted(counts.left_out_crops[split], 'crop has', 'crops have')} "
                f"fewer than {settings.min_hole_share:.2%} holes. Lower data.min_hole_share or "
                f"data.crop.{named}"
            )
