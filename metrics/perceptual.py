"""Perceptual distances for validation, independent of the loss.

`efficientnet_distance` works offline (models/perceptual.py) and is named for its network: it is
not LPIPS, and the values do not compare. LPIPS, RadImageNet and MedicalNet come through MONAI,
are off by default and download weights at first use, which is the check before a training.

Shapes: B images, C channels, *S the space; images [B, C, *S] in [0, 1]; results [B], float64. The
distance of several channels is the mean of their own.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.efficientnet import FeatureWeightsError
from models.monai_modules import monai_module
from models.perceptual import distance, frozen_features
from settings.schema import Settings, SettingsError, setting


@dataclass(frozen=True, kw_only=True)
class LpipsSettings(Settings):
    enabled: bool = setting(False, "measure LPIPS of images; needs weighbridge[perceptual]")
    network: str = setting(
        "alex", "ImageNet network of LPIPS, downloaded", choices=("alex", "vgg", "squeeze")
    )


@dataclass(frozen=True, kw_only=True)
class RadImageNetSettings(Settings):
    enabled: bool = setting(False, "measure the RadImageNet distance of images")


@dataclass(frozen=True, kw_only=True)
class MedicalNetSettings(Settings):
    enabled: bool = setting(False, "measure the MedicalNet distance of volumes")


class Distances(Protocol):
    """The node with one for each of `DIMENSIONS`."""

    @property
    def lpips(self) -> LpipsSettings: ...

    @property
    def radimagenet(self) -> RadImageNetSettings: ...

    @property
    def medicalnet(self) -> MedicalNetSettings: ...


class SpaceNode(Protocol):
    @property
    def spatial_dims(self) -> int:
        """2 for images, 3 for volumes."""


class DistanceTree(Protocol):
    """What is read of a system's settings."""

    @property
    def model(self) -> SpaceNode: ...

    @property
    def metric(self) -> Distances: ...


DIMENSIONS = {"lpips": 2, "radimagenet": 2, "medicalnet": 3}
"""The number of axes of the images that each network takes."""

NETWORKS = {
    "radimagenet": "radimagenet_resnet50",
    "medicalnet": "medicalnet_resnet10_23datasets",
}
"""MONAI's names of the networks."""


def enabled(settings: DistanceTree) -> tuple[str, ...]:
    """The names in `DIMENSIONS` that are measured.

    Raises:
        SettingsError: one of them does not take images of this number of axes.
    """
    names = tuple(name for name in DIMENSIONS if getattr(settings.metric, name).enabled)
    dims = settings.model.spatial_dims
    for name in names:
        if DIMENSIONS[name] != dims:
            raise SettingsError(
                f"metric.{name}.enabled=true needs model.spatial_dims={DIMENSIONS[name]}, not "
                f"{dims}: its network sees nothing else. Switch it off."
            )
    return names


def networks(settings: DistanceTree) -> dict[str, str]:
    """The enabled distances, each with MONAI's name of its network."""
    known = {**NETWORKS, "lpips": settings.metric.lpips.network}
    return {name: known[name] for name in enabled(settings)}


def refuse_missing(settings: DistanceTree) -> None:
    """Loads the network of every enabled distance, and so fetches its weights where they are not
    on this machine: for a check before a training, whose first validation would need them.

    Raises:
        SettingsError: a package or the weights cannot be had, with the way out.
    """
    problems = []
    for name, network in networks(settings).items():
        try:
            _monai_network(name, network, "cpu")
        except FeatureWeightsError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError(" ".join(problems))


def by_channel(image: Tensor) -> Tensor:
    """[B, C, *S] -> [B * C, 1, *S], float32"""
    return image.float().flatten(0, 1).unsqueeze(1).contiguous()


def efficientnet_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Distance of the features of EfficientNet-Lite0, [B]."""
    features = frozen_features("efficientnet_lite0", target.device)
    return distance(features, prediction, target).double()


def extra_distance(name: str, network: str, prediction: Tensor, target: Tensor) -> Tensor:
    """LPIPS, RadImageNet or MedicalNet distance, by MONAI.

    Raises:
        FeatureWeightsError: a package is missing, or the weights cannot be had.
    """
    measure = _monai_network(name, network, str(target.device))
    # LPIPS takes images in [-1, 1].
    scaled = (2.0 * x - 1.0 if name == "lpips" else x for x in (prediction, target))
    first, second = (by_channel(x) for x in scaled)
    # One at a time: MedicalNet's normalisation mixes the samples of a batch.
    values = [measure(first[i : i + 1], second[i : i + 1]) for i in range(len(first))]
    if not values:
        return torch.zeros(0, dtype=torch.float64, device=target.device)
    return torch.stack(values).double().view(target.shape[:2]).mean(dim=1)


@functools.lru_cache(maxsize=4)
def _monai_network(name: str, network: str, device: str) -> nn.Module:
    dims = DIMENSIONS[name]
    try:
        with warnings.catch_warnings():
            # MONAI advises MedicalNet by channel; every channel comes as an image of its own.
            warnings.filterwarnings("ignore", message="MedicalNet networks support channel-wise")
            losses = monai_module("losses.perceptual")
            loss = losses.PerceptualLoss(dims, network_type=network, is_fake_3d=False)
    # No package; no network, or a file that cannot be read; a torchvision made for another torch;
    # whatever the code raises that torch.hub fetches.
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise FeatureWeightsError(
            f"metric.{name}.enabled=true: {network} cannot be loaded ({why}). It needs "
            "`pip install weighbridge[perceptual]` and at first use a connection, or its weights "
            f"in {torch.hub.get_dir()}. Or switch it off: metric.{name}.enabled=false."
        ) from error
    return loss.requires_grad_(False).eval().to(device)
