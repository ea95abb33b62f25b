"""The t that a training draws: a law, moved by resolution, by a curriculum and by jitter.

Shapes: B samples; seeds int64 [B]; t [B] in [0, 1], 0 clean, 1 noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.diffusion.strategies.settings import CurriculumSettings, TransformSettings
from models.draws import draw_normal, draw_uniform


def logit_normal_times(seeds: Tensor, mean: float, std: float) -> Tensor:
    """Float64 [B]: the sigmoid of a normal number (arXiv 2403.03206, equation 19)."""
    return torch.sigmoid(mean + std * draw_normal(seeds, "time").double())


def uniform_times(seeds: Tensor) -> Tensor:
    """Float64 [B] in [0, 1)."""
    return draw_uniform(seeds, "time").double()


def window(
    settings: CurriculumSettings, progress: float | Tensor
) -> tuple[float | Tensor, float | Tensor]:
    """(low, high) of the curriculum: numbers, or float [B] as the progress is.

    Args:
        progress: from 0 at the start to 1 at the end of the curriculum and ever after.
    """
    low = settings.low_start + (settings.low_end - settings.low_start) * progress
    high = settings.high_start + (settings.high_end - settings.high_start) * progress
    return low, high


def jittered(t: Tensor, seeds: Tensor, std: float, form: str = "reflected") -> Tensor:
    """t and normal noise: reflected at 0 and at 1 as often as needed, or clamped to [0, 1]."""
    moved = t + std * draw_normal(seeds, "jitter").to(t)
    if form == "clamped":
        return moved.clamp(0.0, 1.0)
    return 1.0 - (1.0 - torch.remainder(moved, 2.0)).abs()


def on_grid(t: Tensor, steps: int) -> Tensor:
    """The next of 1/steps, ..., 1 that is not below t: of uniform t each is equally likely."""
    return torch.ceil(t * steps).clamp(1, steps) / steps


def resolution_ratio(settings: TransformSettings, sides: Sequence[int]) -> float:
    """r of `shift_time` for what is noised, whose sides these are: scale (cells /
    base_cells)^(1 / dims).

    001-M5: with the size itself as the base nothing ever moved; and the cells are those of the
    space, 32 x 32 for the latent of an image of 256 x 256 at a factor of 8.
    """
    if not settings.enabled:
        return 1.0
    if settings.base == "own":
        return settings.scale
    if not sides or min(sides) < 1:
        raise ValueError(
            f"strategy.rflow.transform needs the sides of what is noised, not {tuple(sides)}. "
            "Give *S of x [B, C, *S]."
        )
    return settings.scale * (math.prod(sides) / settings.base_cells) ** (1.0 / len(sides))
