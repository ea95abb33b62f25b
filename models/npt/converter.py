"""The converter: attention's output turned into an update of the MLP's gate, for each token.

    z = a W_down                          [B, L, r]
    v_a, v_b = z W_a, z W_b               [B, L, k, d] and [B, L, k, f]
    s = v_a . norm(h)                     [B, L, k]
    m = W_down' (SiLU(W_gate norm(h) + sum_k s v_b) * W_up norm(h))

and the layer gives h + m: a is not added to h. W_gate norm(h) + s v_b is (W_gate + v_b v_a')
norm(h), a change of rank k of the gate's weight. W_down' is the MLP's own.

Shapes: B samples, L tokens, d width, f of the MLP, r rank, k pairs; h, a [B, L, d].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.npt.settings import ConverterSettings

_TINY = 1e-12
"""Length below which a vector is not made longer."""


@dataclass(frozen=True)
class Code:
    """z, where it is drawn from a normal distribution with its mean and log deviation."""

    z: Tensor
    mu: Tensor
    log_sigma: Tensor | None


@dataclass(frozen=True)
class Conversion:
    """All that a converted layer makes of a token.

    Attributes:
        hidden, attention: h, a [B, L, d]
        normed: norm(h) [B, L, d]
        code: of the pairs.
        encoded: v_a of the first pair before the gauge [B, L, d]: with |v_a| = 1 it could not
            become a.
        v_a, v_b: in the gauge [B, L, k, d], [B, L, k, f].
        scalar: s [B, L, k]
        change: of the gate, sum_k s v_b [B, L, f]
        mlp: m [B, L, d]
    """

    hidden: Tensor
    attention: Tensor
    normed: Tensor
    code: Code
    encoded: Tensor
    v_a: Tensor
    v_b: Tensor
    scalar: Tensor
    change: Tensor
    mlp: Tensor


def in_gauge(v_a: Tensor, v_b: Tensor, gauge: str) -> tuple[Tensor, Tensor]:
    """Of all (c v_a, v_b / c), which are one update v_b v_a', those with |v_a| = 1 (`unit`) or
    |v_a| = |v_b| (`equal`); as they are under `none`.
    """
    if gauge == "none":
        return v_a, v_b
    length = v_a.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    if gauge == "equal":
        length = (length / v_b.norm(dim=-1, keepdim=True).clamp_min(_TINY)).sqrt()
    return v_a / length, v_b * length


class Converter(nn.Module):
    """Of one layer. It begins as 003.A says: W_down by Xavier's rule, W_a near a share of the
    identity (moved on by a column for each further pair), W_b small.
    """

    def __init__(self, width: int, hidden: int, settings: ConverterSettings) -> None:
        """
        Args:
            width, hidden: d and f.
        """
        super().__init__()
        rank, pairs = settings.rank, settings.pairs
        self.pairs, self.gauge = pairs, settings.gauge
        self.down = nn.Linear(width, rank, bias=False)
        self.deviation = nn.Linear(width, rank) if settings.bottleneck else None
        self.to_a = nn.Linear(rank, pairs * width, bias=False)
        self.to_b = nn.Linear(rank, pairs * hidden, bias=False)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.uniform_(self.to_b.weight, -settings.scale, settings.scale)
        nn.init.normal_(self.to_a.weight, std=settings.noise)
        identity = torch.eye(width, rank, device=self.to_a.weight.device)
        shifted = torch.cat([identity.roll(pair, dims=0) for pair in range(pairs)])
        with torch.no_grad():
            self.to_a.weight.add_(settings.identity * shifted)
        if self.deviation is not None:
            nn.init.zeros_(self.deviation.weight)
            nn.init.constant_(self.deviation.bias, -2.0)

    def code(self, a: Tensor, noise: Tensor | None = None) -> Code:
        """
        Args:
            noise: standard normal [B, L, r]; None takes the mean.
        """
        mu = self.down(a)
        if self.deviation is None:
            return Code(mu, mu, None)
        log_sigma = self.deviation(a)
        z = mu if noise is None else mu + log_sigma.exp() * noise
        return Code(z, mu, log_sigma)

    def pairs_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """v_a [B, L, k, d] and v_b [B, L, k, f], as they come."""
        v_a, v_b = self.to_a(z), self.to_b(z)
        return v_a.unflatten(-1, (self.pairs, -1)), v_b.unflatten(-1, (self.pairs, -1))

    def forward(
        self, layer: nn.Module, h: Tensor, a: Tensor, noise: Tensor | None = None
    ) -> Conversion:
        """What the layer becomes for h and a, with `noise` as `code` takes it."""
        code = self.code(a, noise)
        raw_a, raw_b = self.pairs_of(code.z)
        v_a, v_b = in_gauge(raw_a, raw_b, self.gauge)
        parts: Any = layer
        normed = parts.post_attention_layernorm(h)
        scalar = torch.einsum("blkd,bld->blk", v_a, normed)
        change = torch.einsum("blk,blkf->blf", scalar, v_b)
        mlp = modulated(parts.mlp, normed, change)
        return Conversion(h, a, normed, code, raw_a[:, :, 0], v_a, v_b, scalar, change, mlp)


class Adapter(nn.Module):
    """What a converter has to beat: a linear map of a beside the MLP, of the same rank,

        m = MLP(norm(h)) + B A a,  B = 0 at first (arXiv 2106.09685, section 4.1)

    called as a converter. The gate stays as it is: s, v_a, v_b and the change are 0.
    """

    def __init__(self, width: int, hidden: int, settings: ConverterSettings) -> None:
        super().__init__()
        self.pairs, self.hidden = settings.pairs, hidden
        self.down = nn.Linear(width, settings.rank, bias=False)
        self.up = nn.Linear(settings.rank, width, bias=False)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.up.weight)

    def forward(
        self, layer: nn.Module, h: Tensor, a: Tensor, noise: Tensor | None = None
    ) -> Conversion:
        parts: Any = layer
        normed = parts.post_attention_layernorm(h)
        z = self.down(a)
        of_gate = a.new_zeros(1).expand(*a.shape[:2], self.pairs, self.hidden)
        of_token = a.new_zeros(1).expand(*a.shape[:2], self.pairs, a.shape[2])
        mlp = parts.mlp(normed) + self.up(z)
        return Conversion(
            h,
            a,
            normed,
            Code(z, z, None),
            of_token[:, :, 0],
            of_token,
            of_gate,
            of_token[..., 0],
            of_gate[:, :, 0],
            mlp,
        )


KINDS: Mapping[str, type[Converter] | type[Adapter]] = {
    "modulation": Converter,
    "adapter": Adapter,
}


def modulated(mlp: nn.Module, x: Tensor, change: Tensor) -> Tensor:
    """W_down (SiLU(W_gate x + change) * W_up x)"""
    parts: Any = mlp
    output: Tensor = parts.down_proj(parts.act_fn(parts.gate_proj(x) + change) * parts.up_proj(x))
    return output
