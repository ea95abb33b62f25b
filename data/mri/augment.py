"""Random changes of one brain-MRI sample, image and mask alike, slices and volumes.

Everything random comes from the generator that is given, and the given tensors are never written
to (000-M14). Flips and quarter turns copy pixels; all else that moves them is one interpolation,
linear for the image and nearest for the mask, so that a mask stays a mask (001-M20). Intensity
changes are for images only: a sample whose image is the mask (data.group=seg) has none.

Places are in mm from the middle of the image, so a turn is a turn where pixels are no squares.
Lesions are measured afterwards, on the mask that comes out.

Shapes: *S the space, (H, W) or (D, H, W); d its axes; P = (n_1, .., n_d) control points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from settings.mri import MODALITIES
from settings.schema import Settings, SettingsError, setting

Sample = dict[str, Tensor]

_SEG = len(MODALITIES)  # `modality` of a sample whose image is the mask

_REFERENCE_SIDE = 256  # pixels; what lengths of the elastic transform refer to

_INJECTIVE = 0.4
"""Largest displacement of control points, in their distance, at which a cubic B-spline never folds
(Choi and Lee, Graphical Models 62, 2000: 1/2.05 in 2-D, 1/2.48 in 3-D).
"""


@dataclass(frozen=True, kw_only=True)
class GeometrySettings(Settings):
    """The source's conservative augmentation, for diffusion."""

    flip_probability: float = setting(
        0.5, "of a flip left to right; volumes: of one along each axis", low=0.0, high=1.0
    )
    turn_probability: float = setting(
        0.5, "volumes only: of a turn by 90, 180 or 270 degrees in plane", low=0.0, high=1.0
    )
    rotation_probability: float = setting(0.5, "of a rotation in plane", low=0.0, high=1.0)
    rotation_degrees: float = setting(
        10.0, "largest angle, either way", unit="degrees", low=0.0, high=180.0
    )
    shift_scale_probability: float = setting(0.5, "of a shift and a scale", low=0.0, high=1.0)
    shift_share: float = setting(
        0.05, "largest shift along each axis, as a share of the side", low=0.0, high=1.0
    )
    scale_change: float = setting(
        0.0, "largest change of size: 0.1 is 0.9 to 1.1", low=0.0, high=0.9
    )


@dataclass(frozen=True, kw_only=True)
class VaeAugmentSettings(GeometrySettings):
    """The source's aggressive augmentation, for autoencoders."""

    rotation_degrees: float = setting(
        15.0, "largest angle, either way", unit="degrees", low=0.0, high=180.0
    )
    shift_share: float = setting(
        0.1, "largest shift along each axis, as a share of the side", low=0.0, high=1.0
    )
    scale_change: float = setting(
        0.1, "largest change of size: 0.1 is 0.9 to 1.1", low=0.0, high=0.9
    )
    elastic_probability: float = setting(0.2, "of a smooth bend", low=0.0, high=1.0)
    elastic_pixels: float = setting(
        4.0,
        "largest displacement of a control point along an axis, at a side of 256 pixels",
        unit="pixels",
        low=0.0,
        high=100.0,
    )
    elastic_spacing: float = setting(
        32.0,
        "distance of control points, at a side of 256 pixels",
        unit="pixels",
        low=4.0,
        high=256.0,
    )
    contrast_probability: float = setting(
        0.3, "of other brightness and contrast", low=0.0, high=1.0
    )
    brightness_change: float = setting(0.1, "largest sum added; white is 1", low=0.0, high=1.0)
    contrast_change: float = setting(
        0.1, "largest change of the factor: 0.1 is 0.9 to 1.1", low=0.0, high=1.0
    )
    blur_probability: float = setting(0.2, "of a Gaussian blur", low=0.0, high=1.0)
    blur_kernels: tuple[int, ...] = setting(
        (3, 5), "widths of the blur, odd, one of them each time", unit="pixels", low=3, high=31
    )
    noise_probability: float = setting(0.3, "of Gaussian noise", low=0.0, high=1.0)
    noise_sigmas: tuple[float, ...] = setting(
        (0.01, 0.05), "least and largest deviation of the noise; white is 1", low=0.0, high=1.0
    )

    def check(self) -> None:
        if self.elastic_pixels > _INJECTIVE * self.elastic_spacing:
            raise SettingsError(
                f"elastic_pixels must be at most {_INJECTIVE:g} of elastic_spacing "
                f"({self.elastic_spacing:g}), or the image folds over itself, not "
                f"{self.elastic_pixels:g}. Lower it to {_INJECTIVE * self.elastic_spacing:g}, or "
                "widen elastic_spacing."
            )
        if not self.blur_kernels or any(width % 2 == 0 for width in self.blur_kernels):
            raise SettingsError(
                f"blur_kernels takes odd numbers, at least one, not {list(self.blur_kernels)}. "
                "To have no blur, set blur_probability=0."
            )
        if len(self.noise_sigmas) != 2 or self.noise_sigmas[0] > self.noise_sigmas[1]:
            raise SettingsError(
                "noise_sigmas takes the least and the largest deviation, not "
                f"{list(self.noise_sigmas)}."
            )


