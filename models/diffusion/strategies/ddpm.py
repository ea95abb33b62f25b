"""Denoising diffusion with the cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672): x_t =
alpha x_0 + sigma noise with alpha^2 = alpha-bar and sigma^2 = 1 - alpha-bar.

The schedule is kept here in float64. MONAI's `Scheduler.add_noise` rebinds its own to the images'
precision: after one call with bf16 the noise at small t is 0, and every later call is wrong.

t = i / T is step i of 1, ..., T; t = 0 is the image itself. In terms of the angle phi, alpha = cos
phi and sigma = sin phi, which is nearly linear in t; between steps it is taken as linear.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.diffusion.strategies.interface import Coefficients, Strategy, mixed
from models.diffusion.strategies.settings import SamplingSettings, StrategySettings
from models.diffusion.strategies.times import uniform_times
from models.integration import time_grid

OFFSET, MAX_BETA = 0.008, 0.999
"""s of equation 17, and the bound on the share of variance that is lost in a step."""


def cosine_alpha_bar(steps: int) -> Tensor:
    """alpha-bar of steps 0, ..., T, float64 [T + 1], from 1: the products of 1 - beta_i, beta_i =
    min(1 - f(i) / f(i - 1), .999), f(i) = cos^2((i / T + s) / (1 + s) pi / 2).
    """
    places = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((places + OFFSET) / (1.0 + OFFSET) * (math.pi / 2.0)).square()
    beta = (1.0 - f[1:] / f[:-1]).clamp(max=MAX_BETA)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1.0 - beta, dim=0)])


class Ddpm(Strategy):
    """Diffusion of T steps, of which the network predicts the noise or v."""

    kind = "ddpm"

    def __init__(self, settings: StrategySettings) -> None:
        super().__init__(settings)
        alpha_bar = cosine_alpha_bar(settings.ddpm.steps)
        angles = torch.atan2((1.0 - alpha_bar).sqrt(), alpha_bar.sqrt())
        self._angles = {angles.device: angles}

    @property
    def levels(self) -> int:
        return self.settings.ddpm.steps

    def _law(self, seeds: Tensor) -> Tensor:
        return uniform_times(seeds)

    def coefficients(self, t: Tensor) -> Coefficients:
        angle, _ = self._angle(t)
        alpha, sigma = angle.cos(), angle.sin()
        if self.settings.ddpm.prediction == "v":
            return Coefficients(alpha, sigma, a=-sigma, b=alpha)
        return Coefficients(alpha, sigma, a=torch.zeros_like(alpha), b=torch.ones_like(alpha))

    def derivative(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """dx/dt = dphi/dt (alpha noise - sigma x_0)."""
        _, slope = self._angle(t)
        at = self.coefficients(t)
        noise, clean = at.noise(x, prediction), at.clean(x, prediction)
        return mixed((slope * at.alpha, noise), (-slope * at.sigma, clean))

    def time_of(self, log_snr: Tensor) -> Tensor:
        angle = torch.atan(torch.exp(-0.5 * log_snr.double()))
        angles = self._angles_on(angle.device)
        if bool((angle > angles[-1]).any()):
            lowest = float(self.log_snr(torch.ones((), dtype=torch.float64)))
            raise ValueError(
                f"the schedule of {self.levels} steps has log-SNR {lowest:.4g} and more, not "
                f"{float(log_snr.min()):.4g}. Ask for a larger one."
            )
        above = torch.searchsorted(angles, angle).clamp(1, self.levels)
        low, high = angles[above - 1], angles[above]
        return (above - 1 + (angle - low) / (high - low)) / self.levels

    def sampling_times(self, settings: SamplingSettings) -> Tensor:
        """Steps of the training, evenly chosen, from the first that the settings allow; where more
        are asked for than there are, times between them.

        It is not t = 1 with `prediction=epsilon`: there alpha is 5e-5 (beta_T is cut at .999), and
        (x - sigma noise) / alpha would be the network's error and nothing else.
        """
        first = self.levels
        if self.settings.ddpm.prediction == "epsilon":
            bound = settings.ddpm.first_log_snr
            t = torch.arange(1, self.levels + 1, dtype=torch.float64) / self.levels
            first = max(1, int((self.log_snr(t) >= bound).sum()))
        if settings.steps > first:
            return time_grid(settings.steps, first / self.levels, 0.0)
        left = torch.arange(settings.steps, -1, -1, dtype=torch.float64)
        return torch.floor(left * first / settings.steps + 0.5) / self.levels

    def _angle(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """phi and dphi/dt at t, float64 [B]."""
        angles = self._angles_on(t.device)
        place = t.double() * self.levels
        below = place.floor().long().clamp(0, self.levels - 1)
        low, high = angles[below], angles[below + 1]
        return torch.lerp(low, high, place - below), (high - low) * self.levels

    def _angles_on(self, device: torch.device) -> Tensor:
        if device not in self._angles:
            cpu = torch.device("cpu")
            self._angles[device] = self._angles[cpu].to(device)
        return self._angles[device]
