"""Brain MRI on disk: the folder layout, the NIfTI reader, and what makes a patient unusable.

    <root>/{train,val,test|test_new}/<patient>/{bravo,flair,t1_pre,t1_gd,seg}.nii.gz

`.nii` is read too. Patients are in natural order. Whatever order and direction the axes of a file
have, volumes are [D, H, W] here: D from the feet up, H from front to back, W from the patient's
right to the left (the closest axes where the scan is oblique), so that a slice [H, W] looks as
radiologists print it and a flip of W swaps left and right.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError, Float32, Float64, natural_key
from settings.mri import MASK, MODALITIES

SPLIT_FOLDERS: Mapping[str, Sequence[str]] = {
    "train": ("train",),
    "validation": ("val",),
    "test": ("test_new", "test"),
}
"""Folders of each split, one of which may exist: the source's text says test, its data test_new
(001-M11). Only that of the test may be missing.
"""

SUFFIXES = (".nii.gz", ".nii")

_NIFTI2_HEADER_BYTES = 540  # what its first number says
_AXES = ("S", "P", "L")  # of D, H, W: towards which side of the body they run
_UP = 2  # the axis of space, right, anterior, superior, along which D runs
_MM = {"meter": 1e3, "micron": 1e-3}  # everything else is mm, as nearly all files mean it
_SAME_PLACE = 0.1
"""Voxels by which the corners of two files may differ: less is rounding in the headers."""


@dataclass(frozen=True)
class PatientFiles:
    """A patient's files by modality, those that are there."""

    folder: Path
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Volume:
    """`values` float32 [D, H, W]; `affine` [4, 4] takes an index (d, h, w) to the place in mm
    (right, anterior, superior).
    """

    values: Float32
    affine: Float64

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm per voxel along D, H, W."""
        d, h, w = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(d), float(h), float(w)


@dataclass(frozen=True)
class Patient:
    """One patient on one grid: `images` by modality, `mask` bool [D, H, W], None where there is no
    seg file. `other_values` voxels of that file held something else than 0 and 1.
    """

    files: Mapping[str, Path]
    images: Mapping[str, Float32]
    mask: NDArray[np.bool_] | None
    affine: Float64
    spacing: tuple[float, float, float]
    other_values: int


def find_patients(root: Path) -> tuple[dict[str, list[PatientFiles]], list[Path]]:
    """The patients of each split in natural order, and the files that the layout does not know."""
    wanted = "train/<patient>/, val/<patient>/ and, if wanted, test/<patient>/"
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with {wanted}, found no such folder.")
    patients: dict[str, list[PatientFiles]] = {}
    strangers: list[Path] = []
    for split, names in SPLIT_FOLDERS.items():
        there = [root / name for name in names if (root / name).is_dir()]
        if len(there) > 1:
            raise DataError(
                f"{root}: expected one folder for the {split} split, found "
                f"{' and '.join(folder.name for folder in there)}. Remove or rename one."
            )
        patients[split] = _patients(there[0], strangers) if there else []
        if not patients[split] and split != "test":
            here = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
            raise DataError(
                f"{there[0] if there else root}: expected {wanted}, found no patient for the "
                f"{split} split (in {root}: {here})."
            )
    return patients, strangers


def _patients(folder: Path, strangers: list[Path]) -> list[PatientFiles]:
    """Names that begin with a dot are no files of the user."""
    entries = [path for path in folder.iterdir() if path.name[0] != "."]
    strangers += [path for path in entries if not path.is_dir()]
    names = {
        f"{name}{suffix}": name for suffix in reversed(SUFFIXES) for name in (*MODALITIES, MASK)
    }
    patients = []
    for place in sorted(filter(Path.is_dir, entries), key=lambda path: natural_key(path.name)):
        inside = {path.name: path for path in place.iterdir() if path.name[0] != "."}
        strangers += [path for name, path in inside.items() if name not in names]
        # A compressed file comes later and is taken where both are there.
        files = {names[name]: inside[name] for name in names if name in inside}
        patients.append(PatientFiles(place, files))
    return patients


def read_patient(
    patient: PatientFiles, modalities: Sequence[str], *, require_seg: bool, require_lesions: bool
) -> Patient:
    """Those modalities and the mask of a patient, checked.

    Raises:
        DataError: a file is missing or unreadable, holds NaN or infinite values, or lies on
        another grid than the others; or the mask is empty where lesions are required.
    """
    needed = [*modalities, *([MASK] if require_seg or require_lesions else [])]
    for name in needed:
        if name not in patient.files:
            have = ", ".join(sorted(path.name for path in patient.files.values())) or "nothing"
            raise DataError(
                f"{patient.folder}: expected {name}{SUFFIXES[0]}, found {have}. Add it, or choose "
                "a data.group without it."
            )
    names = [*modalities, *([MASK] if MASK in patient.files else [])]
    volumes = {name: read_volume(patient.files[name]) for name in names}
    first = names[0]
    for name in names[1:]:
        _same_grid(patient, (first, volumes[first]), (name, volumes[name]))
    mask, others = None, 0
    if MASK in volumes:
        values = volumes[MASK].values
        mask = values > 0.5
        others = int(np.count_nonzero((values != 0) & (values != 1)))
        if require_lesions and not mask.any():
            raise DataError(
                f"{patient.files[MASK]}: expected lesions (data.require_lesions), found an empty "
                "mask."
            )
    images = {name: volumes[name].values for name in modalities}
    grid = volumes[first]
    return Patient(patient.files, images, mask, grid.affine, grid.spacing, others)


def _same_grid(
    patient: PatientFiles, first: tuple[str, Volume], other: tuple[str, Volume]
) -> None:
    (name, volume), (other_name, second) = first, other
    path, first_name = patient.files[other_name], patient.files[name].name
    shape = volume.values.shape
    if second.values.shape != shape:
        raise DataError(
            f"{path}: expected the shape {list(shape)} (D, H, W) of {first_name}, found "
            f"{list(second.values.shape)}. Resample one onto the other."
        )
    corners = np.array([[*at, 1.0] for at in itertools.product(*((0, n - 1) for n in shape))])
    moved = corners @ (volume.affine - second.affine).T
    apart = float(np.sqrt((moved[:, :3] ** 2).sum(axis=1)).max())
    if apart > _SAME_PLACE * min(volume.spacing):
        raise DataError(
            f"{path}: expected the place and spacing of {first_name} (affine), found its corners "
            f"up to {apart:.3g} mm away; spacing {_mm(second.spacing)} beside "
            f"{_mm(volume.spacing)}. Resample one onto the other."
        )


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{length:.4g}" for length in spacing) + " mm"


def read_volume(path: Path) -> Volume:
    """A NIfTI file with its axes in order; a fourth axis of length 1 is left out.

    Raises:
        DataError: it cannot be read, has not three axes, or holds values that are no finite real
        numbers.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, ImageDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        values, affine = _load(path)
    except DataError:
        raise
    except (
        *(OSError, EOFError, ValueError, TypeError, zlib.error),
        *(ImageFileError, HeaderDataError, ImageDataError, WrapStructError),
    ) as error:
        size = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
        raise DataError(
            f"{path}: expected a complete NIfTI volume, found one that cannot be read ({size}; "
            f"{error})."
        ) from error
    broken = values.size - int(np.count_nonzero(np.isfinite(values)))
    if broken:
        raise DataError(
            f"{path}: expected finite values, found {broken} that are NaN or infinite."
        )
    return _oriented(path, values, affine)


