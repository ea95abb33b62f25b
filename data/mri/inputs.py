"""Scans that a trained model is applied to: which files of a folder belong together, how they are
put onto the model's grid, and where a voxel of that grid lies in the patient.

Shapes: C channels; D, H, W the file's size, d, h, w that of the grid; H', W' the padded plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import DataError, Float32, Float64, natural_key
from data.mri.dataset import DataSettings
from data.mri.files import SUFFIXES, Patient, PatientFiles, read_patient
from data.mri.volumes import (
    first_inside,
    fit_depth,
    fitted,
    index_change,
    is_signed,
    keeps_negatives,
    normalise,
    pad_planes,
    resize_image,
    resize_mask,
)
from settings.mri import GROUPS, MASK, MODALITIES

_DEEPEST = 3
"""Folders between the one that is named and a file: a split and a patient, at most."""


@dataclass(frozen=True)
class Scan:
    """What goes through the model at once.

    Attributes:
        names: modality of each channel.
        image: float32 [C, d, h, w] in [0, 1], of masks 0 and 1.
        inside: slices of `image` that the file has; the others are padding.
        affine: [4, 4], from an index in image[:, inside] to mm (right, anterior, superior).
        cropped: slices of the file that `image` does not have.
        negative: channels with values below 0.
        clipped: those of them whose values below 0 became 0.
        unlike: see `data.mri.convert.Conversion`.
    """

    names: tuple[str, ...]
    image: Float32
    inside: slice
    affine: Float64
    cropped: int
    negative: int
    clipped: int
    unlike: tuple[tuple[Path, bool], ...]

    @property
    def depth(self) -> int:
        """Slices of the file."""
        return self.inside.stop - self.inside.start + self.cropped


@dataclass(frozen=True)
class _Scaled:
    """One volume [D, H, W] in [0, 1]; the rest is that of `Scan`."""

    values: Float32
    negative: bool = False
    clipped: bool = False
    unlike: tuple[tuple[Path, bool], ...] = ()


def find_inputs(source: Path, group: str) -> list[tuple[Path, PatientFiles]]:
    """The patients at `source`, each with the folder for its results: of one NIfTI file, of the
    folder of a patient, or of a folder with patients, in split folders or without.

    Raises:
        DataError: there is none, or one file where the group needs several or another sort.
    """
    name_of_file = {f"{name}{end}": name for end in SUFFIXES[::-1] for name in (*MODALITIES, MASK)}
    if source.is_file():
        names = GROUPS[group]
        if len(names) > 1 and group == "dual":
            raise DataError(
                f"{source}: expected a folder with {' and '.join(names)}{SUFFIXES[0]}, which this "
                "model sees together, found one file."
            )
        kind = name_of_file.get(source.name)
        if kind is not None and kind not in names and MASK in (kind, *names):
            raise DataError(
                f"{source}: expected {'a mask' if MASK in names else 'an image'}, which is what "
                f"this model has learnt, found one that is named {kind}. If it is none, give it "
                "another name."
            )
        files = {kind if kind in names else names[0]: source}
        folder = source.resolve().parent
        return [(Path(folder.name), PatientFiles(folder, files))]
    folders: dict[Path, dict[str, Path]] = {}
    for depth in range(1, _DEEPEST + 1):
        for path in sorted(source.glob("/".join("*" * depth))):
            if path.is_file() and path.name in name_of_file:
                files = folders.setdefault(path.parent, {})
                if name_of_file[path.name] not in files or path.name.endswith(SUFFIXES[0]):
                    files[name_of_file[path.name]] = path
    if not folders:
        raise DataError(
            f"{source}: expected a NIfTI file, or patients' folders with "
            f"{', '.join((*MODALITIES, MASK))}{SUFFIXES[0]} or {SUFFIXES[1]}, found no such file."
        )
    placed = [
        (folder.relative_to(source) if folder != source else Path(source.resolve().name), folder)
        for folder in folders
    ]
    placed.sort(key=lambda pair: [natural_key(part) for part in pair[0].parts])
    return [(at, PatientFiles(folder, folders[folder])) for at, folder in placed]


def read_scans(
    files: PatientFiles, data: DataSettings, dims: int, signed: Sequence[str] | None = None
) -> list[Scan]:
    """The scans of a patient as a training with these settings sees them, all their slices.

    Args:
        signed: what that training decided (`Prepared.signed`); None where it decided nothing. Each
            image then does so for itself under data.below_zero=auto.

    Raises:
        DataError: a file is missing or unusable; which and why.
    """
    names: Sequence[str] = GROUPS[data.group]
    if data.group == "multi_modality":
        names = [name for name in names if name in files.files] or names[:1]
    masks = data.group == MASK
    # A mask that is not used may be broken.
    paths = {name: path for name, path in files.files.items() if masks or name != MASK}
    chosen = PatientFiles(files.folder, paths)
    images = [] if masks else names
    patient = read_patient(chosen, images, require_seg=masks, require_lesions=False)
    if not masks:
        volumes = {name: _scaled(patient, name, data, signed) for name in names}
    elif patient.mask is not None:
        volumes = {MASK: _Scaled(patient.mask.astype(np.float32))}
    else:
        raise DataError(f"{files.folder}: expected a mask, found none.")
    together = [tuple(names)] if data.group == "dual" else [(name,) for name in names]
    return [
        _on_grid(part, [volumes[name] for name in part], patient.affine, data, dims)
        for part in together
    ]


def _scaled(
    patient: Patient, name: str, data: DataSettings, signed: Sequence[str] | None
) -> _Scaled:
    values, path = patient.images[name], patient.files[name]
    keeps = keeps_negatives(values, name, data.below_zero, signed)
    low, high = data.low_percentile, data.high_percentile
    try:
        unit = normalise(values, data.normalise, low, high, signed=keeps)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    negative = bool(values.min() < 0)
    decided = data.below_zero == "auto" and negative
    unlike = ((path, keeps),) if decided and is_signed(values) != keeps else ()
    return _Scaled(unit, negative, negative and not keeps, unlike)


def _on_grid(
    names: tuple[str, ...],
    volumes: Sequence[_Scaled],
    affine: Float64,
    data: DataSettings,
    dims: int,
) -> Scan:
    space = data.space(dims)
    height, width = space[-2:]
    depth, *plane = volumes[0].values.shape
    wanted = space[0] if dims == 3 else depth
    sides = fitted(plane, (height, width), data.fit)
    channels = []
    for each in volumes:
        volume = pad_planes(each.values, sides)
        if names == (MASK,):
            mask = resize_mask(volume > 0.5, height, width)
            channels.append(fit_depth(mask, wanted, "zero").astype(np.float32))
        else:
            small = resize_image(volume, height, width)
            channels.append(fit_depth(small, wanted, data.depth_padding))
    image = np.stack(channels)
    surplus = depth - wanted
    before = max(-surplus, 0) // 2
    inside = slice(before, before + min(depth, wanted))
    first = (max(surplus, 0) // 2, *first_inside(plane, sides))
    return Scan(
        names,
        image,
        inside,
        affine @ index_change(first, sides, (height, width)),
        max(surplus, 0),
        sum(each.negative for each in volumes),
        sum(each.clipped for each in volumes),
        tuple(pair for each in volumes for pair in each.unlike),
    )
