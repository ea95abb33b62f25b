"""Which frames are for training, validation and test: whole shots, runs of frames, or all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from data.files import DataError
from data.hdr.files import FrameFiles, find_frames, sequences_of
from data.hdr.scenes import FRAMES_PER_SHOT
from data.hdr.settings import DataSettings

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Entry:
    """One frame before it is read.

    Attributes:
        id: of the frame in its sequence.
        unit: what is drawn as a whole: its shot or sequence; under data.split=time the scene of
            all embedded frames, since a shot may then be in two splits.
        files: None for an embedded one.
    """

    id: int
    unit: str
    files: FrameFiles | None = None


@dataclass(frozen=True)
class Arranged:
    """The frames of each split, in the order in which their crops are stored.

    Attributes:
        strangers: how many image files fit no frame.
        note: what was cut otherwise than asked, "" for nothing.
    """

    splits: Mapping[str, Sequence[Entry]]
    strangers: int = 0
    note: str = ""

    @property
    def paths(self) -> list[Path]:
        """The files of all frames."""
        entries = [entry for entries in self.splits.values() for entry in entries]
        return [p for entry in entries if entry.files for p in entry.files.files.values()]


def arrange(settings: DataSettings) -> Arranged:
    """The frames of each split by the rule of `data.split`.

    Raises:
        DataError: no such folder, another layout, or too few frames or shots for the splits.
    """
    if settings.source == "embedded":
        return _arranged(_embedded(settings), settings)
    own, strangers = _of_folder(settings.root)
    if not settings.validation_root or settings.split == "all":
        return _arranged(own, settings, strangers)
    other, more = _of_folder(settings.validation_root)
    held_out, note = _held_out(other, settings)
    return Arranged({"train": own, **held_out}, strangers + more, note)


def unit_key(settings: DataSettings) -> str:
    """The setting of which each value draws other units (`System.unit_key`): the fold where a
    folder is split by its sequences; a folder that is cut in time has none.
    """
    if settings.source == "embedded":
        return "data.seed"
    is_folded = settings.split == "shots" and not settings.validation_root
    return "data.fold" if is_folded and len(sequences_of(_path(settings.root))) > 1 else ""


def split_sizes(count: int, settings: DataSettings, of: str = "frames") -> tuple[int, int, int]:
    """How many of `count` frames or shots are in each of the splits; training and validation have
    at least one.
    """
    validation = max(1, round(settings.validation_share * count))
    test = round(settings.test_share * count)
    train = count - validation - test
    if train < 1:
        cut = "" if of == "frames" else ", or cut in time (data.split=time)"
        raise DataError(
            f"{place(settings)}: expected {of} for training beside {validation} for validation "
            f"and {test} for test, found {count} in all. Add {of}, lower the shares{cut}."
        )
    return train, validation, test


def place(settings: DataSettings) -> str:
    """Where the data is, in words."""
    folders = [folder for folder in (settings.root, settings.validation_root) if folder]
    return " and ".join(folders) or "the embedded sequence"


def _embedded(settings: DataSettings) -> list[Entry]:
    scene = f"scene {settings.seed}"
    if settings.split == "time":
        return [Entry(number, scene) for number in range(settings.frames)]
    shots = (number // FRAMES_PER_SHOT for number in range(settings.frames))
    return [Entry(number, f"{scene} shot {shot}") for number, shot in enumerate(shots)]


def _of_folder(root: str) -> tuple[list[Entry], int]:
    frames, strangers = find_frames(_path(root))
    return [Entry(f.id, f.sequence or root, f) for f in frames], len(strangers)


def _path(root: str) -> Path:
    return Path(root).expanduser()


def _arranged(entries: Sequence[Entry], settings: DataSettings, strangers: int = 0) -> Arranged:
    if settings.split == "all":
        return Arranged({"train": (), "validation": entries, "test": ()}, strangers)
    shots = _shots(entries)
    if settings.split == "time" or (settings.source == "folder" and len(shots) == 1):
        sizes = split_sizes(len(entries), settings)
        splits = _taken([[entry] for entry in entries], sizes)
        return Arranged(splits, strangers, _one_sequence(settings, settings.root))
    of = "shots" if settings.source == "embedded" else "sequences"
    sizes = split_sizes(len(shots), settings, of)
    return Arranged(_taken(_turned(shots, settings.fold * sizes[1]), sizes), strangers)


def _held_out(
    entries: Sequence[Entry], settings: DataSettings
) -> tuple[dict[str, list[Entry]], str]:
    """Validation and test of a second folder in the proportion of their shares, and the note."""
    shots = _shots(entries)
    by_shots = settings.split == "shots" and len(shots) > 1
    groups = shots if by_shots else [[entry] for entry in entries]
    shares = settings.validation_share + settings.test_share
    last = round(len(groups) * settings.test_share / shares) if shares else 0
    cut = max(len(groups) - last, 1)
    turned = _turned(groups, settings.fold * cut) if by_shots else groups
    splits = _taken(turned, (0, cut, len(groups) - cut))
    del splits["train"]
    is_cut = not by_shots and splits["test"]
    return splits, _one_sequence(settings, settings.validation_root) if is_cut else ""


def _one_sequence(settings: DataSettings, root: str) -> str:
    if settings.split == "time":
        return ""
    if settings.fold:
        raise DataError(
            f"{root}: data.fold={settings.fold} turns a list of sequences, and it holds one, "
            "which is cut in time. Set data.fold=0, or add sequences (NAME/warp_hole/ and so on)."
        )
    return (
        f"{root} holds one sequence, so that no shots can be held out: it is cut in time, and "
        "neighbouring frames of one scene are in different splits. Add sequences "
        "(NAME/warp_hole/ and so on), or say data.split=time."
    )


def _shots(entries: Sequence[Entry]) -> list[list[Entry]]:
    return [list(shot) for _, shot in groupby(entries, key=lambda entry: entry.unit)]


def _turned(shots: Sequence[list[Entry]], by: int) -> list[list[Entry]]:
    start = by % len(shots)
    return [*shots[start:], *shots[:start]]


def _taken(groups: Sequence[list[Entry]], sizes: Sequence[int]) -> dict[str, list[Entry]]:
    """The first groups for training, the next for validation, the last for test."""
    rest = iter(groups)
    return {
        split: [entry for _ in range(size) for entry in next(rest)]
        for split, size in zip(SPLITS, sizes, strict=True)
    }
