"""The space of the simulation VAE: the weight of its divergence, the start of its latents."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.domains import Choice, LogUniform
from search_spaces.space import Space

WEIGHTS = Space(
    name="weights",
    system="field_vae",
    domains={
        "loss.kl.weight": LogUniform(1e-8, 1e-3),
        "model.linear": Choice((True, False)),
        "optimizer.lr": LogUniform(5e-5, 5e-3),
    },
    points=("document",),
    fixed={"loss.reconstruction.enabled": True, "loss.reconstruction.weight": 1.0},
)

SPACES: Mapping[str, Space] = {"weights": WEIGHTS}
"""The first is the default."""
