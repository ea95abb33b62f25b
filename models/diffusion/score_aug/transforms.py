"""A plan of one transformation a sample, and the same transformation of any tensor of the sample:
noisy image, what is to be predicted of it, condition images.

Every transformation T is linear: T(alpha x_0 + sigma noise) = alpha T(x_0) + sigma T(noise), and
the target of T(x_t) is T of the target of x_t. Turns and flips leave the law of the noise as it
is; a shift, a cutout and a pattern leave zeros without noise, and a factor changes its variance.

The document is two-dimensional. In a volume turns are in the H-W plane, whose pixels are square,
flips are of any axis, shift and box have three axes, and a pattern is that of every slice.

Shapes: B samples, C channels, `*S` (H, W) or (D, H, W) with n axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.score_aug.patterns import masks

MODALITY_FACTORS = (0.85, 1.15, 0.92, 1.08, 1.0)
"""Of bravo, flair, t1_pre and t1_gd, the document's, which it has turned off; and of a mask."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done to each sample, in this order: turn, flip, shift, box or pattern, factor. What
    is None is not done to any.

    Attributes:
        dimensions: n.
        turns: int64 [B], quarter turns from H to W as `np.rot90` counts them, 0 ... 3.
        flip: int64 [B], the axis that is flipped, counted from the last: 1 is W, 2 is H, 3 is D; 0
            where none is.
        shift: float32 [B, n], shares of the sides; 0 where there is none.
        box: float32 [B, n, 2], beginning and length, shares of the sides; lengths of 0 where there
            is none.
        pattern: int64 [B], its number; -1 where there is none.
        factor: float32 [B]; 1 where there is none.
        needs_square: whether the draw knew quarter turns.
    """

    dimensions: int
    turns: Tensor
    flip: Tensor
    shift: Tensor | None = None
    box: Tensor | None = None
    pattern: Tensor | None = None
    factor: Tensor | None = None
    needs_square: bool = False

    def __len__(self) -> int:
        return len(self.turns)

    def to(self, device: torch.device) -> Plan:
        """The plan on a device."""
        names = ("turns", "flip", "shift", "box", "pattern", "factor")
        tensors = {name: getattr(self, name) for name in names}
        moved = {name: t.to(device) for name, t in tensors.items() if t is not None}
        return dataclasses.replace(self, **moved)

    @property
    def is_spatial(self) -> Tensor:
        """Bool [B]: turned, flipped or both."""
        return (self.turns > 0) | (self.flip > 0)

    @property
    def is_shifted(self) -> Tensor:
        return self._none if self.shift is None else (self.shift != 0.0).any(dim=1)

    @property
    def is_cut(self) -> Tensor:
        return self._none if self.box is None else (self.box[..., 1] > 0.0).any(dim=1)

    @property
    def has_pattern(self) -> Tensor:
        return self._none if self.pattern is None else self.pattern >= 0

    @property
    def is_scaled(self) -> Tensor:
        return self._none if self.factor is None else self.factor != 1.0

    @property
    def is_identity(self) -> Tensor:
        done = self.is_spatial | self.is_shifted | self.is_cut | self.has_pattern | self.is_scaled
        return ~done

    @property
    def _none(self) -> Tensor:
        return torch.zeros_like(self.turns, dtype=torch.bool)


def unchanged(count: int, dimensions: int, device: torch.device | None = None) -> Plan:
    """The plan that does nothing: that of validation and of generating."""
    zeros = torch.zeros(count, dtype=torch.int64, device=device)
    return Plan(dimensions=dimensions, turns=zeros, flip=zeros)


def symmetries(
    rotation: bool, flip: bool, dimensions: int, *, combined: bool = True
) -> tuple[tuple[int, int], ...]:
    """(turns, flip) of every turn, of every flip and, if `combined`, of the flips along W after a
    quarter turn: with them all symmetries of a square but the identity.
    """
    turned = [(turns, 0) for turns in (1, 2, 3)] if rotation else []
    flipped = [(0, axis) for axis in range(1, dimensions + 1)] if flip else []
    both = [(1, 1), (3, 1)] if rotation and flip and combined else []
    return (*turned, *flipped, *both)


def apply(plan: Plan, x: Tensor, *, intensity: bool = False) -> Tensor:
    """x [B, C, *S] transformed; what comes in from outside and what is dropped is 0.

    Args:
        intensity: multiply by the factor as well: noisy images and what is predicted of them, and
            nothing else.

    Raises:
        ValueError: a tensor that the plan is not for.
    """
    sides = tuple(x.shape[2:])
    if len(x) != len(plan) or len(sides) != plan.dimensions:
        raise ValueError(
            f"this plan is for {len(plan)} samples with {plan.dimensions} axes, not for "
            f"{list(x.shape)}. Draw one with these seeds and sides."
        )
    if plan.needs_square and sides[-2] != sides[-1]:
        raise ValueError(f"quarter turns need H = W, not {sides}. Draw without rotation.")
    plan = plan.to(x.device)
    places, inside = _sources(plan, sides)
    index = places.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    moved = x.flatten(2).gather(2, index).unflatten(2, sides)
    dropped = _dropped(plan, sides)
    if inside is not None:
        dropped = ~inside if dropped is None else dropped | ~inside
    if dropped is not None:
        moved = moved.masked_fill(dropped[:, None], 0)
    if not intensity or plan.factor is None:
        return moved
    return moved * _column(plan.factor, x.ndim).to(x.dtype)


def by_modality(x: Tensor, modes: Tensor) -> Tensor:
    """The noisy image [B, C, *S] times the factor of its modality.

    What is predicted stays, so the network must be given this wherever it is called, in generating
    as well.

    Args:
        modes: int64 [B], the place of the modality in `MODALITIES`, or `len(MODALITIES)` of masks.
    """
    factors = torch.tensor(MODALITY_FACTORS, device=x.device, dtype=x.dtype)
    return x * _column(factors[modes.to(x.device)], x.ndim)


def _sources(plan: Plan, sides: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """(where in the flattened image the value of a place comes from, int64 [B, *S]; whether that
    is inside, bool [B, *S], or None where all are).
    """
    at, inside = _grid(sides, plan.turns.device), None
    if plan.shift is not None:
        for axis, side in enumerate(sides):
            cells = torch.round(plan.shift[:, axis] * side).long()
            come = at[axis] - _column(cells, len(sides) + 1)
            here = (come >= 0) & (come < side)
            inside = here if inside is None else inside & here
            at[axis] = come.clamp(0, side - 1)
    flip, turns = (_column(tensor, len(sides) + 1) for tensor in (plan.flip, plan.turns))
    for axis, side in enumerate(sides):
        at[axis] = torch.where(flip == len(sides) - axis, side - 1 - at[axis], at[axis])
    h, w = at[-2], at[-1]
    last_h, last_w = sides[-2] - 1, sides[-1] - 1
    rows = torch.where(turns == 1, w, torch.where(turns == 3, last_h - w, h))
    columns = torch.where(turns == 1, last_w - h, torch.where(turns == 3, h, w))
    at[-2] = torch.where(turns == 2, last_h - h, rows)
    at[-1] = torch.where(turns == 2, last_w - w, columns)
    places = torch.zeros((), dtype=torch.int64, device=plan.turns.device)
    for axis, side in enumerate(sides):
        places = places * side + at[axis]
    return places.expand(len(plan), *sides), inside


def _dropped(plan: Plan, sides: Sequence[int]) -> Tensor | None:
    """Bool [B, *S]: what lies in the box or in the pattern; None where there is neither."""
    dropped = None
    if plan.box is not None:
        dropped = _column(plan.is_cut, len(sides) + 1)
        for axis, (side, at) in enumerate(zip(sides, _grid(sides, plan.box.device), strict=True)):
            length = torch.round(plan.box[:, axis, 1] * side).long().clamp(min=1)
            begin = torch.round(plan.box[:, axis, 0] * side).long().minimum(side - length)
            begin, length = (_column(tensor, len(sides) + 1) for tensor in (begin, length))
            dropped = dropped & (at >= begin) & (at < begin + length)
    if plan.pattern is not None:
        drawn = masks(sides[-2], sides[-1], plan.pattern.device)[plan.pattern.clamp(min=0)]
        drawn = drawn & _column(plan.has_pattern, 3)
        drawn = drawn if len(sides) == 2 else drawn[:, None]
        dropped = drawn if dropped is None else dropped | drawn
    return dropped


def _grid(sides: Sequence[int], device: torch.device) -> list[Tensor]:
    """The coordinates of every axis, each [1, ..., side, ..., 1]."""
    last = len(sides) - 1
    return [
        torch.arange(side, device=device).view(*[1] * (axis + 1), side, *[1] * (last - axis))
        for axis, side in enumerate(sides)
    ]


def _column(values: Tensor, axes: int) -> Tensor:
    """[B] as [B, 1, ..., 1] with so many axes."""
    return values.view(-1, *[1] * (axes - 1))
