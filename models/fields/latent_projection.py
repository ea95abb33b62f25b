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
    trained on their own distance become constant, which costs nothing). Weights N(0, 2 / inputs),
    which keeps the size of the signal, biases U(-1, 1) / sqrt(inputs). With torch's own weights
    the biases dominate, as in the source: independent latents then differ by 0.01 in cosine, here
    by 0.3, of 1 (tests/losses/test_conditioner.py).

    Args:
        size: of the latent, the last axis.
    """

    def __init__(self, size: int, widths: Sequence[int], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.networks = nn.ModuleList(
            _Layers((size, width, width, max(1, size // 2)), generator) for width in widths
        )

    def forward(self, latent: Tensor) -> list[Tensor]:
        """[..., size] -> per network [..., max(1, size // 2)]"""
        return [network(latent) for network in self.networks]


class _Layers(nn.Module):
    def __init__(self, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.depth = len(sizes) - 1
        for layer in range(self.depth):
            inputs, outputs = sizes[layer], sizes[layer + 1]
            weight = torch.randn(outputs, inputs, generator=generator) * math.sqrt(2.0 / inputs)
            bias = (2.0 * torch.rand(outputs, generator=generator) - 1.0) / math.sqrt(inputs)
            self.register_buffer(f"weight{layer}", weight)
            self.register_buffer(f"bias{layer}", bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(self.depth):
            x = F.relu(x) if layer else x
            x = F.linear(x, self.get_buffer(f"weight{layer}"), self.get_buffer(f"bias{layer}"))
        return x
