"""From the settings of a network of the diffusion to the network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from models.diffusion.interface import DiffusionNetwork
from models.diffusion.settings import ControlSettings, ModelSettings
from settings.schema import SettingsError

if TYPE_CHECKING:
    from models.diffusion.control import Control

CLASSES: Mapping[str, str] = {
    "unet": "models.diffusion.unet:Unet",
    "dit": "models.diffusion.dit:Dit",
    "hdit": "models.diffusion.hdit:Hdit",
    "uvit": "models.diffusion.uvit:Uvit",
}
"""Every kind by name, as "module:class"; imported when built, because MONAI is heavy."""


def build_network(
    settings: ModelSettings,
    size: Sequence[int],
    out_channels: int,
    *,
    condition_channels: int = 0,
    further_channels: int = 0,
) -> DiffusionNetwork:
    """A network, initialised from torch's current random state.

    Args:
        size: `*S` of what is diffused, in cells of the space, (H, W) or (D, H, W).
        out_channels: channels of what is diffused, and of the prediction.
        condition_channels: channels of the condition image, which become input channels of the
            network or its `context`, by `settings.conditioning`.
        further_channels: of its input, beside the noisy image, however conditions enter.

    Raises:
        SettingsError: the network cannot divide the sides, or has nothing to attend to.
    """
    settings.check_size(size)
    by_context = settings.conditioning == "cross_attn"
    if by_context and not condition_channels:
        raise SettingsError(
            "model.dit.conditioning=cross_attn needs a condition image, and there is none: use "
            "concat."
        )
    module, _, name = CLASSES[settings.kind].partition(":")
    network: Any = getattr(importlib.import_module(module), name)
    return network(
        settings,
        tuple(size),
        in_channels=out_channels
        + further_channels
        + (0 if by_context else condition_channels),
        out_channels=out_channels,
        context_channels=condition_channels if by_context else 0,
    )


def build_control(settings: ModelSettings, control: ControlSettings, in_channels: int) -> Control:
    """A control branch for a network of these settings that takes `in_channels`."""
    module = importlib.import_module("models.diffusion.control")
    made: Control = module.Control(settings, in_channels, control.widths)
    return made
