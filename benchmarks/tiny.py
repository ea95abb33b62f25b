"""Each system in a size of seconds, for what is measured or tested of the platform around it."""

from __future__ import annotations

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "hdr_patch": {
        "model.width": 4,
        "data.frames": 6,
        "data.height": 64,
        "data.width": 96,
        "data.crop": 32,
        "data.validation_crops": 6,
        "train.batch_size": 2,
        "train.validation_batch_size": 4,
    },
    "conditioner": {
        "model.filters": (4, 8),
        "data.count": 24,
        "data.image_size": 16,
        "data.times": 8,
        "data.probes_per_side": 3,
        "vae.filters": (8, 6),
        "vae.main_size": 4,
        "vae.hier_size": 4,
        "vae.steps": 3,
        "vae.batch_size": 4,
        "train.batch_size": 4,
        "train.validation_batch_size": 4,
    },
    "compression": {
        "model.vae.widths": (8, 8),
        "discriminator.enabled": True,
        "discriminator.width": 4,
        "discriminator.layers": 1,
        "loss.adversarial.enabled": True,
        "data.image_size": 16,
        "data.slices": 12,
        "data.patients": (2, 1, 1),
        "data.validation_samples": 6,
        "train.batch_size": 2,
        "train.validation_batch_size": 4,
    },
    "field_vae": {
        "model.filters": (8, 6),
        # Of so few fields the principal components leave nothing to learn.
        "model.linear": False,
        "model.main_size": 4,
        "model.hier_size": 4,
        "data.count": 24,
        "data.length": 8,
        "data.probes_per_side": 3,
        "train.batch_size": 4,
        "train.validation_batch_size": 4,
    },
    "trainables.toy:Toy": {},
    "trainables.toy:ToyGan": {},
}
"""Per system what makes it small, its length aside; a new system adds a line. The stored curves
of tests/golden depend on it.
"""

SHORT: dict[str, Any] = {"train.steps": 4, "train.report_every": 2, "train.tensorboard": False}
"""A training of two reports."""
