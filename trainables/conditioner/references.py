"""What the conditioner has to beat: the mean of the latents, the latents of the most similar
outline, and a linear model of a few pixel means; and what its simulation VAE has: the mean field,
and as many principal components as it has latent numbers.

Shapes: P training samples, F features, L = M + K h numbers of both latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from trainables.api import Loaders, Modules, Reference, Tensors

SIDE = 16
"""The features of an image are its means over SIDE x SIDE squares, 16 x 16 or fewer in all."""

RIDGES = tuple(10.0**power for power in range(-4, 5))
"""Strengths of the penalty, in units of the mean square of a feature over the samples."""

_AT_ONCE = 256

_FIELDS = 512
"""Training fields that principal components are taken of, evenly spaced."""

Fitted = Callable[[Tensor], Tensor]
"""Features [B, F] -> latents [B, L]."""


def references(loaders: Loaders, modules: Modules) -> dict[str, Reference]:
    """Fitted to the training samples as they are, without augmentation.

    Args:
        modules: with the frozen `decoder` where the data has fields.
    """
    features, latents = training_pairs(loaders)
    fits: Mapping[str, tuple[Fitted, str]] = {
        "mean": (_mean(latents), "the mean of the training latents"),
        "nearest": (_nearest(features, latents), "the latents of the most similar training image"),
        "ridge": (ridge(features, latents), "ridge regression on 16 x 16 pixel means"),
    }
    return {
        name: Reference(predictor_of(fitted, modules.get("decoder")), about)
        for name, (fitted, about) in fits.items()
    }


def field_references(loaders: Loaders, numbers: int) -> dict[str, Reference]:
    """Of the simulation VAE.

    Args:
        numbers: of both latents together.
    """
    samples: Any = loaders.train
    count = min(len(samples), _FIELDS)
    places = [index * len(samples) // count for index in range(count)]
    fields = torch.stack([samples[(place, 0)]["field"] for place in places])
    shape = fields.shape[1:]
    mean = fields.flatten(1).double().mean(dim=0)
    _, _, axes = torch.linalg.svd(fields.flatten(1).double() - mean, full_matrices=False)
    axes = axes[:numbers]

    def mean_field(batch: Tensors) -> Tensors:
        return {"field": mean.to(batch["field"]).view(shape).expand_as(batch["field"])}

    def project(batch: Tensors) -> Tensors:
        flat = batch["field"].flatten(1).double()
        middle, basis = mean.to(flat), axes.to(flat)
        return {"field": ((flat - middle) @ basis.T @ basis + middle).view(-1, *shape)}

    about = f"the first {len(axes)} principal components of the training fields"
    return {
        "mean": Reference(mean_field, "the mean of the training fields"),
        "principal_components": Reference(project, about),
    }


def features_of(image: Tensor) -> Tensor:
    """The features [B, F] of images [B, 1, S, S]."""
    return F.adaptive_avg_pool2d(image.float(), min(SIDE, image.shape[-1])).flatten(1)


def training_pairs(loaders: Loaders) -> tuple[Tensor, Tensor]:
    """Features [P, F] and latents [P, L] of all training samples."""
    features, latents = [], []
    for batch in DataLoader(loaders.train, batch_size=_AT_ONCE, collate_fn=loaders.collate):
        features.append(features_of(batch["image"]).cpu())
        latents.append(torch.cat([batch["main"], batch["hier"].flatten(1)], dim=1).cpu())
    return torch.cat(features), torch.cat(latents)


def predictor_of(fitted: Fitted, decoder: Any) -> Callable[[Tensors], Tensors]:
    """What a `Reference` predicts with latents from features, decoded where there is a decoder."""

    def predict(batch: Tensors) -> Tensors:
        prediction: dict[str, Tensor] = {}
        for image, prefix in (("image", ""), ("paired", "paired_")):
            latents = fitted(features_of(batch[image]).cpu()).to(batch[image])
            size = batch["main"].shape[1]
            prediction[f"{prefix}main"] = latents[:, :size]
            prediction[f"{prefix}hier"] = latents[:, size:].view(batch["hier"].shape)
        if decoder is not None:
            decoder.to(batch["image"].device)
            prediction["field"] = decoder(prediction["main"], prediction["hier"])
            prediction["target_field"] = decoder(batch["main"], batch["hier"])
        return prediction

    return predict


def _mean(latents: Tensor) -> Fitted:
    return lambda features: latents.mean(dim=0).expand(len(features), -1)


def _nearest(known: Tensor, latents: Tensor) -> Fitted:
    return lambda features: latents[torch.cdist(features, known).argmin(dim=1)]


def ridge(features: Tensor, targets: Tensor) -> Fitted:
    """Linear least squares with a penalty on the squares of the coefficients, the strength of
    which has the least error of leaving out one sample at a time (in closed form: the residual
    over one minus the leverage), over all numbers of the target.
    """
    x, y = features.double(), targets.double()
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    u, s, v = torch.linalg.svd(x - x_mean, full_matrices=False)
    projected = u.T @ (y - y_mean)
    unit = s.square().sum() / x.shape[1]
    tried: list[tuple[float, Tensor]] = []
    for strength in RIDGES:
        shrink = s.square() / (s.square() + strength * unit)
        leverage = (u.square() * shrink).sum(dim=1, keepdim=True) + 1.0 / len(x)
        residual = (y - y_mean - u @ (shrink[:, None] * projected)) / (1.0 - leverage)
        factors = s / (s.square() + strength * unit)
        tried.append((float(residual.square().mean()), v.T @ (factors[:, None] * projected)))
    _, coefficients = min(tried, key=lambda pair: pair[0])
    return lambda rows: ((rows.double() - x_mean) @ coefficients + y_mean).float()
