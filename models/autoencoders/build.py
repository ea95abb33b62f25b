"""From the settings of an autoencoder to the network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from models.autoencoders.interface import Autoencoder
from models.autoencoders.settings import ModelSettings

CLASSES: Mapping[str, str] = {
    "vae": "models.autoencoders.vae:Vae",
    "vqvae": "models.autoencoders.vqvae:Vqvae",
    "dcae": "models.autoencoders.dcae:Dcae",
}
"""Every kind by name, as "module:class"; imported when built, because the libraries are heavy."""


def build_autoencoder(settings: ModelSettings, channels: int, *, load: bool = True) -> Autoencoder:
    """An autoencoder, initialised from torch's current random state.

    Args:
        channels: C of the images.
        load: whether `pretrained` is looked up; not where a checkpoint's weights follow, which
            must open offline.

    Raises:
        SettingsError: `pretrained` is another network than the settings describe.
        PretrainedError: it cannot be read or fetched.
    """
    module, _, name = CLASSES[settings.kind].partition(":")
    model: Any = getattr(importlib.import_module(module), name)(settings, channels)
    if settings.pretrained and load:  # a 2-D DC-AE: `ModelSettings.check`
        # diffusers, which only this kind needs
        from models.autoencoders.dcae_2d import load_published

        load_published(settings.pretrained, model.encoder, model.decoder, settings.dcae, channels)
    return model
