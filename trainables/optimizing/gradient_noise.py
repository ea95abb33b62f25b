"""Noise on the gradient (Neelakantan et al. 2015, "Adding gradient noise improves learning for
very deep networks", equation 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from settings.schema import Settings, setting


@dataclass(frozen=True, kw_only=True)
class NoiseSettings(Settings):
    """Gaussian noise on the clipped gradient, of variance eta / (1 + step)^gamma."""

    eta: float = setting(0.0, "variance at the first step; 0 for no noise", low=0.0, high=1e6)
    gamma: float = setting(0.55, "how fast the variance falls", low=0.0, high=10.0)


def deviation(settings: NoiseSettings, step: int) -> float:
    """The standard deviation at a step: the root of the variance (001-M4: with sigma itself over
    (1 + step)^gamma the noise falls twice as fast as in the paper).
    """
    return math.sqrt(settings.eta / (1.0 + step) ** settings.gamma)


@torch.no_grad()
def add_noise(
    parameters: Iterable[nn.Parameter], settings: NoiseSettings, step: int, seed: int
) -> None:
    """Adds noise to the gradients that are there. It is a function of the seed, so it is equal on
    every rank, however a step is cut.

    Args:
        seed: of this step and of these parameters.
    """
    size = deviation(settings, step)
    generator: torch.Generator | None = None
    for parameter in parameters:
        if parameter.grad is None:
            continue
        device = parameter.device
        if generator is None:
            generator = torch.Generator(device).manual_seed(seed)
        noise = torch.randn(parameter.shape, generator=generator, device=device)
        parameter.grad.add_(noise.to(parameter.grad.dtype), alpha=size)
