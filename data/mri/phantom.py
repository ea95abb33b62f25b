"""Embedded brain MRI: synthetic patients made of the MNI152 template, with planted lesions.

The anatomy is real, an average of 152 heads: the T1 image and the maps of grey and white matter
that come inside the package nilearn. All else is synthetic, and every file says so in its header:

- a patient is a smooth deformation of the template (data/mri/shapes.py);
- the four modalities are mixtures of the tissues in the order of brightness that the field sees,
  with what the template's T1 has beyond a mixture as texture;
- up to five lesions a patient, whose masks are exact: a voxel is a lesion in the image where the
  mask says so, and nowhere else but for the oedema around it;
- bias field and Rician noise; outside the brain everything is 0, as in skull-stripped data.

Axes of a volume: X right, Y anterior, Z superior; the source's field of view, 240 x 240 x 150 mm.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import Float32, Float64
from data.mri.nifti_write import write_nifti
from data.mri.shapes import (
    OEDEMA_FROM_MM,
    Mask,
    Planted,
    control_count,
    cubic_basis,
    draw_deformation,
    plant,
)
from settings.mri import MASK, MODALITIES

FIELD_OF_VIEW_MM = (240.0, 240.0, 150.0)
SPLITS = ("train", "val", "test")
MOST_LESIONS = 5

SMALLEST_SIDE = 8
"""The smallest side in voxels; even then a voxel is larger than most lesions."""

WHITE_VALUE = 1000.0
"""Value of undisturbed white matter in T1; files have whole numbers, at least 1 in the brain."""

_BIAS = 0.12  # largest log coefficient of the bias field
_NOISE = (0.01, 0.03)  # deviation, in units of white matter in T1
_CORE_LEVEL, _CORE_FROM_MM = 0.55, 15.0  # larger lesions are necrotic inside
_OEDEMA_WIDTH = 0.35  # in levels of the lesion
_MARGIN_MM = 10  # around the brain, for what smoothing carries outwards


class TemplateError(OSError):
    """The template is not on this machine; the message names the package to install."""


@dataclass(frozen=True)
class Contrast:
    """Brightness in units of white matter in T1. `texture` is the share of the template's T1
    detail that shows.
    """

    csf: float
    grey: float
    white: float
    rim: float
    core: float
    oedema: float
    texture: float


CONTRASTS: dict[str, Contrast] = {
    # Gradient echo after contrast agent: strong contrast of grey and white, lesions enhance.
    "bravo": Contrast(0.15, 0.62, 1.00, rim=1.45, core=0.50, oedema=0.80, texture=1.0),
    # Fluid is dark, grey is brighter than white, lesions and oedema are bright.
    "flair": Contrast(0.08, 0.80, 0.62, rim=1.20, core=1.00, oedema=1.35, texture=-0.4),
    # Spin echo before contrast agent: lesions are a little darker than their surroundings.
    "t1_pre": Contrast(0.28, 0.70, 0.92, rim=0.60, core=0.45, oedema=0.72, texture=0.7),
    # The same after it: lesions enhance, those with a core as a ring.
    "t1_gd": Contrast(0.28, 0.72, 0.94, rim=1.40, core=0.45, oedema=0.74, texture=0.7),
}
"""Our values, chosen for their order; no sequence was simulated."""


@dataclass(frozen=True)
class Template:
    """The template, smoothed for the voxels it is sampled with.

    Attributes:
        maps: [4, x, y, z]: T1 in units of white matter, and shares of brain, grey, white.
        tissue_values: [3], T1 of fluid, grey and white matter that fits the T1 image best.
        middle: [3], voxel in the middle of the brain; a voxel is 1 mm.
    """

    maps: Float32
    tissue_values: Float64
    middle: Float64


def write_patients(
    root: Path, patients: Mapping[str, int], size: int, slices: int, seed: int
) -> None:
    """Writes `<root>/<split>/phantom-<number>/{bravo,flair,t1_pre,t1_gd,seg}.nii.gz`, volumes of
    size x size x slices voxels.

    The first patient of each split has a lesion, the others none to five. A patient is a function
    of (seed, split, number), whatever the other counts are; equal arguments give equal bytes.

    Raises:
        TemplateError: nilearn is not installed.
        ValueError: an unknown split, a negative count, or too few voxels.
    """
    _check(patients, size, slices)
    counts = (size, size, slices)
    axes = [
        (np.arange(count) - 0.5 * (count - 1)) * extent / count
        for count, extent in zip(counts, FIELD_OF_VIEW_MM, strict=True)
    ]
    template = read_template([float(axis[1] - axis[0]) for axis in axes])
    for split, count in patients.items():
        for number in range(count):
            rng = np.random.default_rng((seed, SPLITS.index(split), number))
            folder = root / split / f"phantom-{number + 1:03d}"
            _write_patient(folder, template, axes, 1 if number == 0 else 0, rng)


def _check(patients: Mapping[str, int], size: int, slices: int) -> None:
    for split, count in patients.items():
        if split not in SPLITS or count < 0:
            raise ValueError(
                f"patients are counts, 0 or more, of {', '.join(SPLITS)}, and {split!r} is "
                f"{count}."
            )
    if min(size, slices) < SMALLEST_SIDE:
        raise ValueError(
            f"a synthetic patient has at least {SMALLEST_SIDE} voxels a side, not {size} x {size} "
            f"x {slices}."
        )


def template_files() -> dict[str, Path]:
    """T1, grey and white matter, by the names t1, gm, wm. nilearn itself is not imported, for its
    data sets bring scikit-learn and pandas.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise TemplateError(
            "the embedded brain MRI is made of the MNI152 template inside the package nilearn, "
            "which is not installed: `pip install 'nilearn>=0.11,<0.15'`. Or name NIfTI files of "
            "your own: data.source=folder data.root=DIR."
        )
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    names = {
        kind: folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
        for kind in ("t1", "gm", "wm")
    }
    missing = [path.name for path in names.values() if not path.is_file()]
    if missing:
        raise TemplateError(
            f"{folder} has no {', '.join(missing)}, which nilearn 0.11 to 0.14 have: "
            "`pip install 'nilearn>=0.11,<0.15'`."
        )
    return names


