"""First guesses for the pixels of a hole, so that a small log residual can reach the truth.

A hole is exactly 0. With epsilon 1e-6 its logarithm is -13.8, and a residual bounded by 6 reaches
a radiance of 4e-4 at most: every hole stays black (004-M1). From a guess near the truth, 4 to 6
are enough.

Shapes: warped [B, 3, H, W] linear radiance; hole [B, 1, H, W], 1 = hole. Valid pixels are returned
as they are. A patch without a valid pixel has nothing to guess from and stays 0, whatever the
kind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PREFILLS = ("zero", "nearest", "push_pull", "median_log")

_COSTS_AT_ONCE = 1 << 24
"""How many distances `nearest_valid` compares at a time: 64 MiB in float32."""


def prefill(kind: str, warped: Tensor, hole: Tensor, eps: float) -> Tensor:
    """The patch [B, 3, H, W] with its holes filled.

    zero: left 0, as the source document does.
    nearest: the nearest valid pixel.
    push_pull: averages of a pyramid over the valid pixels (Gortler et al. 1996), of log radiance.
    median_log: one colour per patch, the median log radiance of the valid pixels that touch a
        hole; of all valid pixels where none does.
    """
    valid = hole < 0.5
    measured = torch.where(valid, warped, torch.zeros_like(warped))
    if kind == "zero":
        return measured
    if kind == "nearest":
        return _from_nearest(measured, valid)
    if kind not in PREFILLS:
        raise ValueError(f"prefill is one of {', '.join(PREFILLS)}, not {kind!r}.")
    fill = _push_pull if kind == "push_pull" else _median_of_ring
    filled = (fill((measured + eps).log(), valid).exp() - eps).clamp(min=0.0)
    guessable = valid.flatten(1).any(dim=1).view(-1, 1, 1, 1)
    return torch.where(valid, measured, torch.where(guessable, filled, torch.zeros_like(filled)))


def nearest_valid(valid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For every invalid pixel the nearest valid one, exactly, in Euclidean distance.

    Two passes (Saito & Toriwaki 1994): the nearest valid row within each column, then for each
    invalid pixel the column j with the least (x - j)^2 + (vertical distance there)^2.

    Args:
        valid: [B, H, W], bool.

    Returns:
        (pixels [N, 3] as (sample, y, x), rows [N], columns [N], squared distances [N]); the
        distance is inf where the sample has no valid pixel.
    """
    height, width = valid.shape[1:]
    rows = (
        torch.arange(height, device=valid.device, dtype=torch.float32)
        .view(1, -1, 1)
        .expand(valid.shape)
    )
    far = torch.full_like(rows, torch.inf)
    above = torch.where(valid, rows, -far).cummax(dim=1).values
    below = torch.where(valid, rows, far).flip(1).cummin(dim=1).values.flip(1)
    nearest_row = torch.where(rows - above <= below - rows, above, below)
    vertical = (nearest_row - rows) ** 2

    pixels = (~valid).nonzero()
    columns = torch.arange(width, device=valid.device, dtype=torch.float32)
    nearest = []
    for part in pixels.split(max(1, _COSTS_AT_ONCE // width)):
        sample, y, x = part.unbind(1)
        cost = (x[:, None] - columns) ** 2 + vertical[sample, y]
        distance, column = cost.min(dim=1)
        nearest.append((nearest_row[sample, y, column], column, distance))
    if not nearest:
        none = pixels.new_zeros(0)
        return pixels, none, none, none.float()
    row, column, distance = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    return pixels, row.clamp(0, height - 1).long(), column, distance


def _from_nearest(measured: Tensor, valid: Tensor) -> Tensor:
    pixels, rows, columns, _ = nearest_valid(valid[:, 0])
    sample, y, x = pixels.unbind(1)
    filled = measured.permute(0, 2, 3, 1).clone()
    filled[sample, y, x] = filled[sample, rows, columns]
    return filled.permute(0, 3, 1, 2).contiguous()


def _push_pull(log: Tensor, valid: Tensor) -> Tensor:
    """Push: averages of valid pixels, level by level. Pull: gaps from the coarser level."""
    weight = valid.to(log.dtype)
    value = log * weight
    levels = [(value, weight)]
    while max(value.shape[-2:]) > 1:
        total = F.avg_pool2d(value * weight, 2, ceil_mode=True)
        mass = F.avg_pool2d(weight, 2, ceil_mode=True)
        value = torch.where(mass > 0, total / mass, torch.zeros_like(total))
        weight = (4.0 * mass).clamp(max=1.0)  # one valid pixel of the four is enough to be trusted
        levels.append((value, weight))
    filled = torch.where(weight > 0, value, torch.nan)
    for value, weight in reversed(levels[:-1]):
        coarse = F.interpolate(filled, size=value.shape[-2:], mode="bilinear", align_corners=False)
        filled = weight * value + (1.0 - weight) * coarse
    return filled


def _median_of_ring(log: Tensor, valid: Tensor) -> Tensor:
    hole = (~valid).to(log.dtype)
    ring = (F.max_pool2d(hole, 3, stride=1, padding=1) - hole) > 0.5
    around = torch.where(ring, log, torch.nan).flatten(2).nanmedian(dim=2).values
    anywhere = torch.where(valid, log, torch.nan).flatten(2).nanmedian(dim=2).values
    return torch.where(around.isnan(), anywhere, around)[:, :, None, None].expand_as(log)
