"""Scans for a trained model: which files are found, and where their voxels lie."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data.files import DataError
from data.mri.dataset import DataSettings
from data.mri.files import PatientFiles
from data.mri.inputs import find_inputs, read_scans
from data.mri.nifti_write import write_nifti

AFFINE = np.array([[-1.5, 0, 0, 40], [0, 1.25, 0, -30], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])
SHAPE = (24, 16, 10)  # X, Y, Z


def save(path: Path, values: np.ndarray | None = None) -> Path:
    made = np.random.default_rng(0).random(SHAPE, np.float32) if values is None else values
    write_nifti(path, made, AFFINE, "of a test")
    return path


def millimetres(axis: int) -> np.ndarray:
    """A volume whose values are the position of each voxel along a direction of the body."""
    index = np.stack([*np.indices(SHAPE), np.ones(SHAPE)])
    return np.tensordot(AFFINE[axis], index, 1).astype(np.float32)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_new_affine_says_where_the_new_voxels_are(tmp_path, dims, axis, fit):
    values = millimetres(axis)
    files = PatientFiles(tmp_path, {"bravo": save(tmp_path / "bravo.nii.gz", values)})
    data = DataSettings(
        normalise="min_max", below_zero="keep", fit=fit, image_size=8, volume_size=(8, 8, 8)
    )
    (scan,) = read_scans(files, data, dims)
    assert scan.cropped == (2 if dims == 3 else 0)
    assert scan.image.shape == (1, 8 if dims == 3 else 10, 8, 8)
    image = scan.image[0, scan.inside] * (values.max() - values.min()) + values.min()
    index = np.stack([*np.indices(image.shape), np.ones(image.shape)])
    wanted = np.tensordot(scan.affine[axis], index, 1)
    inner = (slice(None), slice(2, -2), slice(2, -2))  # resizing mirrors nothing at the border
    assert np.allclose(image[inner], wanted[inner], atol=1e-3)


@pytest.mark.parametrize("at", [(1, 1, 1), (9, 3, 7), (11, 11, 8), (12, 4, 5)])
@pytest.mark.parametrize(
    ("shape", "space"),
    [
        ((18, 13, 10), (10, 18, 18)),  # X, Y, Z; rows are padded by 2 and 3
        ((13, 18, 10), (8, 18, 18)),  # columns are, and one slice is cropped at each end
        ((14, 13, 10), (13, 26, 30)),  # each pixel becomes two, and a column is added
    ],
)
def test_a_landmark_keeps_its_place_under_padding(tmp_path, shape, space, at):
    """Its world coordinates in nibabel before and after, in an oblique scan."""
    turned = Rotation.from_euler("xyz", (8, -5, 12), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned @ np.diag([-0.9, 1.2, 3.0]), (50.0, -20.0, 7.0)
    values = np.zeros(shape, np.float32)
    values[at] = 1.0
    path = tmp_path / "bravo.nii.gz"
    write_nifti(path, values, affine, "of a test")
    files = PatientFiles(tmp_path, {"bravo": path})
    data = DataSettings(normalise="min_max", image_size=space[1], volume_size=space)
    for dims in (2, 3) if space[1] == space[2] else (3,):
        (scan,) = read_scans(files, data, dims)
        image, placed = scan.image[0, scan.inside], scan.affine[:, [2, 1, 0, 3]]
        write_nifti(tmp_path / "out.nii.gz", image.transpose(2, 1, 0), placed, "of a test")
        after = nibabel.load(tmp_path / "out.nii.gz")
        found = np.asarray(after.dataobj)
        centre = [(found * index).sum() / found.sum() for index in np.indices(found.shape)]
        now = nibabel.affines.apply_affine(after.affine, centre)
        before = nibabel.affines.apply_affine(nibabel.load(path).affine, at)
        np.testing.assert_allclose(now, before, atol=1e-4)


def test_padding_is_known_and_is_not_in_the_affine(tmp_path):
    files = PatientFiles(tmp_path, {"bravo": save(tmp_path / "bravo.nii.gz")})
    data = DataSettings(volume_size=(13, 16, 24))
    (scan,) = read_scans(files, data, 3)
    assert scan.image.shape == (1, 13, 16, 24)
    assert scan.inside == slice(1, 11)
    assert scan.cropped == 0
    assert np.array_equal(scan.image[:, 0], scan.image[:, 1])
    (slices,) = read_scans(files, DataSettings(image_size=16), 2)
    assert np.allclose(scan.affine[:, 0], slices.affine[:, 0])
    assert np.allclose(scan.affine[:3, 3] @ [0, 0, 1], 7.0), "the first slice of the file"


def test_groups(tmp_path):
    mask = (np.random.default_rng(1).random(SHAPE) > 0.9).astype(np.uint8)
    names = ("t1_pre", "t1_gd", "seg")
    files = {
        name: save(tmp_path / f"{name}.nii.gz", mask if name == "seg" else None) for name in names
    }
    patient = PatientFiles(tmp_path, files)

    def found(group):
        return read_scans(patient, DataSettings(group=group, image_size=8), 2)

    (both,) = found("dual")
    assert (both.names, both.image.shape) == (("t1_pre", "t1_gd"), (2, 10, 8, 8))
    assert [scan.names for scan in found("multi_modality")] == [("t1_pre",), ("t1_gd",)]
    (lesions,) = found("seg")
    assert set(np.unique(lesions.image)) == {0.0, 1.0}
    with pytest.raises(DataError, match=r"expected bravo\.nii\.gz, found t1_gd"):
        found("bravo")


def test_patients_wherever_they_are(tmp_path):
    for place in ("train/p10", "train/p2", "val/p2"):
        save(tmp_path / "root" / place / "bravo.nii.gz")
    (tmp_path / "root" / "train" / "notes.txt").touch()

    def found(source, group="bravo"):
        return [place.as_posix() for place, _ in find_inputs(source, group)]

    assert found(tmp_path / "root") == ["train/p2", "train/p10", "val/p2"]
    assert found(tmp_path / "root" / "train") == ["p2", "p10"]
    assert found(tmp_path / "root" / "train" / "p10") == ["p10"]
    single = save(tmp_path / "one" / "scan.nii.gz")
    ((place, files),) = find_inputs(single, "flair")
    assert (place, files.files) == (Path("one"), {"flair": single})
    with pytest.raises(DataError, match="expected a folder with t1_pre and t1_gd"):
        found(single, "dual")
    with pytest.raises(DataError, match="found no such file"):
        found(tmp_path / "one")


def test_the_compressed_file_is_taken_where_both_are_there(tmp_path):
    first = save(tmp_path / "p" / "bravo.nii.gz")
    (tmp_path / "p" / "bravo.nii").touch()
    ((_, files),) = find_inputs(tmp_path, "bravo")
    assert files.files == {"bravo": first}


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [("bravo", "seg", "expected a mask"), ("seg", "bravo", "expected an image")],
)
def test_one_file_that_is_named_as_the_other_sort_is_refused(tmp_path, name, group, expected):
    path = save(tmp_path / f"{name}.nii.gz")
    with pytest.raises(DataError, match=f"{expected}.* named {name}"):
        find_inputs(path, group)
    other = path.rename(tmp_path / "scan.nii.gz")
    ((_, files),) = find_inputs(other, group)
    assert files.files == {group: other}
