"""NIfTI files whose bytes are a function of their content alone."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from data.files import Float64

_GZIP_LEVEL = 6  # zlib's own default: level 9 takes longer and saves next to nothing on noise


def write_nifti(
    path: Path, volume: NDArray[Any], affine: Float64, description: str
) -> None:
    """Writes a volume [X, Y, Z] as .nii.gz in its own type.

    The affine takes voxel indices to mm (right, anterior, superior). The description goes into the
    header's `descrip`, which holds 79 ASCII characters. No time is written, neither by NIfTI nor
    by gzip, so equal arguments give equal bytes.
    """
    import nibabel

    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = description.encode("ascii")[:79]
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), _GZIP_LEVEL, mtime=0))
