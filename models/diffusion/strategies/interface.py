"""What a strategy is: how a clean image and noise are mixed at time t, and what a network predicts
of the two.

    x_t = alpha x_0 + sigma noise         prediction = a x_0 + b noise

with four coefficients that depend on t alone. Everything else follows from them, the estimates
by solving the two equations. They are computed in float64 from t and rounded once to the precision
of the images, at least float32, whatever autocast says.

Shapes: B samples; x, clean, noise, prediction [B, ...]; t and log_snr [B].
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.strategies.settings import SamplingSettings, StrategySettings
from models.diffusion.strategies.times import jittered, on_grid, uniform_times, window

Predict = Callable[[Tensor, Tensor], Tensor]
"""`predict(x [B, ...], t [B] in [0, 1])` -> the network's prediction [B, ...]."""


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma, a, b at each t: float64 [B]."""

    alpha: Tensor
    sigma: Tensor
    a: Tensor
    b: Tensor

    @property
    def determinant(self) -> Tensor:
        """Of the two equations; zero nowhere in (0, 1)."""
        return self.alpha * self.b - self.sigma * self.a

    def at(self, index: int) -> Coefficients:
        """Those of one t, [1], for every sample of a batch."""
        alpha, sigma, a, b = (
            part[index : index + 1] for part in (self.alpha, self.sigma, self.a, self.b)
        )
        return Coefficients(alpha, sigma, a, b)

    def clean(self, x: Tensor, prediction: Tensor) -> Tensor:
        """x_0 by the two equations."""
        over = self.determinant
        return mixed((self.b / over, x), (-self.sigma / over, prediction))

    def noise(self, x: Tensor, prediction: Tensor) -> Tensor:
        """The noise by the two equations."""
        over = self.determinant
        return mixed((self.alpha / over, prediction), (-self.a / over, x))


class Strategy(ABC):
    """What a kind defines, and what follows from its coefficients.

    Attributes:
        kind: the name in the settings.
        ratio: of the resolution transform, of training and sampling alike; 1 moves nothing.
    """

    kind: str
    ratio: float = 1.0

    def __init__(self, settings: StrategySettings) -> None:
        self.settings = settings

    # --- of the kind -----------------------------------------------------------------------------

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """At each t."""

    @abstractmethod
    def derivative(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the flow without noise (the probability flow): what an integrator follows, from
        t = 1 to t = 0 to make an image.
        """

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`: t float64 [B].

        Raises:
            ValueError: a ratio that no t has.
        """

    @abstractmethod
    def sampling_times(self, settings: SamplingSettings) -> Tensor:
        """The times of the steps that make an image, float64 [N + 1], falling to exactly 0."""

    @abstractmethod
    def _law(self, seeds: Tensor) -> Tensor:
        """t float64 [B] before curriculum and jitter."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """How many values t has in training; 0 where it is continuous."""

    # --- of all ----------------------------------------------------------------------------------

    def draw_times(self, seeds: Tensor, progress: float | Tensor = 1.0) -> Tensor:
        """The training's t, float32 [B], a function of the samples' seeds alone.

        Args:
            seeds: int64 [B], `batch["seed"]` of a training.
            progress: of the curriculum, a number or [B]; 1 where it is over, as in validation.
        """
        curriculum = self.settings.curriculum
        is_uniform = curriculum.enabled and curriculum.law == "uniform"
        t = uniform_times(seeds) if is_uniform else self._law(seeds)
        if curriculum.enabled:
            low, high = window(curriculum, progress)
            t = low + (high - low) * t
        if self.settings.jitter.enabled:
            jitter = self.settings.jitter
            t = jittered(t, seeds, jitter.std, jitter.form)
        return (on_grid(t, self.levels) if self.levels else t).float()

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t, float32 or float64."""
        at = self.coefficients(t)
        return mixed((at.alpha, clean), (at.sigma, noise))

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to predict of x_t, float32 or float64."""
        at = self.coefficients(t)
        return mixed((at.a, clean), (at.b, noise))

    def clean_estimate(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """x_0 as the prediction has it (001-M14: of ddpm by alpha-bar, not x minus prediction)."""
        return self.coefficients(t).clean(x, prediction)

    def noise_estimate(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The noise as the prediction has it."""
        return self.coefficients(t).noise(x, prediction)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), float64 [B]: falls from infinity at t = 0."""
        at = self.coefficients(t)
        return 2.0 * (at.alpha.log() - at.sigma.log())

    def weight(self, t: Tensor) -> Tensor:
        """The factor on a sample's squared error of the prediction, float32 [B]: 1, or with
        `min_snr` min(SNR, gamma) times the squared error of x_0 that it makes.

        For ddpm that is min(SNR, gamma) / SNR with epsilon and min(SNR, gamma) / (SNR + 1) with v
        (arXiv 2303.09556, section 3.4), for rflow t^2 min(SNR, gamma).
        """
        if not self.settings.min_snr.enabled:
            return torch.ones_like(t, dtype=torch.float32)
        at = self.coefficients(t)
        snr = (at.alpha / at.sigma).square()
        error = (at.sigma / at.determinant).square()
        return (snr.clamp(max=self.settings.min_snr.gamma) * error).float()

    def renoised(self, x: Tensor, noise: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """x_later from x_t, by what noise is to be added between: later is not below t."""
        at, to = self.coefficients(t), self.coefficients(later)
        kept = to.alpha / at.alpha
        added = (to.sigma.square() - (kept * at.sigma).square()).clamp_min(0.0).sqrt()
        return mixed((kept, x), (added, noise))


def mixed(*parts: tuple[Tensor, Tensor]) -> Tensor:
    """The sum of tensors [B, ...] times float64 factors [B], in their own precision and in float32
    at least: half precision is raised, for it would round 1 - t away.
    """
    precision = torch.float32
    for _, values in parts:
        precision = torch.promote_types(precision, values.dtype)
    products = (
        factor.to(precision).view(-1, *[1] * (values.ndim - 1)) * values.to(precision)
        for factor, values in parts
    )
    return functools.reduce(torch.add, products)
