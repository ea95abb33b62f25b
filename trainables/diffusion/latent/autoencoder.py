"""Autoencoders of another training, frozen: found, opened, kept as a file of weights, and made
again from what a checkpoint says of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.autoencoders.build import build_autoencoder
from models.autoencoders.interface import Autoencoder
from models.autoencoders.settings import ModelSettings
from models.autoencoders.slicewise import Slicewise
from models.diffusion.latent_space import Codec
from settings.flat import flatten, replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.external import External, read_tensors, write_tensors
from trainables.system import System, offers

Meta = Mapping[str, Any]
"""As JSON holds it."""


class FrozenAutoencoder(Codec):
    """An autoencoder that no training changes; one of slices goes over the slices of a volume."""

    def __init__(self, model: Autoencoder, dims: int) -> None:
        """Args: dims: of what is encoded, not below those of the model."""
        super().__init__()
        if dims < model.settings.spatial_dims:
            raise SettingsError(
                "this autoencoder takes volumes, and model.spatial_dims=2 has slices. Set "
                "model.spatial_dims=3, or take an autoencoder of slices."
            )
        is_of_slices = dims > model.settings.spatial_dims
        self.codec: Autoencoder | Slicewise = Slicewise(model) if is_of_slices else model
        self.eval().requires_grad_(False)

    @property
    def model(self) -> Autoencoder:
        return self.codec.autoencoder if isinstance(self.codec, Slicewise) else self.codec

    @property
    def factors(self) -> tuple[int, ...]:
        """Pixels per cell along each axis of what is encoded."""
        of_model = tuple(self.model.settings.factors)
        return (1, *of_model) if isinstance(self.codec, Slicewise) else of_model

    def encode(self, image: Tensor) -> Tensor:
        return self.codec.encode(image)

    def decode(self, latent: Tensor) -> Tensor:
        return self.model.to_image(self.codec.decode(latent))

    def meta(self, source: Meta) -> Meta:
        """From which `made` makes it again.

        Args:
            source: path, step and fingerprint of its checkpoint.
        """
        network = flatten(self.model.settings)
        return {"network": network, "channels": self.model.channels, "source": dict(source)}


@dataclass(frozen=True)
class Opened:
    """An autoencoder of a checkpoint, on the CPU.

    Attributes:
        system, settings: of its training.
        modules: all of its training.
        source: path, step and fingerprint of the checkpoint.
    """

    system: System
    settings: Any
    modules: Mapping[str, Any]
    codec: FrozenAutoencoder
    source: Meta

    @property
    def group(self) -> str:
        """What it was trained on, of `settings.mri.GROUPS`."""
        group: str = self.settings.data.group
        return group


def open_autoencoder(named: str, dims: int, key: str) -> Opened:
    """The autoencoder of a training's best checkpoint, or of a step-* folder.

    Args:
        dims: of what is encoded.
        key: the setting that names it, for the message.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        SettingsError: it is of another kind of network.
    """
    path = checkpoint.find(Path(named).expanduser(), best=True)
    training = open_checkpoint(path)
    models = [module for module in training.modules.values() if isinstance(module, Autoencoder)]
    if len(models) != 1 or not offers(training.system, "encode"):
        raise SettingsError(
            f"{key} is a checkpoint of an autoencoder of images, and {path} is one of system "
            f"{training.system.name}. Name a training of an autoencoder, or a file of its latents."
        )
    codec = FrozenAutoencoder(models[0], dims)
    source = checkpoint.source(path)
    return Opened(training.system, training.settings, training.modules, codec, source)


def write_weights(codec: FrozenAutoencoder, path: Path) -> None:
    """The file that `External` is made of."""
    write_tensors(path, codec.state_dict())


def made(meta: Meta, dims: int, weights: External | None = None) -> FrozenAutoencoder:
    """The autoencoder that `FrozenAutoencoder.meta` describes; without `weights` they follow."""
    settings = replace(ModelSettings(), meta["network"])
    codec = FrozenAutoencoder(build_autoencoder(settings, meta["channels"], load=False), dims)
    if weights is not None:
        codec.load_state_dict(read_tensors(weights.file))
    return codec


def found_again(source: Meta, dims: int, named: str = "") -> FrozenAutoencoder:
    """The autoencoder of latents that came from a file, which names its checkpoint.

    Args:
        source: path, step and fingerprint, as the file had them.
        named: where it lies now; "" for where it lay.

    Raises:
        SettingsError: it is gone, or is another one.
    """
    path = Path(named or source["path"]).expanduser()
    way_out = (
        "Bring it back, name the checkpoint where it lies now by autoencoder=PATH, or train with "
        "the checkpoint as space.latents, and its weights are kept beside the training."
    )
    try:
        there = checkpoint.source(checkpoint.find(path, best=True))
    except checkpoint.CheckpointError as error:
        raise SettingsError(
            "latents are decoded by the autoencoder that made them, the checkpoint "
            f"{source['path']} ({source['fingerprint']}), and there is none at {path}: {error} "
            f"{way_out}"
        ) from error
    if there["fingerprint"] != source["fingerprint"]:
        raise SettingsError(
            "latents are decoded by the autoencoder that made them, the checkpoint "
            f"{source['path']} ({source['fingerprint']}), and {there['path']} is another one "
            f"({there['fingerprint']}). {way_out}"
        )
    return open_autoencoder(there["path"], dims, "autoencoder").codec


def device() -> torch.device:
    """Where latents are made."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
