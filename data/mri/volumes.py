"""From a patient's volumes to samples: intensities in [0, 1], the requested size, the slices worth
keeping.

Shapes: C channels; D, H, W the file's size, d, h, w that of the samples; H', W' the padded plane.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from data.files import DataError, Float32, Float64
from data.mri.files import Patient
from settings.mri import GROUPS, MASK, MODALITIES

BoolArray = NDArray[np.bool_]

_SIGNED_SHARE = 0.25
"""Of the 99th percentile: an image is signed where its 1st lies further below 0. Air in a CT is at
-1000, the undershoot of a spline at a few hundredths of what is bright.
"""


@dataclass(frozen=True)
class Rules:
    """How volumes become samples; the names are those of the settings.

    Attributes:
        space: (h, w) for slices, (d, h, w) for volumes.
        least_lesion: pixels or voxels below which a component is ignored.
        signed: under below_zero=auto, the modalities whose values below 0 are kept.
    """

    group: str
    space: tuple[int, ...]
    fit: str
    normalise: str
    below_zero: str
    low_percentile: float
    high_percentile: float
    slice_sum: float
    empty_masks: bool
    depth_padding: str
    require_seg: bool
    require_lesions: bool
    least_lesion: int
    signed: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """The modalities that are read, without the mask."""
        return tuple(name for name in GROUPS[self.group] if name != MASK)


@dataclass(frozen=True)
class Cut:
    """A sample of a patient.

    Attributes:
        image: float32 [C, *space] in [0, 1]; None where the mask is the image.
        mask: bool [*space].
        modality: index in MODALITIES of the first channel, len(MODALITIES) for the mask.
        spacing: mm per pixel in the order of `space`.
        slice: which slice of the patient it is, -1 for a volume.
        affine: [4, 4], from an index (d, h, w) of the sample to mm (right, anterior, superior); a
            slice is a volume of one slice here.
        inside: first and last + 1 of the sample's slices that the file has; others are padding.
    """

    image: Float32 | None
    mask: BoolArray
    modality: int
    spacing: tuple[float, ...]
    slice: int
    affine: Float64
    inside: tuple[int, int]


@dataclass
class CutCounts:
    """Counts of one patient besides its samples.

    Attributes:
        left_out: samples that were not worth keeping.
        emptied: masks with lesions of which nearest resizing or cropping left nothing.
        negative: images with values below 0.
        clipped: those of them whose values below 0 became 0.
        cropped, padded: slices by which the depth was cut or filled.
    """

    left_out: int = 0
    emptied: int = 0
    negative: int = 0
    clipped: int = 0
    cropped: int = 0
    padded: int = 0


def cut(patient: Patient, rules: Rules, counts: CutCounts) -> Iterator[Cut]:
    """The samples of a patient, modality after modality."""
    height, width = rules.space[-2:]
    before = np.zeros(grid_of(patient), np.bool_) if patient.mask is None else patient.mask
    plane = before.shape[1:]
    sides = fitted(plane, (height, width), rules.fit)
    mask = resize_mask(pad_planes(before, sides), height, width)
    spacing = resized_spacing(patient.spacing, (len(before), *sides), (height, width))
    inside = first_inside(plane, sides)
    affine = patient.affine @ index_change((0, *inside), sides, (height, width))
    for names in _samples_of(rules.group):
        image = None
        if names != (MASK,):
            channels = [scaled(patient, name, rules, counts) for name in names]
            padded = [pad_planes(channel, sides) for channel in channels]
            small = [resize_image(channel, height, width) for channel in padded]
            image = np.stack(small, axis=1)
        number = (*MODALITIES, MASK).index(names[0])
        whole = _Stack(image, mask, before, number, spacing, affine)
        yield from (_volume if len(rules.space) == 3 else _slices)(whole, rules, counts)


@dataclass(frozen=True)
class _Stack:
    """The slices of one sample group: image [D, C, h, w], mask [D, h, w] and as it was
    [D, H, W]; affine as that of a volume that is neither cropped nor padded.
    """

    image: Float32 | None
    mask: BoolArray
    before: BoolArray
    modality: int
    spacing: tuple[float, float, float]
    affine: Float64

    def from_slice(self, first: int) -> Float64:
        """The affine of what begins with that slice."""
        return self.affine @ index_change((first, 0, 0), (1, 1), (1, 1))


def grid_of(patient: Patient) -> tuple[int, ...]:
    """D, H, W."""
    images = iter(patient.images.values())
    return next(images).shape if patient.mask is None else patient.mask.shape


def _samples_of(group: str) -> Sequence[tuple[str, ...]]:
    """The channels of each sample that a slice or volume gives."""
    names = GROUPS[group]
    return [names] if group == "dual" else [(name,) for name in names]


def _slices(stack: _Stack, rules: Rules, counts: CutCounts) -> Iterator[Cut]:
    is_kept = _worth_keeping(stack, rules)
    counts.left_out += int(np.count_nonzero(~is_kept))
    had, has = (mask.any(axis=(1, 2)) for mask in (stack.before, stack.mask))
    counts.emptied += int(np.count_nonzero(had & ~has))
    for at in np.flatnonzero(is_kept):
        image = None if stack.image is None else stack.image[at]
        affine = stack.from_slice(int(at))
        yield Cut(
            image, stack.mask[at], stack.modality, stack.spacing[1:], int(at), affine, (0, 1)
        )


def _worth_keeping(stack: _Stack, rules: Rules) -> BoolArray:
    """Of every slice [D]: bright enough in all channels; of masks, whether there is a lesion."""
    if stack.image is not None:
        darkest = stack.image.sum(axis=(2, 3), dtype=np.float64).min(axis=1)
        return np.asarray(darkest > rules.slice_sum)
    if rules.empty_masks:
        return np.ones(len(stack.mask), np.bool_)
    return np.asarray(stack.mask.any(axis=(1, 2)))


def _volume(stack: _Stack, rules: Rules, counts: CutCounts) -> Iterator[Cut]:
    depth = rules.space[0]
    surplus = len(stack.mask) - depth
    counts.cropped += max(surplus, 0)
    counts.padded += max(-surplus, 0)
    # Padding is no tissue: a lesion in the last slice must not grow by it.
    mask = fit_depth(stack.mask, depth, "zero")
    counts.emptied += int(stack.before.any() and not mask.any())
    if stack.image is None and not rules.empty_masks and not mask.any():
        counts.left_out += 1
        return
    image = None
    if stack.image is not None:
        image = fit_depth(stack.image, depth, rules.depth_padding).swapaxes(0, 1)
    first = first_slice(len(stack.mask), depth)
    inside = max(-first, 0), max(-first, 0) + min(depth, len(stack.mask))
    yield Cut(image, mask, stack.modality, stack.spacing, -1, stack.from_slice(first), inside)


def scaled(patient: Patient, name: str, rules: Rules, counts: CutCounts) -> Float32:
    """One modality in [0, 1]."""
    values = patient.images[name]
    keeps = keeps_negatives(values, name, rules.below_zero, rules.signed)
    negative = bool(values.min() < 0)
    counts.negative += negative
    counts.clipped += negative and not keeps
    low, high = rules.low_percentile, rules.high_percentile
    try:
        return normalise(values, rules.normalise, low, high, signed=keeps)
    except ValueError as error:
        raise DataError(f"{patient.files[name]}: {error}") from error


def is_signed(values: Float32) -> bool:
    """Whether an image by itself has values below 0 that are values, as CT has, and no undershoot
    of an interpolation: its 1st percentile lies below minus a quarter of its 99th.
    """
    if values.min() >= 0:
        return False
    low, high = np.percentile(values, (1, 99))
    return bool(low < -_SIGNED_SHARE * high)


def keeps_negatives(
    values: Float32, name: str, below_zero: str, signed: Sequence[str] | None
) -> bool:
    """Whether an image's values below 0 are values, or else become 0.

    Args:
        name: its modality.
        below_zero: `keep` and `clip` say it of every image, `auto` by what the data set decided,
            `each` by whether one voxel lies below 0, as it was before there was a choice.
        signed: the modalities for which the data set decided to keep them; None where it has
            decided nothing, and the image does so for itself.
    """
    if below_zero == "each":
        return bool(values.min() < 0)
    if below_zero != "auto":
        return below_zero == "keep"
    return is_signed(values) if signed is None else name in signed


def normalise(values: Float32, kind: str, low: float, high: float, *, signed: bool) -> Float32:
    """A volume in [0, 1]: `percentile` maps those of the voxels above 0 to 0 and 1 and clips what
    lies outside, `min_max` maps the least and the greatest value.

    One bright voxel sets the scale of min_max (001-M20). Above 0 is the brain where the skull was
    stripped, since MRI has no negative values and stripping writes 0; where air was left in, its
    noise only shifts both percentiles down a little. Of a signed image (CT) those above its least
    value count instead; in any other, values below 0 (an interpolation's) become 0 first.

    Raises:
        ValueError: all those voxels hold one value.
    """
    given, values = values, values if signed else np.maximum(values, np.float32(0))
    if kind == "min_max":
        bottom, top = float(values.min()), float(values.max())
    else:
        brain = values[values > min(0.0, float(values.min()))]
        bottom, top = np.percentile(brain, (low, high)) if brain.size else (0.0, 0.0)
    if not top > bottom:
        changed = not signed and given.min() < 0
        why = "; those below 0 became 0 (data.below_zero)" if changed else ""
        raise ValueError(
            f"expected at least two values to scale to 0 and 1 (data.normalise={kind}), found "
            f"{bottom:g} throughout{why}."
        )
    unit = (values - np.float32(bottom)) / np.float32(top - bottom)
    return np.clip(unit, 0.0, 1.0).astype(np.float32)


def fitted(plane: Sequence[int], space: Sequence[int], fit: str) -> tuple[int, int]:
    """H', W' of the plane that is resized to `space` (h, w): that of the file where it is
    stretched, or else the smallest one of the shape h : w that holds [H, W], in pixels, so that
    the ratio of the spacings stays.
    """
    height, width = plane
    if fit == "stretch":
        return height, width
    scale = max(height / space[0], width / space[1])
    return max(height, round(scale * space[0])), max(width, round(scale * space[1]))


def first_inside(plane: Sequence[int], sides: Sequence[int]) -> tuple[int, int]:
    """Where in the padded plane (H', W') that of the file begins: it lies in the middle, and what
    does not divide by two goes to the end.
    """
    return (sides[0] - plane[0]) // 2, (sides[1] - plane[1]) // 2


def pad_planes(volume: NDArray[Any], sides: Sequence[int]) -> NDArray[Any]:
    """[D, H, W] -> [D, H', W'], with 0 around: the background of an image in 0 .. 1, and no lesion
    of a mask.
    """
    plane = volume.shape[1:]
    if plane == tuple(sides):
        return volume
    before = first_inside(plane, sides)
    ends = [(b, new - old - b) for b, old, new in zip(before, plane, sides, strict=True)]
    return np.pad(volume, [(0, 0), *ends])


def resize_image(volume: Float32, height: int, width: int) -> Float32:
    """[D, H, W] -> [D, h, w], linear; where the image shrinks, averaged over what a pixel
    covers.
    """
    if volume.shape[1:] == (height, width):
        return volume
    planes = torch.from_numpy(np.ascontiguousarray(volume))[:, None]
    small = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return small[:, 0].clamp_(0.0, 1.0).numpy()


def resize_mask(mask: BoolArray, height: int, width: int) -> BoolArray:
    """[D, H, W] -> [D, h, w]: the pixel in which the new one's centre lies (001-M20: interpolated
    masks have to be thresholded again).
    """
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for old, new in zip(mask.shape[1:], (height, width), strict=True)
    )
    return mask[:, rows[:, None], columns]


def resized_spacing(
    spacing: Sequence[float], shape: Sequence[int], space: Sequence[int]
) -> tuple[float, float, float]:
    """mm per pixel along D, h, w: the field of view stays."""
    d, h, w = spacing
    return d, h * shape[1] / space[0], w * shape[2] / space[1]


def index_change(first: Sequence[int], old: Sequence[int], new: Sequence[int]) -> Float64:
    """[4, 4]: an index (d, h, w) of the grid -> that of the file. A pixel is where its middle is:
    the outer borders of the padded plane and of the grid are the same.

    Args:
        first: the slice of the file that is the grid's first one, below 0 where it is padded, and
            the row and column of the padded plane where the file's begins.
        old, new: H', W' of the padded plane and h, w of the grid.
    """
    change = np.eye(4)
    change[0, 3] = first[0]
    for axis in (1, 2):
        ratio = old[axis - 1] / new[axis - 1]
        change[axis, axis], change[axis, 3] = ratio, 0.5 * ratio - 0.5 - first[axis]
    return change


def first_slice(slices: int, depth: int) -> int:
    """The slice of a file of so many with which `fit_depth` begins, below 0 where it pads."""
    surplus = slices - depth
    return surplus // 2 if surplus >= 0 else -(-surplus // 2)


def fit_depth(volume: NDArray[Any], depth: int, padding: str) -> NDArray[Any]:
    """[D, ...] -> [depth, ...] around the middle: cropped, or padded by its outermost slices
    (`replicate`) or by zeros (`zero`). What does not divide by two goes to the end.
    """
    surplus, first = len(volume) - depth, first_slice(len(volume), depth)
    if surplus >= 0:
        return volume[first : first + depth]
    ends = [(-first, first - surplus), *([(0, 0)] * (volume.ndim - 1))]
    return np.pad(volume, ends, mode="edge" if padding == "replicate" else "constant")