@dataclass(frozen=True, kw_only=True)
class AugmentSettings(Settings):
    """`augment.*`; every number is the source's, but for `elastic_pixels` and `elastic_spacing`
    (its strength is that of a library's own scale) and `turn_probability` (it names none).
    """

    kind: str = setting(
        "vae",
        "diffusion: flips and small moves; vae: larger ones, bends, contrast, blur and noise",
        choices=("none", "diffusion", "vae"),
    )
    volumes: str = setting(
        "flips",
        "what happens to volumes; flips: only flips and quarter turns, as in the source; all: "
        "what happens to slices, too",
        choices=("flips", "all"),
    )
    diffusion: GeometrySettings = field(default_factory=GeometrySettings)
    vae: VaeAugmentSettings = field(default_factory=VaeAugmentSettings)


class _Dice:
    """Random draws in a fixed order, a fixed number for each question: a changed probability does
    not change what else happens to a sample.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        drawn = torch.rand((), generator=self.generator, dtype=torch.float64)
        return low + (high - low) * float(drawn)

    def coin(self, probability: float) -> bool:
        return self.uniform(0.0, 1.0) < probability

    def within(self, largest: float) -> float:
        return self.uniform(-largest, largest)

    def below(self, count: int) -> int:
        return min(int(self.uniform(0.0, count)), count - 1)


def augment(sample: Sample, settings: AugmentSettings, generator: Generator) -> Sample:
    """A changed copy of a sample `image` [C, *S], `mask` [1, *S], `modality`, `spacing` [d] in mm;
    what stays as it was may be the given tensor itself.
    """
    if settings.kind == "none":
        return dict(sample)
    changes = settings.vae if settings.kind == "vae" else settings.diffusion
    dice = _Dice(generator)
    volume = sample["image"].dim() == 4
    changed = _flipped(sample, changes, dice, volume)
    if volume and settings.volumes == "flips":
        return changed
    is_mask = int(sample["modality"]) == _SEG
    places = _places(changed["mask"].shape[1:], changed["spacing"], changes, dice)
    if places is not None:
        changed["mask"] = _sample(changed["mask"], places, "nearest")
        if not is_mask:
            changed["image"] = _sample(changed["image"], places, "bilinear").clamp_(0.0, 1.0)
    if is_mask:
        changed["image"] = changed["mask"].clone()
    elif isinstance(changes, VaeAugmentSettings):
        changed["image"] = _intensity(changed["image"], changes, dice)
    return changed


def _flipped(sample: Sample, settings: GeometrySettings, dice: _Dice, volume: bool) -> Sample:
    """Flips, and in volumes quarter turns. Where H and W differ only a half turn fits; a turn by
    90 or 270 degrees exchanges the spacing of H and W as well.
    """
    axes = (-3, -2, -1) if volume else (-1,)
    flips = [axis for axis in axes if dice.coin(settings.flip_probability)]
    quarters = 0
    if volume and dice.coin(settings.turn_probability):
        quarters = 1 + dice.below(3)
        if sample["image"].shape[-1] != sample["image"].shape[-2]:
            quarters = 2
    changed = dict(sample)
    if flips or quarters:
        for name in ("image", "mask"):
            changed[name] = torch.rot90(sample[name].flip(flips), quarters, (-2, -1)).contiguous()
    if quarters % 2:
        changed["spacing"] = sample["spacing"][[0, 2, 1]]
    return changed


def _places(
    space: Sequence[int], spacing: Tensor, settings: GeometrySettings, dice: _Dice
) -> Tensor | None:
    """Where each pixel of the result comes from: [*S, d], axes in reversed order (x first), the
    outer edges of the image at -1 and 1; None where all stay. A pixel at p mm comes from
    q = R⁻¹·(p + bend(p) - shift) / scale.
    """
    angle = dice.within(settings.rotation_degrees)
    turns = dice.coin(settings.rotation_probability)
    moves = dice.coin(settings.shift_scale_probability)
    scale = 1.0 + dice.within(settings.scale_change)
    shares = [dice.within(settings.shift_share) for _ in space]
    bend = None
    if isinstance(settings, VaeAugmentSettings) and dice.coin(settings.elastic_probability):
        bend = _bend(space, spacing, settings, dice.generator)
    if not (turns or moves) and bend is None:
        return None
    extent = torch.tensor([n * float(mm) for n, mm in zip(space, spacing, strict=True)])
    steps = [(torch.arange(n) + 0.5) * (e / n) - e / 2 for n, e in zip(space, extent, strict=True)]
    place = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1)
    if bend is not None:
        place = place + bend
    if moves:
        place = (place - torch.tensor(shares) * extent) / scale
    if turns:
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        *depth, y, x = place.unbind(-1)
        place = torch.stack([*depth, cosine * y - sine * x, sine * y + cosine * x], dim=-1)
    return (place / (extent / 2)).flip(-1)


def _bend(
    space: Sequence[int], spacing: Tensor, settings: VaeAugmentSettings, generator: Generator
) -> Tensor:
    """Displacements [*S, d] in mm: a free-form deformation by uniform cubic B-splines (Rueckert et
    al., IEEE TMI 18, 1999) of control points that each move by up to `elastic_pixels` along every
    axis. No pixel moves further than that, for the weights of a B-spline are a share each.
    """
    pixel = space[-1] / _REFERENCE_SIDE * float(spacing[-1])  # mm per pixel at 256
    weights = [
        _spline_weights(n, n * float(mm) / (settings.elastic_spacing * pixel))
        for n, mm in zip(space, spacing, strict=True)
    ]
    shape = (len(space), *(w.shape[1] for w in weights))
    moved = 2.0 * torch.rand(shape, generator=generator) - 1.0  # [d, *P]
    for weight in weights:  # an axis of P goes, its axis of S comes last
        moved = torch.tensordot(moved, weight, dims=([1], [1]))
    return moved.movedim(0, -1) * (settings.elastic_pixels * pixel)


def _spline_weights(count: int, cells: float) -> Tensor:
    """[count, n]: of each control point at each of `count` pixel centres that `cells` distances of
    control points reach over. A pixel has four that are not 0, and they sum to 1.
    """
    place = (torch.arange(count) + 0.5) * (cells / count)
    points = torch.arange(math.ceil(cells) + 3) - 1.0
    away = (place[:, None] - points).abs()
    near = 2.0 / 3.0 - away**2 + away**3 / 2.0
    far = (2.0 - away).clamp(min=0.0) ** 3 / 6.0
    return torch.where(away < 1.0, near, far)


def _sample(values: Tensor, places: Tensor, mode: str) -> Tensor:
    """[C, *S] at those places; what comes in from outside is 0, the background."""
    return F.grid_sample(
        values[None], places[None], mode=mode, padding_mode="zeros", align_corners=False
    )[0]


def _intensity(image: Tensor, settings: VaeAugmentSettings, dice: _Dice) -> Tensor:
    """Contrast and brightness, blur, noise; cut to [0, 1]."""
    contrasts = dice.coin(settings.contrast_probability)
    factor = 1.0 + dice.within(settings.contrast_change)
    added = dice.within(settings.brightness_change)
    blurs = dice.coin(settings.blur_probability)
    width = settings.blur_kernels[dice.below(len(settings.blur_kernels))]
    noisy = dice.coin(settings.noise_probability)
    sigma = dice.uniform(*settings.noise_sigmas)
    if contrasts:
        image = image * factor + added
    if blurs:
        image = _blurred(image, width)
    if noisy:
        image = image + sigma * torch.randn(image.shape, generator=dice.generator)
    return image.clamp(0.0, 1.0) if contrasts or noisy else image


def _blurred(image: Tensor, width: int) -> Tensor:
    """A Gaussian of `width` pixels along every axis of [C, *S], its deviation OpenCV's for that
    width (`getGaussianKernel`: 0.8 for 3, 1.1 for 5); borders repeat.
    """
    half = width // 2
    kernel = torch.exp(-0.5 * ((torch.arange(width) - half) / (0.3 * (half - 1) + 0.8)) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    for axis in range(1, image.dim()):
        last = image.movedim(axis, -1)
        rows = F.pad(last.reshape(-1, 1, last.shape[-1]), (half, half), mode="replicate")
        image = F.conv1d(rows, kernel).reshape(last.shape).movedim(-1, axis)
    return image.contiguous()
