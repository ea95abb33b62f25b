"""The metrics of the simulation VAE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.metric import Metric, Tensors
from metrics.relative_l2 import counted, mean_relative_l2
from settings.schema import Settings, setting


@dataclass(frozen=True, kw_only=True)
class MetricSettings(Settings):
    active_variance: float = setting(
        0.01, "a latent number is active if its mean varies more than this", low=1e-8, high=10.0
    )


def _moments(latents: Tensor) -> tuple[Tensor, Tensor]:
    x = latents.double().flatten(1)
    sums = torch.stack([x.sum(dim=0), x.square().sum(dim=0)])
    return sums.flatten(), counted(x[:, 0])


def _variances(sums: Tensor, count: float) -> Tensor:
    """Variance of each latent number over the samples, from its two moments."""
    mean, square = sums.view(2, -1) / count
    return (square - mean.square()).clamp_min(0.0)


def field_vae_metrics(settings: MetricSettings) -> tuple[Metric, ...]:
    """The objective and the diagnostics; the divergence itself is the column `val.loss.kl`."""

    def active(sums: Tensor, count: float) -> float:
        if count == 0:
            return float("nan")
        return float((_variances(sums, count) > settings.active_variance).sum())

    def of_main(prediction: Tensors, batch: Tensors, tree: object) -> tuple[Tensor, Tensor]:
        return _moments(prediction["main"])

    def of_hier(prediction: Tensors, batch: Tensors, tree: object) -> tuple[Tensor, Tensor]:
        return _moments(prediction["hier"])

    reads = ("metric.active_variance",)
    units = "whose mean varies over the validation set (active units, Burda et al. 2016)"
    return (
        Metric(
            "reconstruction_error",
            "",
            "min",
            mean_relative_l2,
            "relative L2 error of the reconstructed field, mean over samples",
        ),
        Metric(
            "active_main",
            "",
            None,
            of_main,
            f"numbers of the main latent {units}",
            finish=active,
            reads=reads,
        ),
        Metric(
            "active_hier",
            "",
            None,
            of_hier,
            f"numbers of the hierarchical codes {units}",
            finish=active,
            reads=reads,
        ),
    )
