"""NRRD cases as patients: the grid in space, what is refused, and the real cases if present."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest

from data.mri import real as mri_real
from data.mri.dataset import DataSettings, open_split, prepare
from data.mri.lesions import components, feret_diameters_mm
from data.mri.real import CASES, Case, RealDataError, convert, fetch, main, read_nrrd

SHAPE = (6, 5, 4)
DIRECTIONS = np.diag([0.8, 0.9, 6.5])
ORIGIN = np.array([-10.0, 20.0, 30.0])
MRI, CT = Case("train", "brain"), Case("test", "lung", ct=True)


def write(path: Path, volume: np.ndarray, **header: object) -> Path:
    known = {
        "space": "left-posterior-superior",
        "space directions": DIRECTIONS,
        "space origin": ORIGIN,
    }
    known.update({key.replace("_", " "): value for key, value in header.items()})
    nrrd.write(
        str(path), volume, {key: value for key, value in known.items() if value is not None}
    )
    return path


def image_of(low: int = 0, high: int = 3000) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, SHAPE).astype(np.int16)


def label_of() -> np.ndarray:
    mask = np.zeros(SHAPE, np.int16)
    mask[2:4, 1:3, 1:3] = 2
    return mask


def test_a_case_becomes_a_patient_in_the_same_place(tmp_path):
    """The place of each corner by hand: LPS to RAS changes the sign of the first two axes."""
    image, mask = image_of(), label_of()
    files = write(tmp_path / "i.nrrd", image), write(tmp_path / "l.nrrd", mask)
    done = convert(*files, tmp_path / "out", MRI)
    assert done.shape == SHAPE
    assert done.spacing_mm == pytest.approx((0.8, 0.9, 6.5))
    assert (done.lesion_voxels, done.clipped_values) == (8, 0)
    written = nibabel.load(tmp_path / "out" / "t1_gd.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), image)
    for index in ((0, 0, 0), (5, 4, 3), (1, 2, 3)):
        x, y, z = ORIGIN + DIRECTIONS @ np.array(index)
        np.testing.assert_allclose(written.affine @ [*index, 1], [-x, -y, z, 1], atol=1e-5)
    seg = nibabel.load(tmp_path / "out" / "seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(seg.dataobj), mask != 0)
    np.testing.assert_array_equal(seg.affine, written.affine)
    assert b"brain" in written.header["descrip"].item()


def test_oblique_axes_and_other_spaces_keep_their_places(tmp_path):
    turned = np.array([[0.0, 0.8, 0.0], [0.9, 0.0, 0.1], [0.0, -0.3, 6.0]])  # row: one index axis
    path = write(tmp_path / "a.nrrd", image_of(), space="RAS", space_directions=turned)
    _, affine = read_nrrd(path)
    np.testing.assert_allclose(affine[:3, 1], turned[1])
    np.testing.assert_allclose(affine[:3, 3], ORIGIN)
    path = write(tmp_path / "b.nrrd", image_of(), space="left-anterior-superior")
    _, affine = read_nrrd(path)
    np.testing.assert_allclose(np.diag(affine)[:3], [-0.8, 0.9, 6.5])


def test_ct_is_shifted_to_air_and_what_is_below_is_counted(tmp_path):
    image = image_of(-1000, 1500)
    image[0, 0] = -2000
    files = write(tmp_path / "i.nrrd", image), write(tmp_path / "l.nrrd", label_of())
    done = convert(*files, tmp_path / "out", CT)
    written = np.asarray(nibabel.load(tmp_path / "out" / "t1_gd.nii.gz").dataobj)
    assert done.clipped_values == SHAPE[2]
    assert (written[0, 0] == 0).all()
    np.testing.assert_array_equal(written[1:], image[1:] + 1000)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (image_of(-500), label_of(), r"i.nrrd: expected MRI, 0 or more, found \d+ values below 0"),
        (image_of(), np.zeros(SHAPE, np.uint8), r"l.nrrd: expected a tumour, found 0 everywhere"),
        (image_of(), label_of()[:, :, 1:], r"l.nrrd: expected the grid of i.nrrd \(\[6, 5, 4\]\)"),
        (image_of()[..., 0], label_of(), r"i.nrrd: expected a volume .* found \[6, 5\]"),
    ],
    ids=["negative", "no tumour", "other grid", "flat"],
)
def test_cases_that_do_not_fit_are_refused(tmp_path, image, mask, message):
    flat = {} if image.ndim == 3 else {"space": None, "space_directions": None}
    flat = {**flat, "space_origin": None} if image.ndim != 3 else flat
    files = write(tmp_path / "i.nrrd", image, **flat), write(tmp_path / "l.nrrd", mask)
    with pytest.raises(RealDataError, match=message):
        convert(*files, tmp_path / "out", MRI)
    assert not (tmp_path / "out").exists()


def test_another_place_an_unknown_space_and_a_torn_file_are_refused(tmp_path):
    image = write(tmp_path / "i.nrrd", image_of())
    moved = write(tmp_path / "l.nrrd", label_of(), space_origin=ORIGIN + 1.0)
    with pytest.raises(RealDataError, match="another place in space"):
        convert(image, moved, tmp_path / "out", MRI)
    odd = write(tmp_path / "odd.nrrd", image_of(), space="scanner-xyz")
    with pytest.raises(RealDataError, match=r"`space` is one of left-.*, not scanner-xyz"):
        read_nrrd(odd)
    (tmp_path / "torn.nrrd").write_bytes(image.read_bytes()[:-40])
    for name in ("torn.nrrd", "absent.nrrd"):
        with pytest.raises(RealDataError, match=rf"{name}: expected an NRRD file"):
            read_nrrd(tmp_path / name)


@pytest.fixture
def own_archive(tmp_path, monkeypatch) -> Path:
    """A source package with small cases in the places of the real ones, its own hash expected."""
    archive = tmp_path / "own.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, case in CASES.items():
            image = image_of(-1000 if case.ct else 0)
            for kind, volume in (("image", image), ("label", label_of())):
                content = write(tmp_path / "scratch.nrrd", volume).read_bytes()
                member = tarfile.TarInfo(f"package/data/{name}_{kind}.nrrd")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    digest = mri_real.hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(mri_real, "SHA256", digest)
    monkeypatch.setenv("MRI_SDIST", str(archive))
    return archive


def test_a_source_package_of_ones_own_becomes_all_cases(tmp_path, own_archive, capsys):
    out = tmp_path / "real" / "mri"
    main(["--out", str(out)])
    printed = capsys.readouterr().out
    for name, case in CASES.items():
        assert sorted(path.name for path in (out / case.split / name).iterdir()) == [
            "seg.nii.gz",
            "t1_gd.nii.gz",
        ]
        assert f"{name}: {case.organ}, 6 x 5 x 4 voxels of 0.80 x 0.90 x 6.50 mm" in printed
    assert own_archive.is_file(), "a file of one's own is not removed"
    own_archive.unlink()
    main(["--out", str(out)])  # from what was unpacked


def test_a_wrong_archive_is_refused(tmp_path, own_archive, monkeypatch):
    with own_archive.open("ab") as file:
        file.write(b"more")
    with pytest.raises(RealDataError, match=r"expected the sha256 \w+ of pyradiomics .* found"):
        fetch(tmp_path / "cache")
    monkeypatch.setenv("MRI_SDIST", str(tmp_path / "none.tar.gz"))
    with pytest.raises(
        SystemExit, match=r"error: .*none.tar.gz: there is no such file.*MRI_SDIST"
    ):
        main(["--out", str(tmp_path / "cache" / "mri")])


def test_every_split_of_a_training_has_a_case():
    assert {case.split for case in CASES.values()} == {"train", "val", "test"}
    assert CASES["brain1"].split != CASES["brain2"].split


VOXELS = {"brain1": [613, 3524], "brain2": [453], "breast1": [143], "lung1": [837]}
VOXELS["lung2"] = [24644]
IN_PLANE_MM = {"brain1": 38.1, "brain2": 16.6, "breast1": 8.6, "lung1": 16.8, "lung2": 56.1}
"""Longest distance between two corners of pixels of the tumour in one slice."""


@pytest.mark.slow
def test_the_real_cases_are_data_that_trains(real_mri, tmp_path):
    settings = DataSettings(source="folder", root=str(real_mri), group="t1_gd", max_bad_share=0.0)
    prepared = prepare(settings, tmp_path, 2)
    for split, slices in (("train", 134), ("validation", 23), ("test", 21)):
        samples = open_split(prepared, split)
        assert 0.8 * slices <= len(samples) <= slices
    sizes = {int(size) for sample in samples for size in sample["region"].unique()}
    assert 1 in sizes, "breast1's tumour is a tiny one"


@pytest.mark.slow
def test_the_real_cases(real_mri):
    root = real_mri
    shapes = {"brain1": (256, 256, 25), "brain2": (256, 256, 23)}
    for name, case in CASES.items():
        image = nibabel.load(root / case.split / name / "t1_gd.nii.gz")
        seg = nibabel.load(root / case.split / name / "seg.nii.gz")
        values, mask = np.asarray(image.dataobj), np.asarray(seg.dataobj)
        assert values.shape == mask.shape
        assert values.min() >= 0
        spacing = seg.header.get_zooms()
        labels = components(mask)
        assert sorted(np.bincount(labels.ravel())[1:].tolist()) == VOXELS[name]
        # In three dimensions and with thick slices at least what is seen in one slice.
        longest = feret_diameters_mm(labels, spacing).max()
        slices = [components(mask[..., z]) for z in range(mask.shape[-1])]
        filled = [flat for flat in slices if flat.any()]
        in_plane = max(feret_diameters_mm(flat, spacing[:2]).max() for flat in filled)
        assert in_plane == pytest.approx(IN_PLANE_MM[name], abs=0.1)
        assert longest >= in_plane
        if name in shapes:
            assert values.shape == shapes[name]
            # The tumours take up contrast agent: brighter than the tissue around them.
            assert np.median(values[mask == 1]) > 1.2 * np.median(values[values > 0])
