"""The diffusion whose images are judged: opened, frozen, kept as a file of weights, and made again
from what a checkpoint says of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from settings.flat import flatten, replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.system import Diffusion
from trainables.external import fingerprint

Meta = Mapping[str, Any]
"""As JSON holds it: settings and `built` of the diffusion, the fingerprint of its network."""


class FrozenDiffusion(nn.Module):
    """All modules of a diffusion, in evaluation for ever.

    Attributes:
        settings: of its training.
    """

    def __init__(self, settings: DiffusionSettings, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.settings = settings
        self.parts = nn.ModuleDict(dict(modules))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenDiffusion:
        super().train(False)
        return self

    @property
    def modules_by_name(self) -> dict[str, nn.Module]:
        return dict(self.parts.items())

    @property
    def features(self) -> int:
        """Channels of the middle block."""
        return self.settings.model.unet.widths[-1]


@dataclass(frozen=True)
class OpenedDiffusion:
    """A diffusion of a checkpoint, on the CPU, and where it lies."""

    frozen: FrozenDiffusion
    meta: Meta
    source: Meta


def open_diffusion(named: str) -> OpenedDiffusion:
    """The diffusion of a training's best checkpoint, or of a step-* folder.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        SettingsError: none is named, it is of another system, or its images cannot be judged.
    """
    if not named:
        raise SettingsError(
            "diffusion.checkpoint names the training of diffusion whose images are judged, and is "
            "empty. Train one, and set diffusion.checkpoint to its folder."
        )
    path = checkpoint.find(Path(named).expanduser(), best=True)
    stored = checkpoint.read_meta(path)
    if stored["system"] != Diffusion.name:
        raise SettingsError(
            f"diffusion.checkpoint={named} is a checkpoint of {stored['system']}, not of "
            f"{Diffusion.name}. Name a training of diffusion."
        )
    opened = open_checkpoint(path)
    settings: Any = opened.settings
    _check(settings, named)
    frozen = FrozenDiffusion(settings, opened.modules)
    network = fingerprint(opened.modules["network"].state_dict())
    meta = {"settings": flatten(settings), "built": stored["built"], "network": network}
    return OpenedDiffusion(frozen, meta, checkpoint.source(path))


def made(meta: Meta) -> FrozenDiffusion:
    """The diffusion that `OpenedDiffusion.meta` describes; its weights follow."""
    settings = base_settings(meta)
    return FrozenDiffusion(settings, Diffusion().rebuild(settings, meta["built"]).modules)


def base_settings(meta: Meta) -> DiffusionSettings:
    """Of the diffusion's training."""
    return replace(DiffusionSettings(), meta["settings"])


def _check(settings: DiffusionSettings, named: str) -> None:
    if settings.space.is_latent:
        raise SettingsError(
            f"diffusion.checkpoint={named} diffuses latents, and a head is trained on images. "
            "Name a training in another space (space.kind)."
        )
    if settings.model.kind != "unet":
        raise SettingsError(
            f"diffusion.checkpoint={named} is a {settings.model.kind}, and a head reads the "
            "middle of a UNet. Name a training with model.kind=unet."
        )
