"""The perceptual term of images and volumes, as more than one system has it.

Shapes: B samples, C channels, *S the space, (H, W) or (D, H, W); `reconstruction`, `image`
[B, C, *S].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from losses.terms import Tensors, TermSettings
from models.efficientnet import BACKBONES
from models.perceptual import content_seeds, distance, frozen_features, volume_distance
from settings.schema import setting


@dataclass(frozen=True, kw_only=True)
class PerceptualSettings(TermSettings):
    backbone: str = setting(
        "efficientnet_lite0", "frozen network that sees the images", choices=BACKBONES
    )
    slice_share: float = setting(
        0.25, "volumes: part of the slices across each axis that it sees", low=0.001, high=1.0
    )


class PerceptualNode(Protocol):
    @property
    def perceptual(self) -> PerceptualSettings: ...


class PerceptualTree(Protocol):
    """What is read of a system's settings."""

    @property
    def loss(self) -> PerceptualNode: ...


def perceptual(prediction: Tensors, batch: Tensors, settings: PerceptualTree) -> Tensor:
    """Sum over samples of `models.perceptual`'s distance; of volumes, over a share of the slices
    across each axis ("2.5-D").

    A sample's `seed` chooses its slices, so that they differ in every epoch. In validation,
    without seeds, the sample's own values choose: the same slices at every report. Neither a
    global generator nor the other samples have any influence.
    """
    image, target = prediction["reconstruction"], batch["image"]
    term = settings.loss.perceptual
    features = frozen_features(term.backbone, image.device)
    if image.ndim == 4:
        return distance(features, image, target).sum()
    seeds = batch["seed"] if "seed" in batch else content_seeds(target)
    return volume_distance(features, image, target, term.slice_share, seeds).sum()
