"""Settings, conversion, cache, splits and the samples of the brain-MRI systems."""

from __future__ import annotations

import pickle
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.files import DataError
from data.mri.augment import AugmentSettings
from data.mri.dataset import SPLITS, DataSettings, open_split, prepare
from data.mri.files import find_patients, read_volume
from data.mri.lesions import lesions_of
from settings.flat import leaves, replace
from settings.mri import GROUPS, MODALITIES, channels_of
from settings.schema import SettingsError

SIZE, DEPTH = 24, 6
SPACING = (3.0, 1.5, 1.5)
PATIENTS = {"train": ("p1", "p2", "p10"), "val": ("v1",), "test": ("t1", "t2")}
SMALL = {
    "source": "folder", "image_size": 12, "volume_size": (8, 12, 12), "lesion_pixels": 2,
    "lesion_voxels": 4,
}


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 3.0, 1.0])), path)


def write_patient(folder: Path, seed: int) -> None:
    """A bright disk on a dark ground in every slice but the first, and two lesions."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    disk = (rows**2 + columns**2 < (SIZE / 2 - 1) ** 2)[..., None] & (np.arange(DEPTH) > 0)
    for i, name in enumerate(MODALITIES):
        values = disk * (100.0 * (i + 1) + 20.0 * rng.random((SIZE, SIZE, DEPTH)))
        save(folder / f"{name}.nii.gz", values.astype(np.float32))
    mask = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
    mask[4:12, 6:10, 2:4] = 1
    mask[14:18, 14:16, 4] = 1
    save(folder / "seg.nii.gz", mask)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mri")
    for split, names in PATIENTS.items():
        for i, name in enumerate(names):
            write_patient(root / split / name, 10 * len(split) + i)
    return root


@pytest.fixture
def folder(untouched, tmp_path) -> Path:
    """A copy to break."""
    for path in untouched.rglob("*.nii.gz"):
        copy = tmp_path / "own" / path.relative_to(untouched)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return tmp_path / "own"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def settings(root: Path, **changes) -> DataSettings:
    return DataSettings(root=str(root), **{**SMALL, **changes})


def samples(prepared, split: str, **options) -> list[dict[str, torch.Tensor]]:
    data = open_split(prepared, split, **options)
    return [data[(i, i)] if split == "train" else data[i] for i in range(len(data))]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("group", GROUPS)
def test_samples_have_the_agreed_names_shapes_and_values(untouched, cache, group, dims):
    prepared = prepare(settings(untouched, group=group), cache, dims)
    space = (12, 12) if dims == 2 else (8, 12, 12)
    assert prepared.space == space
    assert prepared.channels == channels_of(group)
    number = len(MODALITIES) if group == "seg" else MODALITIES.index(GROUPS[group][0])
    kinds = {"image": (torch.float32, channels_of(group)), "mask": (torch.float32, 1)}
    maps = {"region": (torch.uint8, 1), "lesion": (torch.uint8, 1)}
    for split in SPLITS:
        for regions in (False, True):
            found = samples(prepared, split, regions=regions)
            assert found
            wanted = kinds | (maps if regions or split != "train" else {})
            for sample in found:
                assert sample.keys() - {"seed"} == wanted.keys() | {"modality", "spacing"}
                assert ("seed" in sample) == (split == "train")
                for name, (dtype, channels) in wanted.items():
                    assert sample[name].shape == (channels, *space), name
                    assert sample[name].dtype == dtype, name
                assert sample["image"].min() >= 0
                assert sample["image"].max() <= 1
                assert sample["spacing"].tolist() == [3.0, 3.0, 3.0][-dims:]
                assert sample["spacing"].dtype == torch.float32
                assert sample["modality"].dtype == torch.int64
                if group != "multi_modality":
                    assert int(sample["modality"]) == number
                if group == "seg":
                    assert torch.equal(sample["image"], sample["mask"])


def test_images_and_masks_are_those_of_the_files(untouched, cache):
    """At the size of the files, a slice is the file's to half a level of a byte."""
    same = {"image_size": SIZE, "normalise": "min_max", "validation_samples": 0, "group": "flair"}
    prepared = prepare(settings(untouched, **same), cache, 2)
    values = read_volume(untouched / "val" / "v1" / "flair.nii.gz").values
    mask = read_volume(untouched / "val" / "v1" / "seg.nii.gz").values
    found = samples(prepared, "validation")
    assert len(found) == DEPTH - 1  # the first is dark
    for k, sample in enumerate(found, 1):
        wanted = torch.from_numpy(values[k] / values.max())
        assert (sample["image"][0] - wanted).abs().max() <= 0.5 / 255 + 1e-6
        assert torch.equal(sample["mask"][0], torch.from_numpy(mask[k]))
        assert sample["spacing"].tolist() == [1.5, 1.5]


