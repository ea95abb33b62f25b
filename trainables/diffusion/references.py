"""What a denoiser has to beat: the mean image, the noisy image itself, and the linear denoiser of
the training split's principal components (`benchmarks.rivals.diffusion_linear` has a fuller one).

Shapes: N training images of n values in the space of the diffusion, [B, c, *s] of a batch; K
principal components.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.mri.dataset import open_split
from models.diffusion.spaces import Space
from trainables.api import Reference, Tensors
from trainables.diffusion.forward import Estimate, with_estimate
from trainables.diffusion.prepared import Prepared
from trainables.diffusion.settings import DiffusionSettings
from trainables.principal import principal_axes
from trainables.stepping.inputs import SEED

_LARGEST = 512
"""Training images that all of this is fitted to, evenly spaced."""

_NUMBERS = 2**25
"""Their values that are held at once: 128 MiB."""

_FOLDS = 8
"""Parts of the patients that are left out in turn."""


def references(settings: DiffusionSettings, prepared: Prepared) -> dict[str, Reference]:
    """All of them in the settings' space, for both strategies."""
    space = prepared.space(settings.space)
    images, patients = _training_images(prepared, space)
    linear = fit_linear(images.flatten(1), patients)
    mean = linear.mean.view(images.shape[1:])
    about = (
        f"a linear denoiser: {len(linear.axes)} principal components of {len(images)} "
        "training images, their variances and that of all other directions on patients left out"
    )
    made: dict[str, tuple[Estimate, str]] = {
        "mean": (functools.partial(_mean, mean), "the mean of the training images"),
        "noisy": (lambda scaled, ratio: scaled, "the noisy image divided by alpha"),
        "linear": (linear.estimate, about),
    }
    return {
        name: Reference(_predicting(settings, space, estimate), about)
        for name, (estimate, about) in made.items()
    }


def _training_images(prepared: Prepared, space: Space) -> tuple[Tensor, Sequence[int]]:
    """Evenly spaced ones in the space, standardised, [N, c, *s], and the patient of each."""
    latents = prepared.latents
    if latents is not None:
        rows = latents.rows("train")
        chosen = [rows[place] for place in _places(len(rows), latents.latents.latent(0).size)]
        values = [torch.from_numpy(latents.latents.latent(row).copy()) for row in chosen]
        patients: list[int] = latents.latents.column("patient")[chosen].tolist()
        return space.standardised(torch.stack(values)), patients
    samples = open_split(prepared.data, "train")
    places = _places(len(samples), prepared.data.channels * math.prod(prepared.data.space))
    images = [space.encode(samples.read(place)["image"][None])[0] for place in places]
    return torch.stack(images), samples.table["patient"][places].tolist()


def _places(samples: int, values: int) -> list[int]:
    """Of samples with so many values each."""
    count = max(2, min(samples, _LARGEST, _NUMBERS // values))
    return [index * samples // count for index in range(count)]


@dataclass(frozen=True)
class Linear:
    """The estimate of least squared error among linear ones, for images whose covariance is
    diag(variances) along the axes and `floor` in every other direction:

        mean + sum over axes of (v / (v + r) - f / (f + r)) <axis, y - mean> axis
             + f / (f + r) (y - mean),    y = x_t / alpha, r = sigma^2 / alpha^2

    Attributes:
        mean: [n].
        axes: orthonormal [K, n].
        variances: [K].
        floor: f. Without it, with the bare covariance of the training images, nothing outside of
            their span would be believed, however little noise there is.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    floor: float

    def estimate(self, scaled: Tensor, ratio: Tensor) -> Tensor:
        """Args: scaled: y [B, c, *s]; ratio: r [B]."""
        mean, axes, variances = (x.to(scaled) for x in (self.mean, self.axes, self.variances))
        difference = scaled.flatten(1) - mean
        ratio = ratio.to(scaled)[:, None]
        inside, outside = variances / (variances + ratio), self.floor / (self.floor + ratio)
        moved = ((inside - outside) * (difference @ axes.T)) @ axes
        return (mean + outside * difference + moved).view_as(scaled)


def fit_linear(rows: Tensor, patients: Sequence[int]) -> Linear:
    """Axes of all rows [N, n]. The variance along the k-th, and outside of all, is that of
    patients left out along the k-th axis of the others, and outside of theirs: along its own axes
    a row varies more than any new one does.
    """
    mean, numbers = rows.mean(dim=0), min(rows.shape)
    axes = principal_axes(rows, mean, numbers)
    along, seen = torch.zeros(len(axes)), torch.zeros(len(axes))
    outside, values = 0.0, 0.0
    owners = torch.tensor(patients)
    for fold in _folds(owners):
        left_out, others = rows[fold], rows[~fold]
        middle = others.mean(dim=0)
        theirs = principal_axes(others, middle, numbers)[: len(axes)]
        difference = left_out - middle
        places = difference @ theirs.T
        along[: len(theirs)] += places.square().sum(dim=0)
        seen[: len(theirs)] += len(left_out)
        outside += float(difference.square().sum() - places.square().sum())
        values += len(left_out) * (rows.shape[1] - len(theirs))
    floor = max(outside / max(values, 1.0), torch.finfo(torch.float32).tiny)
    # axes beyond those that the others have: as if they were outside
    variances = torch.where(seen > 0, along / seen.clamp(min=1.0), floor)
    return Linear(mean, axes, variances, floor)


def _folds(owners: Tensor) -> list[Tensor]:
    """Bool [N] each, whose rows are left out: parts of the patients, or of the rows where there is
    one patient.
    """
    _, numbers = owners.unique(return_inverse=True)
    if int(numbers.max()) == 0:
        numbers = torch.arange(len(owners)) * 2 // len(owners)
    count = min(_FOLDS, int(numbers.max()) + 1)
    return [numbers % count == fold for fold in range(count)]


def _mean(mean: Tensor, scaled: Tensor, ratio: Tensor) -> Tensor:
    return mean.to(scaled).expand_as(scaled)


def _predicting(settings: DiffusionSettings, space: Space, estimate: Estimate) -> Any:
    def predict(batch: Tensors) -> Tensors:
        return with_estimate(space.to(batch[SEED].device), batch, settings, estimate)

    return predict
