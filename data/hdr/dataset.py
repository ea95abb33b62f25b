"""The data of HDR hole filling, from its settings to the datasets of a trial.

Frames come from the embedded generator or from a folder, are split, cut into crops once, and read
from a memory-mapped file by every trial.
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
from data.hdr.conversion import Counts, convert
from data.hdr.crop_sets import FixedCrops, TrainCrops
from data.hdr.files import CHANNELS
from data.hdr.settings import DataSettings
from data.hdr.splits import SPLITS, arrange

_FORMAT = 2
"""Version of the converted files; part of their name, so that files of another version are never
read.
"""

_IN_TIME = 1
"""The version of an embedded sequence that is cut in time: its files are as they were."""

_WHOLE = 3
"""The version of frames that are measured whole (data.split=all): crops lie side by side up to
the frame's edges.
"""

_OPEN_ONLY = ("validation_crops", "flips")
"""Settings that are applied on reading and do not change the converted files."""

_SPLIT = ("split", "fold")
"""Settings that version 1 did not have."""


@dataclass(frozen=True)
class Prepared:
    """The place of the crops, and what was counted; small and picklable.

    Attributes:
        folder: holds <split>.npy and index.json.
        frame_ids: the frames of each split, bad ones included.
        units: split -> (shot or sequence, how many crops), in the order of the crops.
        parts: of a frame, that the crops have.
        lacking: those of them that some frames do not have.
        note: what was split otherwise than asked, "" for nothing.
    """

    folder: str
    counts: Counts
    frame_ids: Mapping[str, Sequence[int]]
    units: Mapping[str, Sequence[Sequence[Any]]]
    parts: Sequence[str]
    lacking: Sequence[str]
    validation_crops: int
    flips: bool
    note: str = ""

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

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out, and what was split otherwise than asked."""
        bad = self.counts.bad
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        named = f"left out {len(bad)} bad frames: {'; '.join(bad[:5])}{more}" if bad else ""
        return tuple(filter(None, (self.note, named)))


def prepare(settings: DataSettings, cache: Path, workers: int | None = None) -> Prepared:
    """Converts the frames to crops in the cache, or finds them there.

    The name of the result is a hash of the settings that shape the crops and, for a folder, of the
    names, sizes and times of its files. It appears under that name only when it is complete.

    Args:
        workers: threads of a conversion; as many as there are processors where None.
    """
    arranged = arrange(settings)
    ids = {split: [entry.id for entry in found] for split, found in arranged.splits.items()}
    is_old = settings.source == "embedded" and settings.split == "time"
    version = _IN_TIME if is_old else _WHOLE if settings.split == "all" else _FORMAT

    def make(scratch: Path) -> dict[str, Any]:
        made = dataclasses.asdict(convert(settings, arranged.splits, scratch, workers))
        counts = {name: count for name, count in made["counts"].items() if count}
        return {"format": version, **made, "counts": counts, "frame_ids": ids}

    shape = shaping(settings, (*_OPEN_ONLY, *(_SPLIT if is_old else ())))
    key = version, shape, file_states(arranged.paths)
    folder, index = cached_by(cache, "hdr", key, make)
    counts = Counts(**{**index["counts"], "unrecognised_files": arranged.strangers})
    one_scene = {split: [(f"scene {settings.seed}", counts.crops[split])] for split in SPLITS}
    return Prepared(
        folder=str(folder),
        counts=counts,
        frame_ids=index["frame_ids"],
        units=index.get("units", one_scene),
        parts=index.get("parts", list(CHANNELS)),
        lacking=index.get("lacking", []),
        validation_crops=0 if settings.split == "all" else settings.validation_crops,
        flips=settings.flips,
        note=arranged.note,
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
    where = Path(prepared.folder), split, prepared.parts, prepared.lacking
    if split == "train":
        return TrainCrops(*where, flips=prepared.flips)
    most = prepared.validation_crops if split == "validation" else 0
    return FixedCrops(*where, most=most, units=prepared.units[split])