def test_every_patient_and_slice_is_there_once(untouched, cache):
    prepared = prepare(settings(untouched, group="multi_modality"), cache, 2)
    assert {k: tuple(v) for k, v in prepared.patients.items()} == {
        "train": ("p1", "p2", "p10"), "validation": ("v1",), "test": ("t1", "t2"),
    }
    table = open_split(prepared, "train").table
    rows = list(zip(table["patient"], table["modality"], table["slice"], strict=True))
    assert rows == [(p, m, k) for p in range(3) for m in range(4) for k in range(1, DEPTH)]
    notes = prepared.notes
    assert notes["samples.train"] == 3 * 4 * (DEPTH - 1)
    assert notes["left_out.train"] == 3 * 4
    assert notes["with_lesions.train"] == 3 * 4 * 3
    assert notes["patients.test"] == 2
    assert set(map(type, notes.values())) == {float}


@pytest.mark.parametrize("dims", [2, 3])
def test_stored_and_measured_lesions_are_equal(untouched, cache, dims):
    prepared = prepare(settings(untouched, validation_samples=0), cache, dims)
    least = 2 if dims == 2 else 4
    fresh = samples(prepared, "train", regions=True)
    stored = samples(prepared, "validation") + samples(prepared, "test")
    sizes = set()
    for sample in fresh + stored:
        wanted = lesions_of(sample["mask"][0].numpy(), sample["spacing"].tolist(), least)
        assert torch.equal(sample["lesion"][0], torch.from_numpy(wanted.number))
        assert torch.equal(sample["region"][0], torch.from_numpy(wanted.region))
        sizes |= set(wanted.region.ravel().tolist())
    assert sizes == ({0, 1, 2} if dims == 2 else {0, 2})


def test_lesions_are_counted_by_size(untouched, cache):
    """8 x 4 x 2 voxels of 1.5 x 1.5 x 3 mm become 4 x 2 x 2 of 3 mm: 14.7 mm; and 2 x 1 x 1."""
    notes = prepare(settings(untouched), cache, 3).notes
    assert notes["lesions_small.train"] == 3
    assert notes["ignored_lesions.train"] == 3  # 2 voxels, below 4
    assert notes["lesions_tiny.train"] == notes["lesions_large.train"] == 0
    flat = prepare(settings(untouched), cache, 2).notes
    assert flat["lesions_small.train"] == 6  # 4 x 2 pixels of 3 mm: 13.4 mm, in two slices
    assert flat["lesions_tiny.train"] == 3  # 2 x 1 pixels: 6.7 mm


def test_what_was_converted_is_found_again(folder, tmp_path):
    first = prepare(settings(folder), tmp_path / "cache", 2)
    files = [path for path in Path(first.folder).rglob("*") if path.is_file()]
    files.remove(Path(first.folder, "index.json"))  # its time is that of the last use
    written = {p: p.stat().st_mtime_ns for p in files}
    assert prepare(settings(folder), tmp_path / "cache", 2) == first
    assert written == {p: p.stat().st_mtime_ns for p in written}
    for unread in ({"volume_size": (16, 16, 16)}, {"lesion_voxels": 7}, {"validation_samples": 1}):
        assert prepare(settings(folder, **unread), tmp_path / "cache", 2).folder == first.folder
    folders = {first.folder}
    changes = {"image_size": 16, "group": "flair", "high_percentile": 98.0, "fit": "stretch"}
    for read in ({name: value} for name, value in {**changes, "below_zero": "each"}.items()):
        folders.add(prepare(settings(folder, **read), tmp_path / "cache", 2).folder)
    folders.add(prepare(settings(folder), tmp_path / "cache", 3).folder)
    write_patient(folder / "train" / "p2", 99)
    folders.add(prepare(settings(folder), tmp_path / "cache", 2).folder)
    assert len(folders) == 8
    assert not list((tmp_path / "cache").glob(".*"))


