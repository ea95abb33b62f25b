"""Which frames are in which split, under each rule."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.files import DataError
from data.hdr.dataset import Prepared, open_split, prepare
from data.hdr.files import write_frame
from data.hdr.scenes import sequence, write_sequence
from data.hdr.settings import DataSettings
from data.hdr.splits import SPLITS, arrange, split_sizes, unit_key
from settings.flat import replace

SMALL = DataSettings(
    frames=24, height=64, width=96, crop=32, stride=16, validation_share=0.1, test_share=0.1
)


def units(settings: DataSettings) -> dict[str, list[str]]:
    """The shots of each split, in its order."""
    found = arrange(settings).splits
    return {split: list(dict.fromkeys(e.unit for e in found[split])) for split in SPLITS}


def ids(settings: DataSettings) -> dict[str, list[int]]:
    return {split: [e.id for e in found] for split, found in arrange(settings).splits.items()}


def in_folder(root: Path, **changes) -> DataSettings:
    return replace(SMALL, {"source": "folder", "root": str(root), **changes})


@pytest.fixture
def sequences(tmp_path) -> Path:
    """Four sequences of two frames."""
    for name in "abcd":
        write_sequence(tmp_path / "data" / name, 2, 64, 96, ord(name), ".npy")
    return tmp_path / "data"


@given(count=st.integers(1, 60), validation=st.floats(0.0, 0.45), test=st.floats(0.0, 0.45))
def test_shares_are_rounded_and_training_and_validation_get_one(count, validation, test):
    settings = DataSettings(
        source="folder", root="x", validation_share=validation, test_share=test
    )
    try:
        sizes = split_sizes(count, settings, "sequences")
    except DataError as error:
        assert "Add sequences, lower the shares, or cut in time" in str(error)
        return
    assert sum(sizes) == count
    assert sizes[0] >= 1
    assert sizes[1:] == (max(1, round(validation * count)), round(test * count))


def test_the_demo_has_48_scenes_to_train_on_8_for_validation_and_8_for_a_test():
    found = units(DataSettings())
    assert {split: len(scenes) for split, scenes in found.items()} == {
        "train": 48,
        "validation": 8,
        "test": 8,
    }
    assert len(set().union(*found.values())) == 64


def test_ten_shots_are_cut_as_thirty_frames_in_time():
    """8:1:1: the crops of what was the default."""
    settings = DataSettings(frames=30, validation_share=0.1, test_share=0.1)
    assert ids(settings) == ids(replace(settings, {"split": "time"}))
    assert [len(entries) for entries in ids(settings).values()] == [24, 3, 3]


def test_no_shot_is_in_two_splits():
    """In time, the shot of frames 6 and 7 would be in two."""
    settings = replace(SMALL, {"frames": 8})
    assert ids(settings) == {"train": [0, 1, 2, 3, 4, 5], "validation": [6, 7], "test": []}
    assert ids(replace(settings, {"split": "time"})) == {
        "train": [0, 1, 2, 3, 4, 5],
        "validation": [6],
        "test": [7],
    }


def test_folds_hold_out_each_shot_once():
    shares = {"validation_share": 0.25, "test_share": 0.25}
    folds = [units(replace(SMALL, {**shares, "fold": fold})) for fold in range(4)]
    every = {f"scene 0 shot {index}" for index in range(8)}
    for fold in folds:
        assert [len(fold[split]) for split in SPLITS] == [4, 2, 2]
        assert set().union(*fold.values()) == every
    for split in ("validation", "test"):
        assert set().union(*(fold[split] for fold in folds)) == every
    assert folds[1]["validation"] == folds[0]["test"] == ["scene 0 shot 6", "scene 0 shot 7"]
    assert units(replace(SMALL, {**shares, "fold": 4})) == folds[0]


def test_a_folder_is_split_by_sequences(sequences, tmp_path):
    settings = in_folder(sequences, validation_share=0.25, test_share=0.25)
    assert units(settings) == {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    turned = replace(settings, {"fold": 1})
    assert units(turned) == {"train": ["b", "c"], "validation": ["d"], "test": ["a"]}
    prepared = prepare(turned, tmp_path / "cache")
    assert (prepared.note, prepared.counts.frames) == ("", 8)
    assert prepare(settings, tmp_path / "cache").folder != prepared.folder
    for split, name in (("validation", "d"), ("test", "a")):
        crops = open_split(prepared, split)
        assert crops.units == [name] * len(crops) != []


def test_units_follow_the_subset_of_validation(tmp_path):
    shares = {"validation_share": 0.5, "test_share": 0.1, "validation_crops": 5}
    prepared = prepare(replace(SMALL, shares), tmp_path)
    every = [unit for unit, count in prepared.units["validation"] for _ in range(count)]
    assert len(every) == prepared.counts.crops["validation"]
    some = open_split(prepared, "validation")
    assert some.units == [every[index] for index in some.chosen]
    assert len(set(some.units)) > 1


def test_in_time_the_shots_of_a_scene_are_one_unit(tmp_path):
    prepared = prepare(replace(SMALL, {"split": "time", "seed": 3}), tmp_path)
    assert set(open_split(prepared, "validation").units) == {"scene 3"}


def test_one_sequence_is_cut_in_time_and_says_so(tmp_path):
    write_sequence(tmp_path / "one", 10, 64, 96, 0, ".npy")
    settings = in_folder(tmp_path / "one")
    found = arrange(settings)
    assert ids(settings)["validation"] == [8]
    assert "holds one sequence" in found.note and "data.split=time" in found.note
    assert prepare(settings, tmp_path / "cache").warnings == (found.note,)
    assert arrange(replace(settings, {"split": "time"})).note == ""
    with pytest.raises(DataError, match=r"data\.fold=1 turns .* Set data\.fold=0"):
        arrange(replace(settings, {"fold": 1}))


def test_too_few_shots_name_the_ways_out(sequences):
    settings = in_folder(sequences, validation_share=0.5, test_share=0.45)
    with pytest.raises(DataError, match=r"sequences for training .* found 4 .*data\.split=time"):
        arrange(settings)
    with pytest.raises(DataError, match="shots for training"):
        arrange(replace(SMALL, {"frames": 3}))


def test_a_second_folder_for_validation_and_test(tmp_path, sequences):
    write_sequence(tmp_path / "other", 4, 64, 96, 1, ".npy")
    settings = in_folder(sequences, validation_root=str(tmp_path / "other"))
    assert ids(settings) == {"train": [0, 1] * 4, "validation": [0, 1], "test": [2, 3]}
    assert str(tmp_path / "other") in arrange(settings).note
    everything = replace(settings, {"test_share": 0.0})
    assert ids(everything)["validation"] == [0, 1, 2, 3]
    assert (ids(everything)["test"], arrange(everything).note) == ([], "")
    assert arrange(replace(settings, {"split": "time"})).note == ""


def test_a_second_folder_of_sequences_is_split_by_them(tmp_path, sequences):
    write_sequence(tmp_path / "train", 2, 64, 96, 1, ".npy")
    settings = in_folder(tmp_path / "train", validation_root=str(sequences))
    found = units(settings)
    assert (found["validation"], found["test"]) == (["a", "b"], ["c", "d"])
    found = units(replace(settings, {"fold": 1}))
    assert (found["validation"], found["test"]) == (["c", "d"], ["a", "b"])
    assert arrange(settings).note == ""


def crops_of(prepared: Prepared, split: str) -> int:
    return len(open_split(prepared, split))


def test_all_measures_every_crop_with_holes(tmp_path, sequences):
    """No half of them, no most of a frame, no subset."""
    least = {"max_crops_per_frame": 1, "validation_crops": 2}
    prepared = prepare(in_folder(sequences, split="all", **least), tmp_path / "cache")
    assert [crops_of(prepared, split) for split in ("train", "test")] == [0, 0]
    assert {split: len(found) for split, found in prepared.frame_ids.items()} == {
        "train": 0,
        "validation": 8,
        "test": 0,
    }
    grid = prepare(
        in_folder(sequences, split="all", min_hole_share=0.0), tmp_path / "cache"
    )
    every = open_split(grid, "validation")
    assert len(every) == 8 * 2 * 3
    with_holes = sum(bool(every[i]["hole"].mean() >= 0.005) for i in range(len(every)))
    assert crops_of(prepared, "validation") == with_holes > 8
    assert set(every.units) == set("abcd")


def test_all_measures_every_pixel_and_those_of_the_last_row_and_column_twice(tmp_path):
    """A frame of 100 x 150 in crops of 64: on a grid of 32 rows from 96 and columns from 128 on
    are in none, and a hole there has no error.
    """
    (frame,) = sequence(1, 100, 150, 0)
    hole = np.zeros((1, 100, 150), np.float32)
    hole[:, 96:], hole[:, :, 128:] = 1.0, 1.0
    target = np.arange(3 * 100 * 150, dtype=np.float32).reshape(3, 100, 150)  # tells pixels apart
    changed = dataclasses.replace(frame, hole=hole, target=target, warped=target * (1.0 - hole))
    write_frame(tmp_path / "data", 0, changed, ".npy")
    settings = DataSettings(source="folder", root=str(tmp_path / "data"), split="all")
    crops = open_split(prepare(settings, tmp_path / "cache"), "validation")
    samples = [crops[i] for i in range(len(crops))]
    held_out = [each["target"][each["hole"].expand(3, -1, -1) > 0] for each in samples]
    np.testing.assert_array_equal(
        np.unique(torch.cat(held_out)), target[np.broadcast_to(hole > 0, target.shape)]
    )
    whole = prepare(replace(settings, {"min_hole_share": 0.0}), tmp_path / "cache")
    every = open_split(whole, "validation")
    seen = np.concatenate([every[i]["target"].numpy().ravel() for i in range(len(every))])
    values, times = np.unique(seen, return_counts=True)
    np.testing.assert_array_equal(values, target.ravel())
    rows = np.where((np.arange(100) >= 36) & (np.arange(100) < 64), 2, 1)
    columns = np.where((np.arange(150) >= 86) & (np.arange(150) < 128), 2, 1)
    np.testing.assert_array_equal(times.reshape(3, 100, 150)[0], np.outer(rows, columns))


def test_all_needs_no_second_folder_and_any_fold(tmp_path, sequences):
    settings = in_folder(sequences, split="all", fold=7, validation_root=str(tmp_path / "gone"))
    assert ids(settings) == {"train": [], "validation": [0, 1] * 4, "test": []}


def test_what_draws_other_units(tmp_path, sequences):
    write_sequence(tmp_path / "one", 2, 64, 96, 0, ".npy")
    assert unit_key(SMALL) == "data.seed"
    assert unit_key(in_folder(sequences)) == "data.fold"
    for changes in ({"split": "time"}, {"split": "all"}, {"validation_root": "x"}):
        assert unit_key(in_folder(sequences, **changes)) == ""
    assert unit_key(in_folder(tmp_path / "one")) == ""
    assert unit_key(in_folder(tmp_path / "gone")) == ""


def test_an_older_conversion_in_time_is_read(tmp_path):
    """It has the name that a conversion has today, and its index says nothing of units and parts.
    """
    settings = DataSettings(
        split="time",
        frames=6,
        height=64,
        width=96,
        crop=32,
        stride=16,
        min_hole_share=0.005,
        max_crops_per_frame=16,
        validation_share=0.1,
        test_share=0.1,
        max_bad_share=0.05,
    )
    prepared = prepare(settings, tmp_path)
    assert Path(prepared.folder).name == "hdr-12b2db8774108484", "that of before data.split"
    index = Path(prepared.folder) / "index.json"
    document = json.loads(index.read_text())
    for key in ("units", "parts", "lacking"):
        del document[key]
    index.write_text(json.dumps(document))
    again = prepare(settings, tmp_path)
    assert again.folder == prepared.folder
    first, second = (open_split(each, "validation") for each in (prepared, again))
    assert first.units == second.units
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name])
