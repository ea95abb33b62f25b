"""Synthetic patients: exact masks, contrasts as in the field, the same files each time."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from data.mri import phantom as mri_phantom
from data.mri.phantom import (
    CONTRASTS,
    FIELD_OF_VIEW_MM,
    MOST_LESIONS,
    Template,
    TemplateError,
    read_template,
    template_files,
    write_patients,
)
from settings.mri import MASK, MODALITIES

SIZE, SLICES = 32, 16
COUNTS = (SIZE, SIZE, SLICES)
PATIENTS = {"train": 3, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    """Read once for all tests of this file, which takes longer than to write their patients."""
    spacing = [extent / count for extent, count in zip(FIELD_OF_VIEW_MM, COUNTS, strict=True)]
    template = read_template(spacing)

    def again(spacing_mm: Sequence[float]) -> Template:
        assert list(spacing_mm) == pytest.approx(spacing)
        return template

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mri_phantom, "read_template", again)
        yield template


@pytest.fixture(scope="module")
def root(tmp_path_factory, template) -> Path:
    folder = tmp_path_factory.mktemp("patients")
    write_patients(folder, PATIENTS, SIZE, SLICES, seed=0)
    return folder


def volumes(folder: Path) -> dict[str, np.ndarray]:
    names = (*MODALITIES, MASK)
    return {name: np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) for name in names}


def patients(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*/*") if path.is_dir())


def hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.nii.gz"))
    }


def test_the_layout_and_the_grid(root):
    found = {split: len(list((root / split).iterdir())) for split in PATIENTS}
    assert found == PATIENTS
    for folder in patients(root):
        assert len(list(folder.iterdir())) == 5
        affines = []
        for path in folder.iterdir():
            image = nibabel.load(path)
            assert image.shape == COUNTS
            assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
            extent = np.array(image.shape) * image.header.get_zooms()
            np.testing.assert_allclose(extent, FIELD_OF_VIEW_MM, rtol=1e-6)
            assert image.header.get_xyzt_units()[0] == "mm"
            assert bytes(image.header["descrip"].item()).startswith(b"synthetic")
            affines.append(image.affine)
        assert all((affine == affines[0]).all() for affine in affines)
        # The origin lies in the middle of the field of view.
        corner = affines[0] @ np.array([SIZE - 1, SIZE - 1, SLICES - 1, 1.0])
        np.testing.assert_allclose(corner[:3], -affines[0][:3, 3])


def test_the_brain_is_the_same_in_all_modalities_and_holds_the_lesions(root):
    shapes = set()
    for folder in patients(root):
        parts = volumes(folder)
        brain = parts["bravo"] > 0
        shapes.add(brain.tobytes())
        # A brain with its fluid of 1.1 to 1.9 litres in the middle, with background on each side
        # of a slice.
        litres = brain.sum() * np.prod(np.array(FIELD_OF_VIEW_MM) / brain.shape) * 1e-6
        assert 1.1 < litres < 1.9
        assert not brain[[0, -1]].any()
        assert not brain[:, [0, -1]].any()
        for modality in MODALITIES:
            assert ((parts[modality] > 0) == brain).all()
        assert set(np.unique(parts[MASK])) <= {0, 1}
        assert not (parts[MASK].astype(bool) & ~brain).any()
        assert label(parts[MASK], np.ones((3, 3, 3)))[1] <= MOST_LESIONS
    assert len(shapes) == sum(PATIENTS.values()), "each patient has a brain of its own"


def test_each_split_has_lesions(root):
    for split in PATIENTS:
        assert volumes(root / split / "phantom-001")[MASK].any()


def test_lesions_look_as_in_the_field(root):
    """Medians over all lesions against the brain at least two voxels away from any."""
    inside: dict[str, list[np.ndarray]] = {name: [] for name in MODALITIES}
    around: dict[str, list[np.ndarray]] = {name: [] for name in MODALITIES}
    for folder in patients(root):
        parts = volumes(folder)
        mask = parts[MASK].astype(bool)
        far = (parts["bravo"] > 0) & ~binary_dilation(mask, np.ones((5, 5, 5)))
        for name in MODALITIES:
            inside[name].append(parts[name][mask])
            around[name].append(parts[name][far])
    ratio = {
        name: np.median(np.concatenate(inside[name])) / np.median(np.concatenate(around[name]))
        for name in MODALITIES
    }
    assert ratio["t1_gd"] > 1.3
    assert ratio["bravo"] > 1.3
    assert ratio["flair"] > 1.2
    assert ratio["t1_pre"] < 0.95


def test_tissues_have_the_order_of_their_modality(template):
    for name, contrast in CONTRASTS.items():
        assert contrast.csf < min(contrast.grey, contrast.white), name
    assert CONTRASTS["flair"].grey > CONTRASTS["flair"].white
    for name in ("bravo", "t1_pre", "t1_gd"):
        assert CONTRASTS[name].white > CONTRASTS[name].grey
    fluid, grey, white = template.tissue_values
    assert fluid < grey < white == 1.0, "the fit finds the order of T1 in the template"


def test_the_same_arguments_make_the_same_bytes(root, tmp_path):
    write_patients(tmp_path, {"val": 1, "train": 1}, SIZE, SLICES, seed=0)
    again, first = hashes(tmp_path), hashes(root)
    assert again == {name: first[name] for name in again}, "whatever the other counts are"
    write_patients(tmp_path, {"train": 1}, SIZE, SLICES, seed=1)
    other = hashes(tmp_path)["train/phantom-001/bravo.nii.gz"]
    assert other != first["train/phantom-001/bravo.nii.gz"]


def test_wrong_counts_and_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train, val, test, and 'validation' is 2"):
        write_patients(tmp_path, {"validation": 2}, SIZE, SLICES, 0)
    with pytest.raises(ValueError, match=r"0 or more, .* 'val' is -1"):
        write_patients(tmp_path, {"val": -1}, SIZE, SLICES, 0)
    with pytest.raises(ValueError, match=r"at least 8 voxels a side, not 32 x 32 x 4"):
        write_patients(tmp_path, {"val": 1}, SIZE, 4, 0)
    assert not list(tmp_path.iterdir())


def test_without_nilearn_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "nilearn", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(TemplateError, match=r"pip install 'nilearn.* data.source=folder"):
        template_files()
    (tmp_path / "nilearn").mkdir()
    (tmp_path / "nilearn" / "__init__.py").touch()
    with pytest.raises(TemplateError, match=r"has no mni_icbm152_t1_tal.*, which nilearn"):
        template_files()
