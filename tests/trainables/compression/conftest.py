"""System `compression` in a size of seconds, for scans of 16 x 16 pixels that a test writes."""

from __future__ import annotations

import pytest
import torch

from settings.flat import replace
from trainables.compression.system import Compression

SMALL = {
    "model.vae.widths": (8, 8),
    "model.vqvae.widths": (8,),
    "model.vqvae.codes": 16,
    "data.image_size": 16,
    "data.volume_size": (8, 16, 16),
    "data.source": "folder",
    "train.validation_batch_size": 4,
}


@pytest.fixture
def autoencoder():
    """`autoencoder(root, **changes)`: (settings, modules as they are before their training)."""
    system = Compression()

    def made(root, **changes):
        named = {key.replace("__", "."): value for key, value in changes.items()}
        settings = replace(system.Settings(), {**SMALL, "data.root": str(root), **named})
        torch.manual_seed(0)
        built = system.build(settings, None)
        for module in built.modules.values():
            module.eval()
        return settings, built

    return made
