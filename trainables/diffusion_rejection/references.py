"""What a head has to beat: no knowledge, and a logistic regression on the mean and the variance of
the noisy image.

Shapes: B samples; N of the training split; L log-SNRs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metrics.diffusion import LEVELS
from trainables.api import Reference, Tensors
from trainables.diffusion.samples import BIN, LEVEL
from trainables.diffusion_rejection.forward import noised
from trainables.diffusion_rejection.frozen import FrozenDiffusion
from trainables.diffusion_rejection.samples import TrainPairs
from trainables.stepping.inputs import SEED

_LARGEST = 512
"""Training samples that the regression is fitted to."""

_RIDGE = 1e-3
"""Of a coefficient's square, against nat of a sample: two classes may be separable."""

_NEWTON_STEPS = 25


def references(pairs: TrainPairs, frozen: FrozenDiffusion) -> dict[str, Reference]:
    """Both."""
    coefficients, (mean, deviation) = _fit(pairs, frozen)

    def logistic(batch: Tensors) -> dict[str, Tensor]:
        level = batch[LEVEL]
        inputs = (_statistics(frozen, batch) - mean[level]) / deviation[level]
        return {"logit": (_with_one(inputs) * coefficients[level]).sum(dim=1).float()}

    return {
        "prior": Reference(_prior, "no knowledge: a probability of one half"),
        "logistic": Reference(
            logistic,
            "a logistic regression on the mean and the variance of the noisy image, one at each "
            "log-SNR",
        ),
    }


def _prior(batch: Tensors) -> dict[str, Tensor]:
    return {"logit": torch.zeros_like(batch["label"])}


def _fit(pairs: TrainPairs, frozen: FrozenDiffusion) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Coefficients [L, 3], and mean and deviation [L, 2] of the statistics."""
    count = min(len(pairs), _LARGEST)
    chosen = [2 * (index * (len(pairs) // 2) // (count // 2)) for index in range(count // 2)]
    samples = [pairs[(at + label, at)] for at in chosen for label in (0, 1)]
    fitted: list[tuple[Tensor, Tensor, Tensor]] = []
    for level in range(len(LEVELS)):
        batch: Mapping[str, Any] = {
            "image": torch.stack([sample["image"] for sample in samples]),
            LEVEL: torch.full((len(samples),), level),
            BIN: torch.full((len(samples),), -1),
            SEED: torch.arange(len(samples)),
        }
        inputs = _statistics(frozen, batch)
        mean, deviation = inputs.mean(dim=0), inputs.std(dim=0).clamp_min(1e-12)
        label = torch.stack([sample["label"] for sample in samples]).double()
        fitted.append((newton(_with_one((inputs - mean) / deviation), label), mean, deviation))
    coefficients, means, deviations = (torch.stack(part) for part in zip(*fitted, strict=True))
    return coefficients, (means, deviations)


def _statistics(frozen: FrozenDiffusion, batch: Tensors) -> Tensor:
    """Mean and variance of x_t over all its values, float64 [B, 2], on the CPU."""
    space: Any = frozen.modules_by_name["space"]
    noisy, _ = noised(space.to(batch[SEED].device), batch, frozen.settings)
    values = noisy.flatten(1).double()
    return torch.stack([values.mean(dim=1), values.var(dim=1)], dim=1)


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones_like(values[:, :1])], dim=1)


def newton(inputs: Tensor, label: Tensor) -> Tensor:
    """The logistic regression of labels [N] on inputs [N, K], float64 [K], by Newton's method."""
    theta = torch.zeros(inputs.shape[1], dtype=torch.float64)
    ridge = _RIDGE * len(label) * torch.eye(len(theta), dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        share = (inputs @ theta).sigmoid()
        slope = inputs.T @ (share - label) + ridge @ theta
        curvature = inputs.T @ (inputs * (share * (1.0 - share))[:, None]) + ridge
        theta = theta - torch.linalg.solve(curvature, slope)
    return theta
