"""The forward of the head: an image, real or generated, is noised to a time that does not depend
on which it is, and judged by the features that the frozen network has of it.

Shapes: B samples; images [B, C, *S], in the space of the diffusion [B, c, *s].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.diffusion.rejection_head import Tapped
from models.diffusion.spaces import Space
from trainables.api import Modules, Tensors, draw_normal
from trainables.diffusion.forward import times
from trainables.diffusion.prediction import predict, strategy_of
from trainables.diffusion.settings import DiffusionSettings
from trainables.stepping.inputs import SEED

FROZEN, HEAD = "diffusion", "head"
"""Modules of the system."""


def noised(space: Space, batch: Tensors, base: DiffusionSettings) -> tuple[Tensor, Tensor]:
    """(x_t, t) of the images, as the diffusion's own training draws them by the samples' seeds; of
    a held-out pair at its log-SNR.
    """
    clean = space.encode(batch["image"].float())
    strategy = strategy_of(base, clean.shape[2:])
    t = times(strategy, batch, space.deviation)
    noise = draw_normal(batch[SEED], "noise", clean.shape[1:])
    return strategy.noised(clean, noise, t), t


def judged(modules: Modules, batch: Tensors, settings: object) -> dict[str, Tensor]:
    """The logit of each sample [B]: an estimate of log(q_t / p_t)."""
    frozen: Any = modules[FROZEN]
    base, parts = frozen.settings, frozen.modules_by_name
    tapped: Any = Tapped(parts["network"])
    with torch.no_grad():
        noisy, t = noised(parts["space"], batch, base)
        predict({**parts, "network": tapped}, noisy, t, batch, base)
    logit: Tensor = modules[HEAD](tapped.features)
    return {"logit": logit}
