"""Pairs of consecutive frames: which there are, and that the motion between them is true."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.hdr.consecutive import has_pairs, pairs
from data.hdr.files import write_image
from data.hdr.scenes import sequence, write_sequence
from data.hdr.settings import DataSettings
from metrics.hdr_measures import moved

SIZE = {"height": 64, "width": 96, "crop": 32}
EMBEDDED = DataSettings(frames=30, seed=3, **SIZE)
"""Validation is frames 24, 25 and 26: one shot."""


def of_folder(root, **changes):
    return DataSettings(source="folder", root=str(root), crop=32, **changes)


def test_the_pairs_of_the_embedded_sequence_are_those_of_its_shots():
    frames = list(sequence(30, 64, 96, 3))
    found = pairs(EMBEDDED, "validation", 4, 96)
    assert len(found) == 2
    for number, pair in zip((24, 25), found, strict=True):
        np.testing.assert_array_equal(pair.before["target"], frames[number].target)
        np.testing.assert_array_equal(pair.after["target"], frames[number + 1].target)
        np.testing.assert_array_equal(pair.after["motion"], frames[number + 1].motion)
    training = pairs(EMBEDDED, "train", 100, 96)
    assert len(training) == 8 * 2, "none goes over a cut"


def test_the_motion_takes_one_frame_to_the_next():
    for pair in pairs(EMBEDDED, "train", 100, 96):
        before, after, motion, hole = (
            torch.from_numpy(plane)[None]
            for plane in (
                pair.before["target"],
                pair.after["target"],
                pair.after["motion"],
                pair.after["hole"],
            )
        )
        origin, inside = moved(before, motion)
        seen = (inside & (hole == 0)).expand_as(after)
        step = (after.log() - origin.log()).abs()[seen]
        assert float(step.max()) < 0.011, "light drifts by 1 %, and nothing else changes"


def test_at_most_so_many_are_taken_evenly_spread():
    few = pairs(EMBEDDED, "train", 3, 96)
    every = pairs(EMBEDDED, "train", 100, 96)
    places = [
        next(i for i, p in enumerate(every) if np.array_equal(p.after["hole"], q.after["hole"]))
        for q in few
    ]
    assert places == [0, 8, 15]


def test_a_window_is_the_one_with_most_holes():
    frames = list(sequence(30, 64, 96, 3))
    for number, pair in zip((25, 26), pairs(EMBEDDED, "validation", 4, 32), strict=True):
        hole = frames[number].hole[0]
        most = max(
            hole[y : y + 32, x : x + 32].sum() for y in range(0, 33, 16) for x in range(0, 65, 16)
        )
        assert pair.after["hole"].shape == (1, 32, 32)
        assert pair.after["hole"].sum() == most
        assert pair.before["target"].shape == (3, 32, 32)


def test_radiance_is_scaled_as_in_crops():
    scaled = DataSettings(frames=30, seed=3, scale=4.0, **SIZE)
    plain, divided = (pairs(each, "validation", 1, 96)[0] for each in (EMBEDDED, scaled))
    np.testing.assert_allclose(divided.after["target"] * 4.0, plain.after["target"], rtol=1e-6)
    np.testing.assert_array_equal(divided.after["motion"], plain.after["motion"])


@pytest.fixture
def folder(tmp_path):
    """Ten frames, the last two in validation."""
    write_sequence(tmp_path, 10, 64, 96, 1)
    return tmp_path


SHARES = {"validation_share": 0.2, "test_share": 0.0}


def test_a_folder_with_motion_has_pairs(folder):
    settings = of_folder(folder, **SHARES)
    assert has_pairs(settings, "validation")
    (pair,) = pairs(settings, "validation", 4, 64)
    frames = list(sequence(10, 64, 96, 1))
    assert pair.after["target"].shape == (3, 64, 64)
    assert pair.after["hole"].sum() <= frames[9].hole.sum()


def test_frames_of_two_sequences_are_no_pair(tmp_path):
    """Frame 2 begins the second sequence, and its number follows that of frame 1 in the first."""
    for name, seed in {"a": 1, "b": 2}.items():
        write_sequence(tmp_path / name, 2, 64, 96, seed, ".npy")
    for path in sorted((tmp_path / "b").glob("*/*.npy")):
        start, number = path.stem.rsplit("-", 1)
        path.rename(path.with_name(f"{start}-{int(number) + 2}.moved"))
    for path in (tmp_path / "b").glob("*/*.moved"):
        path.rename(path.with_suffix(".npy"))
    found = pairs(of_folder(tmp_path, split="all"), "validation", 4, 64)
    targets = [list(sequence(2, 64, 96, seed)) for seed in (1, 2)]
    assert len(found) == 2
    for pair, (first, second) in zip(found, targets, strict=True):
        for frame, true in ((pair.before, first), (pair.after, second)):
            assert np.isin(frame["target"], true.target).all()


@pytest.mark.parametrize("missing", ["motion/motion-9.exr", "whole motion", "frame 8"])
def test_without_motion_or_a_frame_between_there_is_none(folder, missing):
    if missing == "frame 8":
        for path in folder.glob("*/*-8.exr"):
            path.unlink()
    else:
        for path in folder.glob("motion/*") if missing == "whole motion" else [folder / missing]:
            path.unlink()
    settings = of_folder(folder, **SHARES)
    assert not has_pairs(settings, "validation")
    assert pairs(settings, "validation", 4, 64) == ()


def test_a_pair_with_a_bad_frame_is_left_out(folder):
    write_image(folder / "ref" / "ref-9.exr", np.full((64, 96, 3), np.nan, np.float32))
    settings = of_folder(folder, **SHARES)
    assert has_pairs(settings, "validation")
    assert pairs(settings, "validation", 4, 64) == ()
