"""Fixed random networks on a latent: the "perceptual" features of the conditioner's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LatentProjections(nn.Module):
    """One network per width w: linear size -> w, ReLU, w -> w, ReLU, w -> size / 2.

    Drawn from the seed, kept as buffers: no optimizer can be given them (000-M4: networks that are
    trained on their own distance become constant, which costs nothing). Biases are
    U(-1, 1) / sqrt(inputs). With `start` "he" weights are N(0, 2 / inputs), which keeps the size
    of the signal (He et al. 2015); with "torch" U(-1, 1) / sqrt(inputs), a sixth of that variance,
    as in the source, whose biases dominate: independent latents then differ by 0.01 in cosine, and
    by 0.3 with "he", of 1 (tests/losses/test_conditioner.py).

    Args:
        size: of the latent, the last axis.
        start: the weights' distribution, "he" or "torch".
    """

    def __init__(self, size: int, widths: Sequence[int], seed: int, start: str = "he") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.networks = nn.ModuleList(
            _Layers((size, width, width, max(1, size // 2)), generator, start) for width in widths
        )

    def forward(self, latent: Tensor) -> list[Tensor]:
        """[..., size] -> per network [..., max(1, size // 2)]"""
        return [network(latent) for network in self.networks]


class _Layers(nn.Module):
    def __init__(self, sizes: Sequence[int], generator: torch.Generator, start: str) -> None:
        super().__init__()
        self.depth = len(sizes) - 1
        for layer in range(self.depth):
            inputs, outputs = sizes[layer], sizes[layer + 1]
            if start == "torch":
                weight = _symmetric(outputs, inputs, generator=generator) / math.sqrt(inputs)
            else:
                weight = torch.randn(outputs, inputs, generator=generator) * math.sqrt(2 / inputs)
            bias = _symmetric(outputs, generator=generator) / math.sqrt(inputs)
            self.register_buffer(f"weight{layer}", weight)
            self.register_buffer(f"bias{layer}", bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(self.depth):
            x = F.relu(x) if layer else x
            x = F.linear(x, self.get_buffer(f"weight{layer}"), self.get_buffer(f"bias{layer}"))
        return x


def _symmetric(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniform in [-1, 1)."""
    return 2.0 * torch.rand(*shape, generator=generator) - 1.0
