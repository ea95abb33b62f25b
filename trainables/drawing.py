"""Figures as rows of images, for `System.picture`, and PNG files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PICTURED = 8
"""Images of a row."""


def rows(*images: Tensor) -> Tensor:
    """One row each, of its first images side by side. [n, 1 or 3, H, W] each, in [0, 1] ->
    [3, rows H, n W]
    """
    drawn = [row[:PICTURED].float().clamp(0.0, 1.0) for row in images]
    grid = torch.cat([torch.cat(list(row), dim=2) for row in drawn], dim=1)
    return grid.expand(3, -1, -1)


def scaled(values: Tensor, like: Tensor) -> Tensor:
    """Values [n, ...] from the least to the greatest of each sample of `like`, as [0, 1]."""
    axes = tuple(range(1, like.ndim))
    low, high = like.amin(dim=axes, keepdim=True), like.amax(dim=axes, keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def flat(image: Tensor) -> Tensor:
    """Images [B, C, *S] as pictures [B C, 1, H, W] in [0, 1]: of a volume the middle slice."""
    if image.ndim == 5:
        image = image[:, :, image.shape[2] // 2]
    return image.float().flatten(0, 1)[:, None].clamp(0.0, 1.0)


def write_png(path: Path, image: Tensor) -> None:
    """[3, H, W], clipped to [0, 1]."""
    from PIL import Image

    pixels = image.clamp(0.0, 1.0).mul(255.0).round().byte().permute(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(path)
