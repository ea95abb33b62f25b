"""The folder layout, the NIfTI reader, and what makes a patient unusable."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel import orientations

from data.files import DataError
from data.mri.files import PatientFiles, find_patients, read_depth, read_patient, read_volume
from settings.mri import MODALITIES

AFFINE = np.array([[0.9, 0, 0, -10], [0, 1.1, 0, 5], [0, 0, 3.0, 7], [0, 0, 0, 1]])
SHAPE = (4, 5, 6)


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def ramp(factor: float = 1.0) -> np.ndarray:
    return factor * np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def lesion() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    return mask


@pytest.fixture
def patient(tmp_path) -> PatientFiles:
    files = {
        name: save(tmp_path / "p" / f"{name}.nii.gz", ramp(i + 1.0))
        for i, name in enumerate(MODALITIES)
    }
    return PatientFiles(
        tmp_path / "p", {**files, "seg": save(tmp_path / "p" / "seg.nii.gz", lesion())}
    )


def read(patient: PatientFiles, modalities=MODALITIES, seg=False, lesions=False):
    return read_patient(patient, modalities, require_seg=seg, require_lesions=lesions)


def test_patients_of_all_splits_in_natural_order(tmp_path):
    for name in ("train/p10", "train/p2", "val/p1", "test_new/p3", "train/.hidden"):
        save(tmp_path / name / "bravo.nii.gz", ramp())
    for name in ("train/list.csv", "train/p2/t2_flair.nii.gz", "train/p2/.DS_Store"):
        (tmp_path / name).touch()
    save(tmp_path / "train/p2/seg.nii", lesion())
    found, strangers = find_patients(tmp_path)
    names = {split: [patient.name for patient in found[split]] for split in found}
    assert names == {"train": ["p2", "p10"], "validation": ["p1"], "test": ["p3"]}
    assert sorted(path.name for path in strangers) == ["list.csv", "t2_flair.nii.gz"]
    assert set(found["train"][0].files) == {"bravo", "seg"}


def test_a_compressed_file_is_taken_where_both_are_there(tmp_path):
    for name in ("train/p/bravo.nii", "train/p/bravo.nii.gz", "val/p/bravo.nii"):
        save(tmp_path / name, ramp())
    found, _ = find_patients(tmp_path)
    assert found["train"][0].files["bravo"].name == "bravo.nii.gz"
    assert found["validation"][0].files["bravo"].name == "bravo.nii"
    assert found["test"] == []


def test_folders_that_are_not_the_layout(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_patients(tmp_path / "nowhere")
    save(tmp_path / "train/p/bravo.nii.gz", ramp())
    with pytest.raises(DataError, match=r"no patient for the validation split \(in .*: train\)"):
        find_patients(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match=r"val: expected .* no patient for the validation split"):
        find_patients(tmp_path)
    for name in ("val/p", "test/p", "test_new/p"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="one folder for the test split, found test_new and test"):
        find_patients(tmp_path)


def test_all_48_orders_of_axes_give_one_volume(tmp_path):
    """Against nibabel's closest canonical axes, [X, Y, Z] to the right, the front and the top."""
    base = nibabel.Nifti1Image(ramp(), AFFINE)
    wanted = ramp()[::-1, ::-1].transpose(2, 1, 0)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = np.array(list(zip(order, signs, strict=True)))
            path = tmp_path / "x.nii"
            nibabel.save(base.as_reoriented(turn), path)
            volume = read_volume(path)
            np.testing.assert_array_equal(volume.values, wanted)
            assert volume.spacing == pytest.approx((3.0, 1.1, 0.9))
            first = volume.affine @ [0, 0, 0, 1]
            np.testing.assert_allclose(first, AFFINE @ [3, 4, 0, 1], atol=1e-5)
    assert orientations.aff2axcodes(volume.affine) == ("S", "P", "L")


def test_the_depth_is_read_from_the_header_alone(tmp_path):
    image = nibabel.Nifti1Image(ramp(), AFFINE)
    for turn in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = image.as_reoriented(np.array(list(zip(turn, flips, strict=True))))
            path = save(tmp_path / "a.nii", np.asarray(turned.dataobj), turned.affine)
            path.write_bytes(path.read_bytes()[:352])
            assert read_depth(path) == SHAPE[2]
    assert read_depth(save(tmp_path / "b.nii.gz", ramp())) == SHAPE[2]
    path.write_bytes(b"no header")
    assert read_depth(path) is None
    assert read_depth(tmp_path / "none.nii.gz") is None
    assert read_depth(save(tmp_path / "flat.nii.gz", ramp()[0])) is None


def test_an_oblique_scan_keeps_its_spacing(tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    oblique = np.eye(4)
    oblique[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]] @ AFFINE[:3, :3]
    volume = read_volume(save(tmp_path / "x.nii.gz", ramp(), oblique))
    assert volume.spacing == pytest.approx((3.0, 1.1, 0.9))
    assert volume.values.shape == (6, 5, 4)


