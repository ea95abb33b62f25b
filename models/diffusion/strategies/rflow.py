"""Rectified flow: x_t = (1 - t) x_0 + t noise, and the network predicts v = x_0 - noise, which
points from the noise to the image (arXiv 2209.03003 with t the other way round).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.diffusion.strategies.interface import Coefficients, Strategy
from models.diffusion.strategies.settings import SamplingSettings, StrategySettings
from models.diffusion.strategies.times import logit_normal_times, resolution_ratio, uniform_times
from models.integration import shift_time, time_grid


class Rflow(Strategy):
    """The rectified flow between images and noise."""

    kind = "rflow"

    def __init__(self, settings: StrategySettings, sides: Sequence[int] = ()) -> None:
        super().__init__(settings)
        self.ratio = resolution_ratio(settings.rflow.transform, sides)

    @property
    def levels(self) -> int:
        return self.settings.rflow.steps if self.settings.rflow.discrete else 0

    def _law(self, seeds: Tensor) -> Tensor:
        rflow = self.settings.rflow
        if rflow.law == "uniform":
            t = uniform_times(seeds)
        else:
            t = logit_normal_times(seeds, rflow.mean, rflow.std)
        return shift_time(t, self.ratio)

    def coefficients(self, t: Tensor) -> Coefficients:
        t = t.double()
        one = torch.ones_like(t)
        return Coefficients(alpha=1.0 - t, sigma=t, a=one, b=-one)

    def derivative(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """dx/dt = noise - x_0 = -v."""
        return -prediction

    def time_of(self, log_snr: Tensor) -> Tensor:
        """(1 - t) / t = exp(log_snr / 2)."""
        return torch.sigmoid(-0.5 * log_snr.double())

    def sampling_times(self, settings: SamplingSettings) -> Tensor:
        return time_grid(settings.steps, 1.0, 0.0, self.ratio)
