"""NIfTI files as nibabel reads them back, with bytes that depend on their content alone."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from data.mri.nifti_write import write_nifti

AFFINE = np.array([[-0.9, 0, 0, 12], [0, 0, 2.5, -3], [0, 1.1, 0, 7.5], [0, 0, 0, 1]])


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_what_is_written_is_read_back(tmp_path, dtype):
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "a" / "b.nii.gz"
    write_nifti(path, volume, AFFINE, "x" * 100)
    image = nibabel.load(path)
    found = np.asarray(image.dataobj)
    np.testing.assert_array_equal(found, volume)
    assert found.dtype == dtype
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-5)
    assert image.header["descrip"].item() == b"x" * 79


def test_neither_name_nor_time_is_in_the_bytes(tmp_path, monkeypatch):
    import time

    volume = np.ones((4, 4, 4), np.int16)
    write_nifti(tmp_path / "one.nii.gz", volume, AFFINE, "text")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 12345.0)
    write_nifti(tmp_path / "two.nii.gz", volume, AFFINE, "text")
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()
