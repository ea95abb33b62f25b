"""The blocks of the velocity network.

Shapes: B samples, C channels, E the width of the condition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.style_flow.settings import ModelSettings

KERNEL_SIDE = 3
"""Of the kernels that a style block predicts."""


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), which knows no condition."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class StyleKernel(nn.Module):
    """A depth-wise convolution whose kernels a linear layer predicts from the condition.

    kernel = delta + prediction, the prediction 0 at the start, so that the layer begins as the
    identity. `from_zero`, the document's, is the prediction alone: the layer begins as 0, and a
    normalisation behind it divides by the square root of its epsilon, which multiplies the
    gradient by some hundreds (002-M14).
    """

    def __init__(self, width: int, settings: ModelSettings) -> None:
        super().__init__()
        self.width, self.has_bias = width, settings.kernel_bias
        cells = KERNEL_SIDE**2
        self.predict = nn.Linear(settings.embedding, width * (cells + self.has_bias))
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)
        base = torch.zeros(cells)
        if settings.kernel == "base_and_residual":
            base[cells // 2] = 1.0
        self.register_buffer("base", base.view(KERNEL_SIDE, KERNEL_SIDE), persistent=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        samples, width = x.shape[:2]
        cells = width * KERNEL_SIDE**2
        predicted = self.predict(condition)
        kernel = predicted[:, :cells].reshape(samples * width, 1, KERNEL_SIDE, KERNEL_SIDE)
        bias = predicted[:, cells:].reshape(-1) if self.has_bias else None
        # All samples as one image of B C channels, each channel with a kernel of its own.
        flat = x.reshape(1, samples * width, *x.shape[2:])
        kernel = kernel + self.get_buffer("base")
        out = F.conv2d(
            flat, kernel.to(x.dtype), bias, padding=KERNEL_SIDE // 2, groups=samples * width
        )
        return out.reshape(x.shape)


class StyleBlock(nn.Module):
    """SiLU(x + pointwise(SiLU(norm(kernel(x, c))))), c the condition [B, E]."""

    def __init__(self, width: int, settings: ModelSettings) -> None:
        super().__init__()
        self.kernel = StyleKernel(width, settings)
        self.norm = nn.GroupNorm(settings.norm_groups, width)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        styled = F.silu(self.norm(self.kernel(x, condition)))
        return F.silu(x + self.pointwise(styled))


class Attention(nn.Module):
    """x + self-attention over all positions; its last layer is 0 at the start."""

    def __init__(self, width: int, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = width // settings.head_width
        self.norm = nn.GroupNorm(settings.norm_groups, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        samples, width = x.shape[:2]
        qkv = self.qkv(self.norm(x)).view(samples, 3, self.heads, width // self.heads, -1)
        query, key, value = qkv.transpose(-1, -2).unbind(dim=1)  # [B, heads, positions, C / heads]
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(-1, -2).reshape(x.shape))


class SkipGate(nn.Module):
    """skip x 2 sigmoid(linear(c)) of each channel; the skip itself at the start."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.gate = nn.Linear(embedding, width)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, skip: Tensor, condition: Tensor) -> Tensor:
        return skip * (2.0 * self.gate(condition).sigmoid())[:, :, None, None]
