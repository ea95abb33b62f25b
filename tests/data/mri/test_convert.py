"""What a data set decides about values below 0, slices of another shape, and cropped volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data.cache import cache_key, file_states, shaping
from data.files import DataError
from data.mri.convert import crop_warnings
from data.mri.dataset import FORMAT, SPLITS, DataSettings, open_split, prepare
from data.mri.files import find_patients
from settings.mri import MODALITIES

SIZE, DEPTH = 24, 6
PLACES = ("train/p1", "train/p2", "train/p3", "val/v1", "test/t1", "test/t2")
AIR, MIXED = -1000.0, -300.0
"""Added to what has a background of 0 and a disk of 400: CT of nothing below air, and CT that has
values on both sides of 0.
"""


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 3.0, 1.0])), path)


@pytest.fixture
def root(tmp_path) -> Path:
    """Six patients: a disk of 400 .. 480 on 0 in every slice but the first, and a lesion."""
    rows, columns = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    disk = (rows**2 + columns**2 < (SIZE / 2 - 1) ** 2)[..., None] & (np.arange(DEPTH) > 0)
    for i, place in enumerate(PLACES):
        rng = np.random.default_rng(i)
        for name in MODALITIES[:2]:
            values = disk * (400.0 + 80.0 * rng.random((SIZE, SIZE, DEPTH)))
            save(tmp_path / "root" / place / f"{name}.nii.gz", values.astype(np.float32))
        mask = np.zeros((SIZE, SIZE, DEPTH), np.uint8)
        mask[4:12, 6:10, 2:4] = 1
        save(tmp_path / "root" / place / "seg.nii.gz", mask)
    return tmp_path / "root"


def add(root: Path, places: Sequence[str], by: float, name: str = "bravo") -> None:
    for place in places:
        path = root / place / f"{name}.nii.gz"
        save(path, np.asarray(nibabel.load(path).dataobj, np.float32) + np.float32(by))


def settings(root: Path, **changes) -> DataSettings:
    small = {"source": "folder", "image_size": 12, "volume_size": (8, 12, 12)}
    return DataSettings(root=str(root), **{**small, **changes})


def images(prepared, split: str) -> np.ndarray:
    data = open_split(prepared, split)
    return np.stack([data.read(i)["image"].numpy() for i in range(data.count)])


def decisions(prepared) -> dict[str, int]:
    return {k: v for k, v in prepared.counts.items() if k.startswith("signed.")}


def test_a_folder_of_ct_is_signed(root, tmp_path):
    """Against the same data moved up, in which nothing lies below 0."""
    moved = prepare(settings(root), tmp_path / "a", 2)
    assert (moved.signed, decisions(moved)) == ([], {"signed.bravo": 0})
    assert moved.warnings == []
    wanted = {split: images(moved, split) for split in SPLITS}
    add(root, PLACES, AIR)
    found = prepare(settings(root), tmp_path / "b", 2)
    assert (found.signed, decisions(found)) == (["bravo"], {"signed.bravo": 1})
    assert (found.counts["negative_images"], found.counts["clipped_images"]) == (6, 0)
    assert found.counts["samples.train"] == 3 * (DEPTH - 1), "what was written first is gone"
    (told,) = found.warnings
    assert told.startswith("6 images have values below 0 that were kept")
    for split in SPLITS:
        np.testing.assert_allclose(images(found, split), wanted[split], atol=1.01 / 255)
    said = prepare(settings(root, below_zero="keep"), tmp_path / "b", 2)
    assert (said.signed, decisions(said)) == (None, {"signed.bravo": 1})
    np.testing.assert_array_equal(images(said, "train"), images(found, "train"))
    with pytest.raises(DataError, match=r"those below 0 became 0 \(data.below_zero\)"):
        prepare(settings(root, below_zero="clip"), tmp_path / "b", 2)


@pytest.mark.parametrize("odd", ["train/p2", "val/v1"])
def test_one_ct_among_mri_is_treated_as_they_are_and_named(root, tmp_path, odd):
    """The image that undershoots has a background of 0, which the rule of before made grey."""
    path = root / "train" / "p1" / "bravo.nii.gz"
    values = np.asarray(nibabel.load(path).dataobj, np.float32)
    values[0] = np.linspace(-60.0, -30.0, values[0].size).reshape(values[0].shape)
    save(path, values)
    add(root, [odd], MIXED)
    found = prepare(settings(root), tmp_path / "cache", 2)
    assert (found.signed, decisions(found)) == ([], {"signed.bravo": 0})
    assert (found.counts["negative_images"], found.counts["clipped_images"]) == (2, 2)
    clipped, unlike = found.warnings
    assert clipped.startswith("2 images have values below 0 that became 0")
    assert unlike.startswith("1 of them is signed by the rule for one image")
    assert str(root / odd / "bravo.nii.gz") in unlike

    def background(prepared):
        first = open_split(prepared, "train").table["patient"] == 0
        return images(prepared, "train")[first][:, 0, 0, 0].max()

    assert background(found) == 0.0
    assert found.counts["left_out.train"] == 3, "the dark slices"
    before = prepare(settings(root, below_zero="each"), tmp_path / "cache", 2)
    assert background(before) > 0.1
    assert before.counts["left_out.train"] == 2


def test_one_mri_among_ct_is_treated_as_they_are_and_named(root, tmp_path):
    add(root, PLACES, AIR)
    add(root, ["train/p3"], -AIR - 20.0)
    found = prepare(settings(root), tmp_path / "cache", 2)
    assert found.signed == ["bravo"]
    kept, unlike = found.warnings
    assert kept.startswith("6 images have values below 0 that were kept")
    assert unlike.startswith("1 of them is not signed by the rule for one image")
    assert str(root / "train/p3/bravo.nii.gz") in unlike


def test_each_modality_has_a_decision_of_its_own_and_training_makes_it(root, tmp_path):
    add(root, ["train/p1", "train/p2", "val/v1"], AIR, "flair")
    add(root, ["val/v1", "test/t1", "test/t2"], MIXED, "bravo")
    for place in PLACES:
        for name in MODALITIES[2:]:
            (root / place / f"{name}.nii.gz").write_bytes(
                (root / place / "bravo.nii.gz").read_bytes()
            )
    found = prepare(settings(root, group="multi_modality"), tmp_path / "cache", 2)
    assert found.signed == ["flair"]
    assert decisions(found) == {f"signed.{name}": int(name == "flair") for name in MODALITIES}
    assert found.counts["clipped_images"] == 3 * 3
    each = prepare(settings(root, below_zero="each"), tmp_path / "cache", 2)
    assert (each.signed, decisions(each)) == (None, {})
    masks = prepare(settings(root, group="seg"), tmp_path / "cache", 2)
    assert (masks.signed, decisions(masks)) == ([], {})


def test_converted_data_of_before_is_not_taken_for_that_of_now(root, tmp_path):
    """The key of before had none of the two settings; with them it is that of now."""
    given = settings(root)
    unread = {"validation_samples", "volume_size", "depth_padding", "lesion_voxels"}
    values = shaping(given, unread)
    everyone = [patient for split in find_patients(root)[0].values() for patient in split]
    states = file_states([path for patient in everyone for path in patient.files.values()])
    folders = {}
    for left_out in ((), ("fit", "below_zero")):
        key = {name: value for name, value in values.items() if name not in left_out}
        folders[left_out] = f"mri-{cache_key(FORMAT, 2, key, states)}"
    found = Path(prepare(given, tmp_path / "cache", 2).folder).name
    assert found == folders[()] != folders["fit", "below_zero"]


def test_volumes_that_lose_slices_are_told(root, tmp_path):
    """Also from the cache. Five have twelve slices, of which eight are taken, and p3 has six."""
    for path in root.rglob("*.nii.gz"):
        if path.parent.name != "p3":
            save(path, np.repeat(np.asarray(nibabel.load(path).dataobj), 2, axis=2))
    for _ in range(2):
        found = prepare(settings(root), tmp_path / "cache", 3)
        assert found.counts["cropped_slices"] == 5 * 4
        (told,) = found.warnings
        assert told.startswith("5 of 6 volumes have more slices than data.volume_size and lose ")
        assert "20 of 60 (33.3%); p1 loses 4 of 12. Give data.volume_size a greater depth" in told
    assert not prepare(settings(root, volume_size=(12, 12, 12)), tmp_path / "cache", 3).warnings
    assert not prepare(settings(root), tmp_path / "cache", 2).warnings


@pytest.mark.parametrize(("lost", "told"), [(0, 0), (2, 0), (3, 1), (99, 1)])
def test_two_percent_of_a_volume_may_go_in_silence(lost, told):
    others = [("a", 0, 40), ("b", 1, 60)]
    found = list(crop_warnings([("c", lost, 100), *others], "Do."))
    assert len(found) == told
    assert all(f"c loses {lost} of 100. Do." in text for text in found)
    assert all(text.startswith("1 of 3 volumes") for text in found)


def test_slices_that_are_not_square_are_padded_unless_they_are_to_be_stretched(root, tmp_path):
    """16 of 24 rows: the lesion keeps its sides, the spacing its ratio."""
    for path in root.rglob("*.nii.gz"):
        save(path, np.asarray(nibabel.load(path).dataobj)[:, 4:20])
    padded = prepare(settings(root), tmp_path / "cache", 2)
    squeezed = prepare(settings(root, fit="stretch"), tmp_path / "cache", 2)
    counted = [(p.counts["padded_sides"], p.counts["stretched_sides"]) for p in (padded, squeezed)]
    assert counted == [(6, 0), (0, 6)]
    first, second = (open_split(prepared, "validation")[1] for prepared in (padded, squeezed))
    assert first["spacing"].tolist() == [3.0, 3.0]
    assert second["spacing"].tolist() == [2.0, 3.0]
    assert first["image"][0, [0, -1]].max() == 0.0
    assert second["image"][0, 0].max() > 0.0
    assert [int(sample["mask"].sum()) for sample in (first, second)] == [8, 12]
