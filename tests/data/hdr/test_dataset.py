"""Settings, conversion, cache, splits and the datasets."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data.files import DataError
from data.hdr.crops import choose_crops
from data.hdr.dataset import open_split, prepare
from data.hdr.files import find_frames, read_image, write_image
from data.hdr.scenes import sequence, write_sequence
from data.hdr.settings import DataSettings
from data.hdr.splits import SPLITS
from settings.flat import leaves, replace
from settings.schema import SettingsError

SMALL = DataSettings(
    split="time",
    frames=10,
    height=64,
    width=96,
    crop=32,
    stride=16,
    validation_share=0.1,
    test_share=0.1,
)
SHAPES = {"warped": 3, "hole": 1, "target": 3, "occlusion": 1, "motion": 2}


def folder_settings(root: Path, **changes) -> DataSettings:
    return replace(SMALL, {"source": "folder", "root": str(root), **changes})


@pytest.fixture
def folder(tmp_path) -> Path:
    write_sequence(tmp_path / "frames", 10, 64, 96, 0, ".npy")
    return tmp_path / "frames"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(SMALL, tmp_path_factory.mktemp("cache"))


def test_samples_have_the_agreed_names_shapes_and_values(prepared):
    samples = [open_split(prepared, "train")[0, 0], open_split(prepared, "validation")[0]]
    for sample in samples:
        assert {name: tuple(t.shape) for name, t in sample.items()} == {
            name: (channels, 32, 32) for name, channels in SHAPES.items()
        }
        assert {tensor.dtype for tensor in sample.values()} == {torch.float32}
        assert set(sample["hole"].unique().tolist()) <= {0.0, 1.0}
        assert (sample["warped"] * sample["hole"] == 0).all()
        assert (sample["target"] >= 0).all()


def test_every_crop_is_a_piece_of_a_frame_of_its_split(prepared):
    frames = list(sequence(10, 64, 96, 0))
    for split in ("validation", "test"):
        wanted = [frames[i] for i in prepared.frame_ids[split]]
        pieces = {
            frame.target[:, y : y + 32, x : x + 32].tobytes()
            for frame in wanted
            for y in range(0, 33, 16)
            for x in range(0, 65, 16)
        }
        crops = open_split(prepared, split)
        for i in range(len(crops)):
            assert crops[i]["target"].numpy().tobytes() in pieces


def test_crops_honour_the_share_of_holes(tmp_path):
    settings = replace(SMALL, {"min_hole_share": 0.1, "validation_crops": 0, "flips": False})
    prepared = prepare(settings, tmp_path)
    for split in SPLITS:
        crops = open_split(prepared, split)
        for i in range(len(crops)):
            sample = crops[i, 0] if split == "train" else crops[i]
            assert sample["hole"].mean() >= 0.1
    assert sum(prepared.counts.left_out_crops.values()) > 0
    whole = sum(prepared.counts.crops.values()) + sum(prepared.counts.left_out_crops.values())
    assert whole == 10 * 3 * 5


@given(
    hole=st.integers(0, 10**6).map(
        lambda seed: (np.random.default_rng(seed).random((1, 40, 50)) < 0.02).astype(np.float32)
    ),
    stride=st.integers(3, 30),
    share=st.sampled_from([0.0, 0.01, 0.02, 0.03]),
    most=st.integers(1, 12),
)
def test_choice_of_crops_against_loops(hole, stride, share, most):
    corners, possible = choose_crops(hole, 16, stride, share, most)
    shares = {
        (y, x): hole[0, y : y + 16, x : x + 16].mean(dtype=np.float64)
        for y in range(0, 40 - 15, stride)
        for x in range(0, 50 - 15, stride)
    }
    able = sorted((k for k in shares if shares[k] >= share), key=lambda k: (-shares[k], k))
    assert possible == len(shares)
    assert sorted(able[: min(most, -(-len(able) // 2))]) == [tuple(c) for c in corners]


def test_the_seed_alone_decides_the_flip(prepared):
    crops = open_split(prepared, "train")
    plain = open_split(dataclasses.replace(prepared, flips=False), "train")
    flipped = 0
    for seed in range(40):
        first, again, base = crops[2, seed], crops[2, seed], plain[2, seed]
        is_flipped = not torch.equal(first["target"], base["target"])
        flipped += is_flipped
        for name, tensor in first.items():
            assert torch.equal(tensor, again[name])
            expected = base[name].flip(-1) if is_flipped else base[name]
            if name == "motion" and is_flipped:
                expected = torch.stack([-expected[0], expected[1]])
            assert torch.equal(tensor, expected), name
    assert 8 <= flipped <= 32


def test_the_validation_subset_is_fixed_and_spread(prepared):
    every = open_split(dataclasses.replace(prepared, validation_crops=0), "validation")
    some = open_split(dataclasses.replace(prepared, validation_crops=3), "validation")
    assert len(every) == prepared.counts.crops["validation"] > 3
    assert len(some) == 3
    assert some.chosen[0] == 0
    assert some.chosen[-1] == len(every) - 1
    many = open_split(dataclasses.replace(prepared, validation_crops=10**6), "validation")
    assert many.chosen == every.chosen == list(range(len(every)))


@pytest.mark.slow  # a process that imports torch
def test_loader_workers_and_pickles_read_the_same_crops(prepared):
    back = pickle.loads(pickle.dumps(prepared))  # noqa: S301 - our own bytes, made a line above
    assert back == prepared
    dataset = open_split(back, "validation")
    dataset[0]  # maps the file before the dataset is copied to the worker
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="spawn")
    batch = next(iter(loader))
    assert torch.equal(batch["target"][1], dataset[1]["target"])
    assert len(pickle.dumps(dataset)) < 10_000, "the crops must not travel"


@pytest.mark.slow
def test_the_cache_is_used_again_and_keyed(tmp_path):
    first = prepare(SMALL, tmp_path)
    file = Path(first.folder) / "train.npy"
    made = file.stat().st_mtime_ns
    assert prepare(SMALL, tmp_path) == first
    reading = prepare(replace(SMALL, {"flips": False, "validation_crops": 2}), tmp_path)
    assert reading.folder == first.folder
    assert not reading.flips
    assert file.stat().st_mtime_ns == made
    for change in ({"seed": 1}, {"crop": 48}, {"scale": 2.0}, {"min_hole_share": 0.2}):
        assert prepare(replace(SMALL, change), tmp_path).folder != first.folder
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 5, "nothing half made is left behind"


def test_changed_files_are_converted_again(tmp_path, folder):
    first = prepare(folder_settings(folder), tmp_path / "cache")
    image = read_image(folder / "ref" / "ref-0.npy", 3)
    write_image(folder / "ref" / "ref-0.npy", image[:, ::-1])
    assert prepare(folder_settings(folder), tmp_path / "cache").folder != first.folder


def test_a_failed_conversion_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="expected crops for train, found none"):
        prepare(replace(SMALL, {"min_hole_share": 1.0}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_and_generator_give_the_same_crops(tmp_path, folder):
    a = prepare(folder_settings(folder), tmp_path / "cache")
    b = prepare(SMALL, tmp_path / "cache")
    for split in SPLITS:
        np.testing.assert_array_equal(
            np.load(Path(a.folder) / f"{split}.npy"), np.load(Path(b.folder) / f"{split}.npy")
        )


def test_scale_divides_radiance_only(tmp_path):
    a = open_split(prepare(SMALL, tmp_path), "validation")[0]
    b = open_split(prepare(replace(SMALL, {"scale": 4.0}), tmp_path), "validation")[0]
    for name in ("warped", "target"):
        assert torch.equal(a[name], b[name] * 4.0)
    assert torch.equal(a["motion"], b["motion"])


def test_bad_frames_are_named_counted_and_left_out(tmp_path, folder):
    target = read_image(folder / "ref" / "ref-1.npy", 3)
    target[0, 0, 0] = np.nan
    write_image(folder / "ref" / "ref-1.npy", target)
    cut = folder / "warp_hole" / "warped_hole-4.npy"
    cut.write_bytes(cut.read_bytes()[:-50])
    with pytest.raises(DataError) as caught:
        prepare(folder_settings(folder), tmp_path / "cache")
    text = str(caught.value)
    assert "5.0% bad frames (data.max_bad_share), found 2 of 10" in text
    assert "ref-1.npy: expected finite values, found 1" in text
    assert "warped_hole-4.npy: expected a complete" in text
    prepared = prepare(folder_settings(folder, max_bad_share=0.2), tmp_path / "cache")
    assert (prepared.counts.frames, prepared.counts.bad_frames) == (10, 2)
    assert len(prepared.counts.bad) == 2
    assert prepared.notes["bad_frames"] == 2.0
    train = open_split(prepared, "train")
    assert all(torch.isfinite(train[i, 0]["target"]).all() for i in range(len(train)))
    assert list(prepared.frame_ids["train"]) == list(range(8)), "bad frames move no split"


def test_at_most_five_bad_frames_are_named(tmp_path, folder):
    for path in (folder / "hole").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="found 10 of 10") as caught:
        prepare(folder_settings(folder), tmp_path / "cache")
    assert str(caught.value).count("hole-") == 5


def test_repairs_and_strangers_are_counted(tmp_path, folder):
    target = read_image(folder / "ref" / "ref-2.npy", 3)
    target[0, :3, 0] = -1.0
    write_image(folder / "ref" / "ref-2.npy", target)
    write_image(folder / "ref" / "preview.npy", target)
    counts = prepare(folder_settings(folder), tmp_path / "cache").counts
    assert (counts.negative_values, counts.unrecognised_files, counts.bad_frames) == (3, 1, 0)


def test_frames_smaller_than_a_crop_are_bad(tmp_path, folder):
    with pytest.raises(DataError, match=r"expected at least 80x80 \(data.crop\), found 64x96"):
        prepare(folder_settings(folder, crop=80), tmp_path / "cache")


def test_the_index_is_plain_json(prepared):
    index = json.loads((Path(prepared.folder) / "index.json").read_text())
    assert index["counts"]["frames"] == 10
    assert index["counts"]["crops"]["train"] == len(open_split(prepared, "train"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 40}, "multiple of 16"),
        ({"crop": 80}, "must fit into an embedded frame of 64x96"),
        ({"source": "folder"}, "set data.root"),
        ({"root": "somewhere"}, "data.source=folder"),
        ({"validation_share": 0.6, "test_share": 0.4}, "below 1"),
        ({"fold": 1}, "data.fold=1 turns .* set data.fold=0, or data.split=shots"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        replace(SMALL, changes)


def test_every_setting_is_declared_with_help():
    assert all(leaf.help for leaf in leaves(DataSettings).values())


def test_unknown_split_and_index(prepared):
    with pytest.raises(ValueError, match="train, validation, test, not 'val'"):
        open_split(prepared, "val")
    with pytest.raises(IndexError, match="has crops 0"):
        open_split(prepared, "train")[10**6, 0]


def test_the_reader_finds_what_the_generator_wrote(folder):
    assert [entry.id for entry in find_frames(folder)[0]] == list(range(10))
