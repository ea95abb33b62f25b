"""The two passes of a conversion: what is refused before anything is written, what is counted, and
what the files hold.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.files import DataError
from data.hdr import conversion
from data.hdr.conversion import convert
from data.hdr.dataset import open_split, prepare
from data.hdr.files import write_frame
from data.hdr.scenes import sequence
from data.hdr.settings import DataSettings
from data.hdr.splits import SPLITS, arrange
from settings.flat import replace

SMALL = DataSettings(frames=24, height=64, width=96, crop=32, stride=16)


def folder(root: Path, without: dict[int, tuple[str, ...]], count: int = 4) -> DataSettings:
    """Sequences a, b, ... of one frame each; `without` has what some of them lack."""
    for number, frame in enumerate(sequence(count, 64, 96, 0)):
        gone = dict.fromkeys(without.get(number, ()))
        write_frame(root / "abcdefgh"[number], 0, dataclasses.replace(frame, **gone), ".npy")
    shares = {"validation_share": 0.25, "test_share": 0.25, "flips": False}
    return replace(SMALL, {"source": "folder", "root": str(root), **shares})


BARE = ("motion", "occlusion")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["embedded", "folder"])
def test_the_files_are_the_same_for_any_number_of_workers(tmp_path, source):
    settings = SMALL if source == "embedded" else folder(tmp_path / "f", {1: ("motion",)}, 8)
    made = {}
    for workers in (1, 2, 5):
        place = tmp_path / str(workers)
        place.mkdir()
        index = convert(settings, arrange(settings).splits, place, workers)
        files = {path.name: path.read_bytes() for path in place.iterdir()}
        made[workers] = dataclasses.asdict(index), files
    assert made[1] == made[2] == made[5]
    assert len(made[1][1]) == (3 if source == "embedded" else 6)


def test_too_many_bad_frames_are_refused_before_a_crop_is_cut(tmp_path, monkeypatch):
    settings = folder(tmp_path / "f", {})
    (tmp_path / "f/d/ref/ref-0.npy").write_bytes(b"")
    monkeypatch.setattr(conversion, "make_array", lambda *_: pytest.fail("a file was made"))
    with pytest.raises(DataError, match="found 1 of 4"):
        prepare(settings, tmp_path / "cache")


def test_a_frame_without_holes_is_counted_and_gives_no_crops(tmp_path):
    settings = folder(tmp_path / "f", {})
    np.save(tmp_path / "f/a/hole/hole-0.npy", np.zeros((64, 96), np.float32))
    prepared = prepare(settings, tmp_path / "cache")
    assert (prepared.counts.frames_without_holes, prepared.counts.bad_frames) == (1, 0)
    assert prepared.notes["frames_without_holes"] == 1.0
    assert [name for name, _ in prepared.units["train"]] == ["b"]
    whole = prepare(replace(settings, {"min_hole_share": 0.0}), tmp_path / "cache")
    assert [name for name, _ in whole.units["train"]] == ["a", "b"]


def test_what_no_frame_has_is_not_stored(tmp_path):
    """Neither in the file, nor in a batch."""
    settings = folder(tmp_path / "f", dict.fromkeys(range(4), BARE))
    prepared = prepare(settings, tmp_path / "cache")
    assert (prepared.parts, prepared.lacking) == (["warped", "hole", "target"], [])
    assert prepared.notes["frames_without_motion"] == 4.0
    assert np.load(Path(prepared.folder) / "train.npy").shape[1:] == (7, 32, 32)
    index = json.loads((Path(prepared.folder) / "index.json").read_text())
    assert index["parts"] == ["warped", "hole", "target"]
    full = prepare(folder(tmp_path / "full", {}), tmp_path / "cache")
    assert np.load(Path(full.folder) / "train.npy").shape[1:] == (10, 32, 32)
    flipping = dataclasses.replace(prepared, flips=True)
    for seed in range(4):
        sample = open_split(flipping, "train")[0, seed]
        assert list(sample) == ["warped", "hole", "target"]
    bare, known = (open_split(each, "train")[0, 0] for each in (prepared, full))
    for name in bare:
        assert torch.equal(bare[name], known[name])


def test_what_some_frames_lack_is_marked_in_every_crop(tmp_path):
    settings = folder(tmp_path / "f", {0: ("motion",), 3: BARE})
    prepared = prepare(settings, tmp_path / "cache")
    counts = prepared.counts
    assert (counts.frames_without_motion, counts.frames_without_occlusion) == (2, 1)
    assert prepared.lacking == ["occlusion", "motion"]
    known = {"a": (1.0, 0.0), "b": (1.0, 1.0), "c": (1.0, 1.0), "d": (0.0, 0.0)}
    for split in SPLITS:
        crops = open_split(prepared, split)
        every = [unit for unit, count in prepared.units[split] for _ in range(count)]
        assert len(every) == len(crops) > 0
        for index, unit in enumerate(every):
            sample = crops[index, 0] if split == "train" else crops[index]
            marks = [sample["occlusion_known"], sample["motion_known"]]
            assert [mark.shape for mark in marks] == [(1, 1, 1)] * 2
            assert (marks[0].item(), marks[1].item()) == known[unit]
            if not known[unit][1]:
                assert not sample["motion"].any()
    assert open_split(prepared, "validation")[0]["motion"].any()
