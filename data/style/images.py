"""Crops as the images of an autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.files import Float32

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey of equal brightness (ITU-R 601)."""


class CropImages(Dataset[dict[str, Tensor]]):
    """`image` float32 [3, S, S] in [0, 1], of one split; nothing about it is random."""

    def __init__(self, path: Path) -> None:
        """Args: path: .npy of the crops of the split [N, 3, S, S] in [-1, 1]."""
        self.path = path
        self._crops: Float32 | None = None

    @property
    def crops(self) -> Float32:
        """[N, 3, S, S] in [-1, 1], a view of the file."""
        if self._crops is None:
            self._crops = np.load(self.path, mmap_mode="r")
        return self._crops

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        index = key[0] if isinstance(key, tuple) else key
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path.name} has samples 0 .. {len(self) - 1}, not {index}")
        return {"image": to_unit(torch.from_numpy(np.array(self.crops[index])))}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_crops": None}


def to_unit(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]"""
    return 0.5 * (image + 1.0)


def from_unit(image: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]"""
    return 2.0 * image - 1.0


def grey(images: Tensor) -> Tensor:
    """The luma of images [B, 3, H, W], in three equal channels."""
    shares = images.new_tensor(LUMA).view(1, 3, 1, 1)
    return (shares * images).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
