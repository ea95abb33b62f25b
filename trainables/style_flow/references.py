"""What a flow has to beat: the source as it is, its channels with the moments of the style, and a
real latent of the style.

Shapes: B samples, C channels, N training latents of a style, H x W positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.style.samples import StyleSamples
from trainables.api import Reference, Tensors, draw_uniform
from trainables.stepping.inputs import SEED

_LARGEST = 1024
"""Training latents of a style that moments are taken of, evenly spaced."""

_RIDGE = 1e-5
"""Share of the mean variance that is added to a covariance before its root is taken."""


@dataclass(frozen=True)
class Moments:
    """Of the vectors at all positions: mean [..., C], covariance [..., C, C]."""

    mean: Tensor
    covariance: Tensor


def moments_of(vectors: Tensor) -> Moments:
    """Vectors [..., n, C], float64."""
    mean = vectors.mean(dim=-2, keepdim=True)
    centred = vectors - mean
    covariance = centred.mT @ centred / vectors.shape[-2]
    channels = covariance.shape[-1]
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    eye = torch.eye(channels, dtype=vectors.dtype, device=vectors.device)
    return Moments(mean[..., 0, :], covariance + (_RIDGE * scale + 1e-12) * eye)


def vectors_of(latents: Tensor) -> Tensor:
    """[L, C, H, W] -> float64 [L, H W, C]"""
    return latents.double().flatten(2).mT


def root_of(covariance: Tensor, power: float) -> Tensor:
    """The symmetric power of positive definite matrices [..., C, C]."""
    values, axes = torch.linalg.eigh(covariance)
    return (axes * values[..., None, :] ** power) @ axes.mT


def with_channel_moments(source: Tensor, style: Moments) -> Tensor:
    """Mean and deviation of each channel of a sample replaced by those of its style (adaptive
    instance normalisation, arXiv 1703.06868, equation 8).
    """
    sample = moments_of(vectors_of(source))
    shape = (*source.shape[:2], 1, 1)

    def spread(moments: Moments) -> Tensor:
        return moments.covariance.diagonal(dim1=-2, dim2=-1).sqrt().view(shape)

    normal = (source.double() - sample.mean.view(shape)) / spread(sample)
    return (normal * spread(style) + style.mean.view(shape)).to(source.dtype)


def whitened_and_coloured(source: Tensor, style: Moments) -> Tensor:
    """Mean and covariance of the channels of a sample replaced by those of its style (arXiv
    1705.08086, equations 1 and 2).
    """
    vectors = vectors_of(source)
    sample = moments_of(vectors)
    white = (vectors - sample.mean[:, None]) @ root_of(sample.covariance, -0.5)
    coloured = white @ root_of(style.covariance, 0.5) + style.mean[:, None]
    return coloured.mT.view_as(source).to(source.dtype)


def references(train: StyleSamples) -> dict[str, Reference]:
    """Fitted to the training latents."""
    everything = torch.from_numpy(train.latents.copy())
    each = [everything[_spaced(members.tolist())] for members in train.members]
    fitted = [moments_of(vectors_of(latents).flatten(0, 1)) for latents in each]
    mean, covariance = (
        torch.stack(parts)
        for parts in zip(*((one.mean, one.covariance) for one in fitted), strict=True)
    )

    def moved(change: Callable[[Tensor, Moments], Tensor]) -> Callable[[Tensors], Tensors]:
        def predict(batch: Tensors) -> Tensors:
            source, target = batch["latent"], batch["target"]
            style = Moments(*(x.to(source.device)[target] for x in (mean, covariance)))
            return {"x1": change(source, style)}

        return predict

    def drawn(batch: Tensors) -> Tensors:
        share = draw_uniform(batch[SEED], "reference.random")
        pairs = zip(batch["target"].tolist(), share.tolist(), strict=True)
        x1 = torch.stack([each[style][int(part * len(each[style]))] for style, part in pairs])
        return {"x1": x1.to(batch["latent"])}

    return {
        "input": Reference(lambda batch: {"x1": batch["latent"]}, "the source as it is"),
        "channel_moments": Reference(
            moved(with_channel_moments),
            "the source with the mean and deviation that each channel has in the style",
        ),
        "whitening": Reference(
            moved(whitened_and_coloured),
            "the source with the mean and covariance that the channels have in the style",
        ),
        "random": Reference(drawn, "a random training latent of the style"),
    }


def _spaced(rows: list[int]) -> list[int]:
    count = min(len(rows), _LARGEST)
    return [rows[place * len(rows) // count] for place in range(count)]
