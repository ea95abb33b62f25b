"""Latents bent by smooth random displacements, as sources of a training whose results may move.

Shapes: B samples; x [B, C, H, W].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.draws import draw_normal

KNOTS = 4
"""Along each side of the grid on which displacements are drawn."""


def displacements(seed: Tensor, size: tuple[int, int], bend: float) -> Tensor:
    """Rows and columns [B, 2, H, W] by which each cell looks elsewhere, in cells: normal at 4 x 4
    knots with deviation `bend`, bilinear between them.
    """
    knots = bend * draw_normal(seed, "flow.bend", (2, KNOTS, KNOTS))
    return F.interpolate(knots, size=size, mode="bilinear", align_corners=True)


def bent(x: Tensor, seed: Tensor, bend: float) -> Tensor:
    """x at the displaced cells, bilinear between its own and reflected at the edges; drawn by the
    samples' seeds. With a bend of 0 it is x.
    """
    if not bend:
        return x
    height, width = x.shape[2:]
    moved = displacements(seed, (height, width), bend)
    rows = torch.arange(height, device=x.device)[:, None] + moved[:, 0]
    columns = torch.arange(width, device=x.device) + moved[:, 1]
    # grid_sample counts from -1 at the first cell's centre to 1 at the last one's.
    places = torch.stack([columns * 2.0 / (width - 1), rows * 2.0 / (height - 1)], dim=-1) - 1.0
    return F.grid_sample(
        x, places.to(x.dtype), mode="bilinear", padding_mode="reflection", align_corners=True
    )
