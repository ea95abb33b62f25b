"""Sinusoids of a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIME_SCALE = 1000.0
"""Times in [0, 1] are multiplied by it before their sinusoids, whose angular frequencies are 1 to
1e-4: on [0, 1] itself most of them would be constant (002-M11).
"""


def sinusoids(time: Tensor, width: int, scale: float = TIME_SCALE) -> Tensor:
    """Float32 [B, width] of times in [0, 1]: cosines, then sines, of the angles
    scale * t * 10000^(-i / half) for i = 0 ... half - 1 (arXiv 2006.11239, B).
    """
    half = width // 2
    places = torch.arange(half, dtype=torch.float32, device=time.device)
    angles = scale * time.float()[:, None] * torch.exp(-math.log(10000.0) / half * places)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