def test_scaled_integers_units_and_a_fourth_axis_of_one(tmp_path):
    image = nibabel.Nifti1Image((ramp() * 7).astype(np.int16)[..., None], AFFINE / 1000)
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(0.5, 3.0)
    nibabel.save(image, tmp_path / "x.nii.gz")
    stored = np.asanyarray(nibabel.load(tmp_path / "x.nii.gz").dataobj)[..., 0]
    volume = read_volume(tmp_path / "x.nii.gz")
    np.testing.assert_allclose(volume.values, stored[::-1, ::-1].transpose(2, 1, 0), rtol=1e-6)
    assert volume.spacing == pytest.approx((3.0, 1.1, 0.9))


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
def test_both_versions_in_both_byte_orders(tmp_path, kind, order):
    image_kind = nibabel.Nifti1Image if kind is nibabel.Nifti1Header else nibabel.Nifti2Image
    image = image_kind(ramp(), AFFINE, kind(endianness="<" if order == "little" else ">"))
    nibabel.save(image, tmp_path / "x.nii.gz")
    volume = read_volume(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(volume.values, ramp()[::-1, ::-1].transpose(2, 1, 0))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def broken_inside(path: Path) -> None:
    """One bit of the noise, which only the checksum sees."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_a_direction(path: Path) -> None:
    """Zeros for the third row of the affine, which nibabel itself does not write."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[312:328] = bytes(16)
    path.write_bytes(gzip.compress(content))


BREAKS = {
    "cut short": (cut_short, "cannot be read"),
    "broken inside": (broken_inside, "cannot be read"),
    "no gzip": (lambda path: path.write_bytes(b"not a volume at all"), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), r"cannot be read \(0 bytes"),
    "gone": (lambda path: path.unlink(), r"cannot be read \(no file"),
    "series": (
        lambda path: save(path, np.zeros((4, 5, 6, 3), np.float32)),
        r"three axes, found shape \[4, 5, 6, 3\]",
    ),
    "slice": (lambda path: save(path, np.zeros((4, 5), np.float32)), r"found shape \[4, 5"),
    "complex": (lambda path: save(path, ramp().astype(np.complex64)), "real numbers"),
    "nan": (
        lambda path: save(path, np.where(ramp() == 7, np.nan, ramp()).astype(np.float32)),
        "found 1 that are NaN",
    ),
    "flat": (without_a_direction, "three directions"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_files_that_are_no_volume_are_named(tmp_path, kind):
    path = save(tmp_path / "flair.nii.gz", np.random.default_rng(0).random(SHAPE))
    breaks, text = BREAKS[kind]
    breaks(path)
    with pytest.raises(DataError, match=text) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def test_a_patient_with_all_files(patient):
    found = read(patient)
    assert list(found.images) == list(MODALITIES)
    np.testing.assert_array_equal(found.images["flair"], 2 * found.images["bravo"])
    np.testing.assert_array_equal(found.mask, lesion()[::-1, ::-1].transpose(2, 1, 0) == 1)
    assert found.spacing == pytest.approx((3.0, 1.1, 0.9))
    assert found.other_values == 0


def test_modalities_in_other_axis_orders_meet_on_one_grid(patient):
    image = nibabel.load(patient.files["flair"])
    turned = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nibabel.save(turned, patient.files["flair"])
    found = read(patient)
    np.testing.assert_array_equal(found.images["flair"], 2 * found.images["bravo"])


def test_missing_files(patient):
    without = PatientFiles(
        patient.folder, {k: v for k, v in patient.files.items() if k not in ("seg", "t1_gd")}
    )
    with pytest.raises(DataError, match=r"p: expected t1_gd.nii.gz, found bravo.nii.gz, flair"):
        read(without)
    assert read(without, ("bravo",)).mask is None
    for needs in ({"seg": True}, {"lesions": True}):
        with pytest.raises(DataError, match=r"expected seg.nii.gz"):
            read(without, ("bravo",), **needs)


def test_files_on_other_grids(patient):
    path = patient.files["t1_pre"]
    save(path, np.zeros((4, 5, 7), np.float32))
    with pytest.raises(DataError, match=r"t1_pre.*shape \[6, 5, 4\].* of bravo.*\[7, 5, 4\]"):
        read(patient)
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    save(path, ramp(), moved)
    with pytest.raises(DataError, match=r"t1_pre.* up to 0.5 mm away"):
        read(patient)
    save(path, ramp(), AFFINE @ np.diag([1.0, 1.0, 1.1, 1.0]))
    with pytest.raises(DataError, match=r"spacing 3.3 x 1.1 x 0.9 mm beside 3 x 1.1 x 0.9 mm"):
        read(patient)
    moved[0, 3] = AFFINE[0, 3] + 0.01
    save(path, ramp(), moved)
    read(patient)


def test_masks_that_are_empty_or_hold_other_values(patient):
    save(patient.files["seg"], np.zeros(SHAPE, np.uint8))
    assert not read(patient).mask.any()
    with pytest.raises(DataError, match=r"seg.nii.gz: expected lesions .* an empty mask"):
        read(patient, lesions=True)
    save(patient.files["seg"], lesion() * np.float32(0.75) + np.float32(0.1))
    found = read(patient)
    assert found.mask.sum() == lesion().sum()
    assert found.other_values == lesion().size