def test_samples_travel_to_other_processes(untouched, cache):
    found = prepare(settings(untouched), cache, 2)
    prepared = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own bytes
    assert prepared == found
    here = samples(prepared, "validation")
    data = open_split(prepared, "validation")
    assert len(data[0]["image"]) == 1
    size = len(pickle.dumps(data))
    assert size < 20_000  # the maps stay behind
    batch = next(iter(DataLoader(data, batch_size=3, num_workers=1)))
    assert set(batch) == {"image", "mask", "region", "lesion", "modality", "spacing"}
    assert batch["image"].shape == (3, 1, 12, 12)
    assert batch["spacing"].shape == (3, 2)
    assert batch["modality"].shape == (3,)
    for i in range(3):
        assert torch.equal(batch["image"][i], here[i]["image"])


def test_augmentation_is_decided_by_the_seed_alone(untouched, cache):
    prepared = prepare(settings(untouched), cache, 2)
    plain, moved = (
        open_split(prepared, "train", augment=augment, regions=True)
        for augment in (None, AugmentSettings(kind="vae"))
    )
    assert torch.equal(plain[(5, 0)]["image"], plain[(5, 1)]["image"])
    views = [moved[(5, seed)] for seed in range(6)]
    assert len({view["image"].numpy().tobytes() for view in views}) > 1
    for seed, view in enumerate(views):
        again = moved[(5, seed)]
        assert view.keys() == again.keys()
        assert all(torch.equal(view[name], again[name]) for name in view)
        assert int(view["seed"]) == seed
        wanted = lesions_of(view["mask"][0].numpy(), view["spacing"].tolist(), 2)
        assert torch.equal(view["lesion"][0], torch.from_numpy(wanted.number))
    with pytest.raises(ValueError, match="only train is augmented, not validation"):
        open_split(prepared, "validation", augment=AugmentSettings())


def test_the_validation_subset_is_fixed_and_spread(untouched, cache):
    whole = prepare(settings(untouched, validation_samples=0, group="multi_modality"), cache, 2)
    few = prepare(settings(untouched, validation_samples=8, group="multi_modality"), cache, 2)
    everything, chosen = samples(whole, "validation"), samples(few, "validation")
    assert len(everything) == 20
    assert len(chosen) == 8
    assert sorted(int(sample["modality"]) for sample in chosen) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(chosen[0]["image"], everything[0]["image"])
    assert torch.equal(chosen[-1]["image"], everything[-1]["image"])
    assert len(samples(few, "test")) == 40


