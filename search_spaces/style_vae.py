"""The space of the autoencoder of images: the weights of its loss, and where it begins.

Only ratios of weights matter under Adam, so the absolute error is the anchor, at 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, LogUniform
from search_spaces.space import Space

WEIGHTS = Space(
    name="weights",
    system="style_vae",
    domains={
        "loss.kl.weight": LogUniform(1e-8, 1e-4),
        "loss.mse.enabled": Choice((True, False)),
        "loss.mse.weight": LogUniform(1.0, 100.0, when={"loss.mse.enabled": (True,)}),
        "model.start": Choice(("components", "cosines")),
        "optimizer.lr": LogUniform(3e-4, 1e-2),
    },
    points=("latent_diffusion",),
    fixed={"loss.l1.enabled": True, "loss.l1.weight": 1.0},
)

SPACES: Mapping[str, Space] = {"weights": WEIGHTS}
"""The first is the default."""
