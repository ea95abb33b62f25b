"""What the network knows beside the state: the time and the style, or that there is none.

Shapes: B samples; E the width of the embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.draws import draw_uniform
from models.sinusoids import sinusoids
from models.style_flow.settings import ModelSettings

NULL_STYLE = -1
"""The number of the unknown style."""

_TIME_HIDDEN = 4
"""Hidden units of the time's layers, in E."""


class StyleTable(nn.Module):
    """An embedding for each style, and one for no style, by `model.null`.

    The mean is taken of the table as it is now; `mean_at_start` is the document's, a buffer that
    is filled once and goes stale as the table is trained (002-M13).
    """

    def __init__(self, settings: ModelSettings, styles: int) -> None:
        super().__init__()
        if styles < 1:
            raise ValueError(f"a network has 1 style or more, not {styles}. Give their number.")
        self.null, self.styles = settings.null, styles
        self.table = nn.Embedding(styles, settings.embedding)
        if self.null == "token":
            self.token = nn.Parameter(torch.randn(settings.embedding))
        elif self.null == "mean_at_start":
            self.register_buffer("start", self.table.weight.detach().mean(dim=0))

    def unknown(self) -> Tensor:
        """The embedding of no style [E]."""
        if self.null == "token":
            return self.token
        return self.table.weight.mean(dim=0) if self.null == "mean" else self.get_buffer("start")

    def forward(self, style: Tensor) -> Tensor:
        """int64 [B], `NULL_STYLE` where there is none -> [B, E]."""
        known = self.table(style.clamp_min(0))
        return torch.where((style == NULL_STYLE)[:, None], self.unknown().to(known.dtype), known)


class Condition(nn.Module):
    """c = layers(time's layers(sinusoids(t)), style) [B, E]."""

    def __init__(self, settings: ModelSettings, styles: int) -> None:
        super().__init__()
        width = settings.embedding
        self.width, self.time_scale = width, settings.time_scale
        self.style = StyleTable(settings, styles)
        self.time = nn.Sequential(
            nn.Linear(width, _TIME_HIDDEN * width),
            nn.SiLU(),
            nn.Linear(_TIME_HIDDEN * width, width),
        )
        self.joint = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, t: Tensor, style: Tensor) -> Tensor:
        features = sinusoids(t, self.width, self.time_scale).to(self.style.table.weight.dtype)
        return self.joint(torch.cat([self.time(features), self.style(style)], dim=1))


def drop_style(style: Tensor, seed: Tensor, share: float) -> Tensor:
    """The styles [B], of which that share is `NULL_STYLE`.

    Args:
        seed: int64 [B] drops each sample by itself; one of an update, [1], all of them or none,
            which is the document's way (002-M13).
    """
    dropped = draw_uniform(seed, "style.drop") < share
    return torch.where(dropped, NULL_STYLE, style)
