"""The plan of a training's samples, drawn by their seeds: one stream for each thing that is drawn.

Shapes: B samples; seeds int64 [B]; n axes of `*S`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.diffusion.score_aug.settings import ScoreAugSettings
from models.diffusion.score_aug.transforms import Plan, symmetries
from models.draws import draw_integers, draw_uniform


def draw_plan(settings: ScoreAugSettings, seeds: Tensor, sides: Sequence[int]) -> Plan:
    """One transformation a sample.

    Args:
        seeds: int64 [B], the samples' own; with `per=batch`, which makes of the first one a draw
            for all, the update's (`update_seed`), so that it is that of every worker.
        sides: `*S` of what is diffused.

    Raises:
        SettingsError: sides that cannot be transformed so.
    """
    settings.check_sides(sides)
    if settings.per == "batch":
        seeds = seeds[:1].expand(len(seeds))
    active, dimensions = _active(settings, seeds), len(sides)
    table = symmetries(settings.rotation, settings.flip, dimensions)
    turns, flip = draw_symmetry(seeds, "score_aug.spatial", table, active.get("spatial"))
    return Plan(
        dimensions=dimensions,
        turns=turns,
        flip=flip,
        shift=_shift(settings, seeds, dimensions, active.get("translation")),
        box=_box(settings, seeds, dimensions, active.get("cutout")),
        pattern=_pattern(settings, seeds, active.get("pattern")),
        factor=_factor(settings, seeds, active.get("brightness")),
        needs_square=settings.rotation,
    )


def draw_symmetry(
    seeds: Tensor, stream: str, table: Sequence[tuple[int, int]], active: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(turns, flip), int64 [B] each: a row of the table, all equally likely, or zeros.

    Args:
        active: bool [B], which samples have one; None where none has.
    """
    if active is None or not table:
        zeros = torch.zeros_like(seeds)
        return zeros, zeros
    rows = torch.tensor(table, device=seeds.device)[draw_integers(seeds, stream, len(table))]
    turns, flip = (rows * active[:, None]).unbind(dim=1)
    return turns, flip


def _active(settings: ScoreAugSettings, seeds: Tensor) -> dict[str, Tensor]:
    """Name -> bool [B] of the samples that have it."""
    names = settings.names
    if settings.kind == "single":
        which = draw_integers(seeds, "score_aug.kind", len(names) + 1)
        return {name: which == place for place, name in enumerate(names, 1)}
    is_v2 = settings.kind == "v2"
    probability = settings.v2.nondestructive if is_v2 else settings.compose_probability
    active = {name: draw_uniform(seeds, f"score_aug.has_{name}") < probability for name in names}
    if is_v2:
        destroyed = draw_uniform(seeds, "score_aug.destructive") < settings.v2.destructive
        is_cut = draw_uniform(seeds, "score_aug.destroys_by") < settings.v2.cutout_share
        if settings.draws_cutouts:
            active["cutout"] = destroyed & is_cut
        if settings.draws_patterns:
            active["pattern"] = destroyed & ~is_cut
    return active


def _shift(
    settings: ScoreAugSettings, seeds: Tensor, dimensions: int, active: Tensor | None
) -> Tensor | None:
    if active is None:
        return None
    ranges = torch.tensor(settings.translation.ranges(dimensions), device=seeds.device)
    drawn = 2.0 * draw_uniform(seeds, "score_aug.translation", (dimensions,)) - 1.0
    return drawn * ranges * active[:, None]


def _box(
    settings: ScoreAugSettings, seeds: Tensor, dimensions: int, active: Tensor | None
) -> Tensor | None:
    """Each side by itself, the place uniform among those where the box lies in the image."""
    if active is None:
        return None
    least, most = settings.cutout.least, settings.cutout.most
    sides = draw_uniform(seeds, "score_aug.cutout_sides", (dimensions,))
    lengths = least + (most - least) * sides
    begins = draw_uniform(seeds, "score_aug.cutout_place", (dimensions,)) * (1.0 - lengths)
    return torch.stack([begins, lengths], dim=2) * active[:, None, None]


def _pattern(settings: ScoreAugSettings, seeds: Tensor, active: Tensor | None) -> Tensor | None:
    if active is None:
        return None
    ids = torch.tensor(settings.v2.patterns.ids, device=seeds.device)
    drawn = ids[draw_integers(seeds, "score_aug.pattern", len(ids))]
    return torch.where(active, drawn, -1)


def _factor(settings: ScoreAugSettings, seeds: Tensor, active: Tensor | None) -> Tensor | None:
    if active is None:
        return None
    largest = math.log(settings.brightness.largest)
    drawn = (2.0 * draw_uniform(seeds, "score_aug.brightness") - 1.0) * largest
    return torch.where(active, drawn.exp(), 1.0)
