"""Random changes of images that leave the target as it is, or mix it as well.

What happens to a sample is a function of its index and its seed alone: neither the batch it is in
nor the device matters. The pixels are computed for a whole batch at once, and the given images
are never written to (000-M14: in-place changes of a data set that is kept on the GPU stay for
good).

Shapes: B samples, S side of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data.files import Float64
from settings.schema import Settings, setting

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_MASK = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class AugmentSettings(Settings):
    """`augment.*`. The outline of a sample is moved if two draws succeed, with `outer_probability`
    and `inner_probability` (by default for 0.5·0.8 = 0.4 of the samples); flip, shift, rotation
    and scale then have a draw each. Mix-up and noise have a draw each, independent of those. The
    resulting shares of samples are `net_probabilities`.
    """

    outer_probability: float = setting(0.5, "share of samples to consider", low=0.0, high=1.0)
    inner_probability: float = setting(
        0.8, "share of those whose outline is moved: by default 0.5·0.8 = 0.4", low=0.0, high=1.0
    )
    flip_symmetric: bool = setting(
        False,
        "declare that a mirrored image has the same target; flips are off without it (000-M13: a "
        "mirrored design has another result)",
    )
    flip_probability: float = setting(
        0.3, "of moved samples that toss a coin for a flip left to right", low=0.0, high=1.0
    )
    shift_probability: float = setting(0.5, "of moved samples that shift", low=0.0, high=1.0)
    shift_pixels: int = setting(
        1,
        "largest shift; on each axis a whole number from -this to this, 0 included",
        unit="pixels",
        low=0,
        high=64,
    )
    rotation_probability: float = setting(0.3, "of moved samples that turn", low=0.0, high=1.0)
    rotation_degrees: float = setting(
        5.0, "largest angle, either way", unit="degrees", low=0.0, high=180.0
    )
    scale_probability: float = setting(0.3, "of moved samples that scale", low=0.0, high=1.0)
    scale_change: float = setting(
        0.05, "largest change of size: 0.05 is 0.95 to 1.05", low=0.0, high=0.9
    )
    mixup_probability: float = setting(
        0.02, "share of samples that are mixed with another, targets too", low=0.0, high=1.0
    )
    mixup_alpha: float = setting(
        0.2, "the sample's own share is drawn from Beta(this, this)", low=0.01, high=100.0
    )
    noise_probability: float = setting(0.05, "share of samples with noise", low=0.0, high=1.0)
    noise_sigma: float = setting(
        0.01, "deviation of Gaussian noise; white is 1", low=0.0, high=1.0
    )

    @property
    def net_probabilities(self) -> dict[str, float]:
        """The share of all samples that each change is applied to, with the two draws included.

        By default: outline 0.4, flip 0 (0.06 where the symmetry is declared), shift 0.2 (of which
        one in nine is by 0 pixels), rotation 0.12, scale 0.12, mix-up 0.02, noise 0.05.
        """
        moved = self.outer_probability * self.inner_probability
        return {
            "outline": moved,
            "flip": moved * self.flip_probability * 0.5 if self.flip_symmetric else 0.0,
            "shift": moved * self.shift_probability,
            "rotation": moved * self.rotation_probability,
            "scale": moved * self.scale_probability,
            "mixup": self.mixup_probability,
            "noise": self.noise_probability,
        }


FIXED_VIEW = AugmentSettings(
    outer_probability=1.0,
    inner_probability=1.0,
    shift_probability=1.0,
    rotation_probability=1.0,
    scale_probability=1.0,
    mixup_probability=0.0,
    noise_probability=0.0,
)
"""The other view of a validation sample: always moved, never mixed nor flipped, and the same for
every trial whatever its own augmentation, so that their consistency scores are comparable.
"""


@dataclass(frozen=True)
class Draws:
    """What happens to each sample of a batch; arrays [B].

    Attributes:
        flip: left and right are exchanged, before all else.
        angle_degrees: x is turned towards y, which is clockwise on a screen; about the middle.
        scale: above 1 is larger; about the middle.
        shift_pixels: [B, 2], (right, down), after all else.
        mixed, partner, own_share: whether the sample is mixed, with which of the training set,
            and how much of the sample stays.
        noise_seeds: of the noise; -1 for none.
    """

    moved: BoolArray
    flip: BoolArray
    angle_degrees: Float64
    scale: Float64
    shift_pixels: Float64
    mixed: BoolArray
    partner: IntArray
    own_share: Float64
    noise_seeds: IntArray

    @property
    def noisy(self) -> BoolArray:
        return self.noise_seeds >= 0

    @property
    def warped(self) -> BoolArray:
        """The samples whose outline really moves."""
        return (
            self.flip
            | (self.angle_degrees != 0.0)
            | (self.scale != 1.0)
            | self.shift_pixels.any(axis=1)
        )


def draw(
    settings: AugmentSettings, indices: Sequence[int], seeds: Sequence[int], size: int
) -> Draws:
    """What happens to the samples `indices` of a training set of `size` with those seeds.

    A sample that is mixed gets a partner from the whole set, never itself. A set of one sample
    has none, and is not mixed.
    """
    u = uniforms(seeds, 15).T
    moved = (u[0] < settings.outer_probability) & (u[1] < settings.inner_probability)
    flip = moved & (u[2] < settings.flip_probability) & (u[3] < 0.5) & settings.flip_symmetric
    shift = moved & (u[4] < settings.shift_probability)
    steps = np.floor(u[5:7] * (2 * settings.shift_pixels + 1)) - settings.shift_pixels
    turn = moved & (u[7] < settings.rotation_probability)
    angle = settings.rotation_degrees * (2.0 * u[8] - 1.0)
    resize = moved & (u[9] < settings.scale_probability)
    scale = 1.0 + settings.scale_change * (2.0 * u[10] - 1.0)
    mixed = (u[11] < settings.mixup_probability) & (size > 1)
    further = 1 + np.floor(u[12] * max(size - 1, 1)).astype(np.int64)
    partner = (np.asarray(indices, dtype=np.int64) + further) % size
    own_share = np.ones(len(moved))
    if mixed.any():
        own_share[mixed] = _beta(settings.mixup_alpha, u[14, mixed])
    noisy = (u[13] < settings.noise_probability) & (settings.noise_sigma > 0.0)
    own_seeds = np.array([int(seed) & (_MASK >> 1) for seed in seeds], dtype=np.int64)
    return Draws(
        moved=moved,
        flip=flip,
        angle_degrees=np.where(turn, angle, 0.0),
        scale=np.where(resize, scale, 1.0),
        shift_pixels=np.where(shift, steps, 0.0).T,
        mixed=mixed,
        partner=partner,
        own_share=own_share,
        noise_seeds=np.where(noisy, own_seeds, -1),
    )


def uniforms(seeds: Sequence[int], count: int) -> Float64:
    """Numbers [B, count] in [0, 1): row b is a function of seed b alone, column c of c.

    Hashed counters (splitmix64) rather than a generator for each sample, which costs 20 µs each.
    """
    keys = np.array([int(seed) & _MASK for seed in seeds], dtype=np.uint64)
    counters = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = _hash(_hash(keys)[:, None] + counters)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hash(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's output function; multiplication wraps around."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _beta(alpha: float, u: Float64) -> Float64:
    """Beta(alpha, alpha) at those quantiles."""
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, u)


def warp(images: Tensor, draws: Draws) -> Tensor:
    """The images [B, 1, S, S] flipped, turned, scaled and shifted, in one interpolation (bilinear;
    what comes in from outside is 0, the background). The given tensor itself where none moves.
    """
    chosen = np.flatnonzero(draws.warped)
    if not len(chosen):
        return images
    rows = torch.from_numpy(chosen).to(images.device)
    maps = torch.from_numpy(_maps(draws, images.shape[-1])[chosen]).to(images)
    changed = F.grid_sample(
        images[rows],
        _grid(maps, images.shape[-1]),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return _replaced(images, rows, changed.clamp_(0.0, 1.0))  # weights add up to 1 + rounding


def _maps(draws: Draws, side: int) -> Float64:
    """[B, 2, 3]: a pixel p of the result comes from q = F·R⁻¹·(p - t)/s, F the flip, R the turn, s
    the scale, t the shift; the middle of the image is 0, its outer edges are -1 and 1.
    """
    angle = np.radians(draws.angle_degrees)
    sign = np.where(draws.flip, -1.0, 1.0)
    cosine, sine = np.cos(angle) / draws.scale, np.sin(angle) / draws.scale
    turn = np.stack([sign * cosine, sign * sine, -sine, cosine], axis=-1).reshape(-1, 2, 2)
    shift = draws.shift_pixels[:, :, None] * 2.0 / side
    return np.concatenate([turn, -turn @ shift], axis=-1)


def _grid(maps: Tensor, side: int) -> Tensor:
    """[B, S, S, (x, y)]. Written out, because `affine_grid` multiplies matrices, and the last bit
    of a product depends on how many there are: a sample would depend on its batch.
    """
    place = (torch.arange(side, device=maps.device, dtype=maps.dtype) + 0.5) * (2.0 / side) - 1.0
    across = maps[:, None, None, :, 0] * place[:, None] + maps[:, None, None, :, 2]
    return across + maps[:, None, None, :, 1] * place[:, None, None]


def blend(values: Tensor, partners: Tensor, draws: Draws) -> Tensor:
    """own_share·value + (1 - own_share)·partner for the mixed samples. `values` are [B, ...],
    `partners` [mixed samples, ...] those of the mixed samples alone.
    """
    rows = torch.from_numpy(np.flatnonzero(draws.mixed)).to(values.device)
    share = torch.from_numpy(draws.own_share[draws.mixed]).to(values)
    share = share.view(-1, *[1] * (values.dim() - 1))
    return _replaced(values, rows, share * values[rows] + (1.0 - share) * partners)


def add_noise(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    """Gaussian noise on the samples that have a seed for it, cut to [0, 1] as an image file would
    be. Drawn on the CPU, so that it does not depend on the device. The given tensor itself where
    none has noise.
    """
    chosen = np.flatnonzero(draws.noisy)
    if not len(chosen):
        return images
    shape = tuple(images.shape[1:])
    noise = np.stack(
        [
            np.random.default_rng(int(seed)).standard_normal(shape, dtype=np.float32)
            for seed in draws.noise_seeds[chosen]
        ]
    )
    rows = torch.from_numpy(chosen).to(images.device)
    noisy = images[rows] + sigma * torch.from_numpy(noise).to(images)
    return _replaced(images, rows, noisy.clamp_(0.0, 1.0))


def _replaced(values: Tensor, rows: Tensor, values_there: Tensor) -> Tensor:
    """A copy with those rows replaced."""
    copy = values.clone()
    copy[rows] = values_there
    return copy
