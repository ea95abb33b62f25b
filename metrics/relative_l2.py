"""The relative error of fields, a metric of several systems."""

from __future__ import annotations

import torch
from torch import Tensor

from metrics.metric import Tensors


def relative_l2(predicted: Tensor, true: Tensor) -> Tensor:
    """||predicted - true|| / ||true|| (Frobenius norms), float64, of each sample whose true field
    is not 0 throughout: [B] or fewer. An error relative to nothing says nothing.
    """
    error = (predicted.double() - true.double()).flatten(1).norm(dim=1)
    size = true.double().flatten(1).norm(dim=1)
    return error[size > 0] / size[size > 0]


def mean_relative_l2(
    prediction: Tensors, batch: Tensors, settings: object = None
) -> tuple[Tensor, Tensor]:
    """(sum, count) of the errors of `field`. A NaN in a prediction makes the mean NaN: leaving it
    out would improve the mean.
    """
    errors = relative_l2(prediction["field"], batch["field"])
    return errors.sum(), counted(errors)


def counted(values: Tensor) -> Tensor:
    """How many values there are, float64, where the values are."""
    return torch.tensor(values.numel(), dtype=torch.float64, device=values.device)