def read_template(spacing_mm: Sequence[float]) -> Template:
    """The template for voxels of that size."""
    import nibabel
    from scipy.ndimage import gaussian_filter

    volumes = {}
    for kind, path in template_files().items():
        image = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_filename(path))
        volumes[kind] = np.asarray(image.dataobj)
    box = _box_of(volumes["t1"])
    t1, grey, white = (
        np.pad(volume[box].astype(np.float32) / np.float32(volume.max()), _MARGIN_MM)
        for volume in volumes.values()
    )
    brain = t1 > 0
    maps = np.stack([t1, brain.astype(np.float32), grey, white])
    values = _tissue_values(maps[:, ::2, ::2, ::2])  # an eighth of the voxels fixes three numbers
    maps[0] /= np.float32(values[2])
    # Full width at half maximum as wide as a voxel, less the template's own 1 mm.
    sigma = [np.sqrt(max(edge**2 - 1.0, 0.0)) / 2.355 for edge in spacing_mm]
    for part in maps:
        gaussian_filter(part, sigma, truncate=3.0, mode="constant", output=part)
    return Template(maps, values / values[2], 0.5 * (np.array(brain.shape) - 1.0))


def _box_of(volume: NDArray[Any]) -> tuple[slice, slice, slice]:
    """The box around what is above 0."""
    sides = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero((volume > 0).any(axis=others))
        sides.append(slice(int(places[0]), int(places[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _tissue_values(maps: Float32) -> Float64:
    """[3]: the values of fluid, grey and white matter whose mixture is closest to the T1 image."""
    brain = maps[1] > 0
    tissues = _tissues(maps[1:])[:, brain].astype(np.float64)
    values, *_ = np.linalg.lstsq(tissues.T, maps[0][brain].astype(np.float64), rcond=None)
    return values


def _tissues(shares: Float32) -> Float32:
    """Shares of brain, grey, white -> of fluid, grey, white; fluid is the rest of the brain."""
    brain, grey, white = shares
    return np.stack([np.clip(brain - grey - white, 0.0, None), grey, white])


def _write_patient(
    folder: Path,
    template: Template,
    axes: Sequence[Float64],
    fewest_lesions: int,
    rng: np.random.Generator,
) -> None:
    brain, tissues, texture = _anatomy(template, axes, rng)
    count = int(rng.integers(fewest_lesions, MOST_LESIONS + 1))
    solid = brain & (tissues[0] < 0.5)  # no lesion begins in fluid
    planted = plant(brain, solid, axes, count, rng)
    affine = np.diag([*(axis[1] - axis[0] for axis in axes), 1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    for modality in MODALITIES:
        contrast = CONTRASTS[modality]
        image = _mix(tissues, texture, contrast)
        _draw_lesions(image, tissues[2], planted, contrast)
        values = _disturb(image, axes, rng)
        volume = np.where(brain, np.clip(np.rint(values * WHITE_VALUE), 1, 32767), 0)
        write_nifti(
            folder / f"{modality}.nii.gz",
            volume.astype(np.int16),
            affine,
            f"synthetic {modality}: MNI152 tissues remapped, lesions planted",
        )
    mask = np.zeros(brain.shape, np.uint8)
    for lesion in planted:
        mask[lesion.box][lesion.inside] = 1
    write_nifti(folder / f"{MASK}.nii.gz", mask, affine, "synthetic: exact mask of lesions")


def _anatomy(
    template: Template, axes: Sequence[Float64], rng: np.random.Generator
) -> tuple[Mask, Float32, Float32]:
    """Brain [X, Y, Z], shares of fluid, grey and white [3, X, Y, Z], texture [X, Y, Z]."""
    from scipy.ndimage import map_coordinates

    deformation = draw_deformation(rng, FIELD_OF_VIEW_MM)
    at = deformation.positions(axes) + template.middle[:, None, None, None]
    t1, *shares = (map_coordinates(part, at, order=1, cval=0.0) for part in template.maps)
    brain = shares[0] > 0.5
    # A voxel at the surface is as bright as the tissue in it.
    inner = np.stack(shares) / np.maximum(shares[0], 0.5)
    tissues = np.where(brain, _tissues(inner), 0.0).astype(np.float32)
    fitted = np.tensordot(template.tissue_values, tissues, 1)
    texture = np.where(brain, t1 / np.maximum(shares[0], 0.5) - fitted, 0.0)
    return brain, tissues, texture.astype(np.float32)


def _mix(tissues: Float32, texture: Float32, contrast: Contrast) -> Float64:
    values = np.array([contrast.csf, contrast.grey, contrast.white])
    return np.tensordot(values, tissues, 1) + contrast.texture * texture


def _draw_lesions(
    image: Float64, white: Float32, planted: Sequence[Planted], contrast: Contrast
) -> None:
    """Oedema first, so that no lesion is changed by that of another."""
    for on_grid in planted:
        if on_grid.lesion.diameter >= OEDEMA_FROM_MM:
            share = np.exp(-(((on_grid.level - 1.0) / _OEDEMA_WIDTH) ** 2)) * white[on_grid.box]
            part = image[on_grid.box]
            part += np.where(on_grid.inside, 0.0, share) * (contrast.oedema - part)
    for on_grid in planted:
        rim = contrast.rim * on_grid.lesion.enhancement
        necrotic = (on_grid.lesion.diameter >= _CORE_FROM_MM) & (on_grid.level < _CORE_LEVEL)
        value = np.where(necrotic, contrast.core, rim)
        image[on_grid.box][on_grid.inside] = value[on_grid.inside]


def _disturb(image: Float64, axes: Sequence[Float64], rng: np.random.Generator) -> Float64:
    """Gain, bias field and Rician noise (the modulus of a complex signal) of one acquisition."""
    counts = [control_count(extent) for extent in FIELD_OF_VIEW_MM]
    bases = [cubic_basis(axis, count) for axis, count in zip(axes, counts, strict=True)]
    coefficients = rng.uniform(-_BIAS, _BIAS, counts)
    bias = np.exp(np.einsum("ijk,xi,yj,zk->xyz", coefficients, *bases, optimize=True))
    signal = np.clip(image, 0.0, None) * bias * rng.uniform(0.85, 1.15)
    noise = rng.normal(0.0, rng.uniform(*_NOISE), (2, *image.shape))
    return np.hypot(signal + noise[0], noise[1])