def test_unusable_patients_are_counted_named_and_in_the_end_refused(folder, tmp_path):
    (folder / "train" / "p1" / "bravo.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"at most 5.0% .* found 1 of 6.*\n.*p1.bravo.nii.gz"):
        prepare(settings(folder), tmp_path / "cache", 2)
    assert not list((tmp_path / "cache").glob("*/index.json"))
    prepared = prepare(settings(folder, max_bad_share=0.2), tmp_path / "cache", 2)
    assert prepared.counts["bad_patients"] == 1
    assert list(prepared.patients["train"]) == ["p2", "p10"]
    (warning,) = prepared.warnings
    assert "left out 1 unusable patient: " in warning
    assert str(folder / "train" / "p1" / "bravo.nii.gz") in warning


def test_a_patient_whose_last_modality_is_bad_leaves_nothing_behind(folder, tmp_path):
    save(folder / "train" / "p1" / "t1_gd.nii.gz", np.zeros((SIZE, SIZE, DEPTH), np.float32))
    bad = settings(folder, max_bad_share=0.2, group="multi_modality")
    prepared = prepare(bad, tmp_path / "cache", 2)
    assert prepared.counts["samples.train"] == 2 * 4 * (DEPTH - 1)
    assert prepared.counts["left_out.train"] == 2 * 4
    assert "t1_gd.nii.gz: expected at least two values" in prepared.warnings[0]


def test_patients_without_a_mask(folder, tmp_path):
    (folder / "val" / "v1" / "seg.nii.gz").unlink()
    prepared = prepare(settings(folder), tmp_path / "cache", 2)
    assert prepared.counts["without_seg"] == 1
    assert not any(sample["mask"].any() for sample in samples(prepared, "validation"))
    assert [text.split(":")[0] for text in prepared.warnings] == [
        "1 patient has no seg file", "no validation sample has a lesion",
    ]
    for needs in ({"require_seg": True}, {"require_lesions": True}, {"group": "seg"}):
        with pytest.raises(DataError, match=r"expected seg.nii.gz"):
            prepare(settings(folder, **needs), tmp_path / "cache", 2)
    save(folder / "val" / "v1" / "seg.nii.gz", np.zeros((SIZE, SIZE, DEPTH), np.uint8))
    with pytest.raises(DataError, match="an empty mask"):
        prepare(settings(folder, require_lesions=True), tmp_path / "cache", 2)
    with pytest.raises(DataError, match=r"found none in 1 patient; 6 were left out. Keep masks"):
        prepare(settings(folder, group="seg"), tmp_path / "cache", 2)
    kept = prepare(settings(folder, group="seg", empty_masks=True), tmp_path / "cache", 2)
    assert kept.counts["samples.validation"] == DEPTH


def test_further_things_a_user_is_told(folder, tmp_path):
    (folder / "val" / "v1").rename(folder / "val" / "p2")
    (folder / "train" / "p1" / "notes.txt").touch()
    path = folder / "train" / "p1" / "seg.nii.gz"
    save(path, 255 * np.asarray(nibabel.load(path).dataobj))
    values = np.asarray(nibabel.load(folder / "train" / "p1" / "bravo.nii.gz").dataobj)
    save(folder / "train" / "p1" / "bravo.nii.gz", values - 10)
    prepared = prepare(settings(folder, image_size=8), tmp_path / "cache", 2)
    told = "\n".join(prepared.warnings)
    assert "1 patient has the name of one in another split (p2)" in told
    assert "1 seg file holds other values than 0 and 1" in told
    assert "1 image has values below 0 that became 0" in told
    assert prepared.counts["unrecognised_files"] == 1
    tiny = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
    tiny[0, 0] = 1
    save(path, tiny)
    emptied = prepare(settings(folder, image_size=8), tmp_path / "cache", 2)
    # and the second lesion of the two others, two pixels wide, which three become one
    assert emptied.counts["emptied_masks.train"] == DEPTH + 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"volume_size": (32, 32)}, "volume_size takes three numbers, not 2"),
        ({"patients": (1, 1, 1, 1)}, "patients takes three numbers, not 4"),
        ({"patients": (1, 0, 1)}, "at least one for train and one for validation"),
        ({"low_percentile": 60.0, "high_percentile": 50.0}, "must lie below"),
        ({"source": "folder"}, "needs a folder"),
        ({"root": "x"}, "embedded reads no folder"),
        ({"group": "t2_flair"}, "takes one of"),
    ],
)
def test_settings_that_cannot_be(changes, text):
    with pytest.raises(SettingsError, match=text):
        DataSettings(**changes)


def test_every_setting_has_help_and_a_range():
    for key, leaf in leaves(DataSettings).items():
        assert leaf.help, key
        assert replace(DataSettings(), {key: leaf.default}) == DataSettings()


def test_splits_and_dimensions_that_do_not_exist(untouched, cache):
    with pytest.raises(ValueError, match="2 or 3 dimensions, not 4"):
        prepare(settings(untouched), cache, 4)
    prepared = prepare(settings(untouched), cache, 2)
    with pytest.raises(ValueError, match="a split is one of train"):
        open_split(prepared, "val")
    with pytest.raises(IndexError, match=r"train has samples 0 .. 14, not 15"):
        open_split(prepared, "train")[(15, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_no_lesion_of_the_demo_is_ignored(tmp_path, dims):
    """The source's 5 pixels would leave none of the tiny ones, its 10 voxels only large ones."""
    counts = prepare(DataSettings(), tmp_path, dims).counts
    for split in SPLITS:
        assert counts[f"ignored_lesions.{split}"] == 0
        assert counts[f"lesions_tiny.{split}"] >= 1


@pytest.mark.slow
def test_the_embedded_patients_are_written_once_and_read_in_both_dimensions(tmp_path):
    small = DataSettings(
        patients=(1, 1, 1), image_size=32, slices=16, volume_size=(16, 32, 32), group="t1_gd"
    )
    for dims, space in ((2, (32, 32)), (3, (16, 32, 32))):
        prepared = prepare(small, tmp_path, dims)
        assert prepared.warnings == []
        for split in SPLITS:
            assert prepared.counts[f"samples.{split}"] >= 1
            assert prepared.counts[f"with_lesions.{split}"] >= 1
        assert open_split(prepared, "validation")[0]["image"].shape == (1, *space)
    (phantom,) = tmp_path.glob("mri-phantom-*")  # one, that both have read
    assert [len(split) for split in find_patients(phantom)[0].values()] == [1, 1, 1]
