"""A strategy by its settings."""

from __future__ import annotations

from collections.abc import Sequence

from models.diffusion.strategies.ddpm import Ddpm
from models.diffusion.strategies.interface import Strategy
from models.diffusion.strategies.rflow import Rflow
from models.diffusion.strategies.settings import StrategySettings


def make_strategy(settings: StrategySettings, sides: Sequence[int] = ()) -> Strategy:
    """The strategy of `settings.kind`.

    Args:
        sides: *S of what is noised, [B, C, *S]: of the latent where latents are noised. Read by
            the resolution transform alone.
    """
    return Ddpm(settings) if settings.kind == "ddpm" else Rflow(settings, sides)