def read_depth(path: Path) -> int | None:
    """The slices (D) of a NIfTI file, from its header alone; None where that cannot be read."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        image: Any = nibabel.load(path)
        axes = nibabel.orientations.io_orientation(image.affine)[:, 0]
    except (
        *(OSError, EOFError, ValueError, TypeError, zlib.error),
        *(ImageFileError, HeaderDataError, WrapStructError),
    ):
        return None
    (along,) = np.nonzero(axes == _UP)
    return int(image.shape[along[0]]) if len(along) and len(image.shape) >= 3 else None


def _load(path: Path) -> tuple[Float32, Float64]:
    """Values and affine as the file has them.

    Unpacked as a whole: nibabel stops reading after the last voxel, before the checksum of gzip,
    and would take a damaged file for good.
    """
    import nibabel

    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    sizes = [int.from_bytes(content[:4], order) for order in ("little", "big")]
    kind = nibabel.Nifti2Image if _NIFTI2_HEADER_BYTES in sizes else nibabel.Nifti1Image
    image: Any = kind.from_bytes(content)
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or 0 in shape or any(size > 1 for size in shape[3:]):
        raise DataError(
            f"{path}: expected a volume with three axes, found shape {list(shape)}. Split a "
            "series into files."
        )
    if dtype.kind not in "fbui":
        raise DataError(f"{path}: expected real numbers, found type {dtype}.")
    values = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape[:3])
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _MM.get(image.header.get_xyzt_units()[0], 1.0)
    return values, affine


def _oriented(path: Path, values: Float32, affine: Float64) -> Volume:
    from nibabel import orientations

    usable = np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3
    if not usable:
        raise DataError(
            f"{path}: expected an affine with three directions in space, found {affine.tolist()}."
        )
    turn = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(_AXES)
    )
    placed = affine @ orientations.inv_ornt_aff(turn, values.shape)
    return Volume(np.ascontiguousarray(orientations.apply_orientation(values, turn)), placed)
