"""What the conditioner objects to before a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.fields.augment import AugmentSettings
from data.fields.dataset import DataSettings
from losses.conditioner import LossSettings
from models.fields.network import ModelSettings

EXPLAINED = 0.99
"""The rank of latents is the number of directions that hold this share of their variance."""


def contradictions(
    augment: AugmentSettings, loss: LossSettings, data: DataSettings
) -> list[str]:
    """Settings that cannot do what they were set for, in words."""
    problems = []
    net = augment.net_probabilities
    changes = (
        net["flip"],
        net["shift"] * augment.shift_pixels,
        net["rotation"] * augment.rotation_degrees,
        net["scale"] * augment.scale_change,
        net["noise"] * augment.noise_sigma,
    )
    if loss.consistency.is_on and not any(changes):
        problems.append(
            "loss.consistency is idle: no image is augmented, so there is no second view "
            "(000-M12). Raise augment.outer_probability and that of a change (such as "
            "augment.shift_probability), or switch the term off."
        )
    flips = net["flip"]
    if flips and data.source == "generated" and not data.symmetric:
        problems.append(
            f"{flips:.0%} of the images are flipped, but generated fields change with the flip "
            "(000-M13): their targets are wrong. Set data.symmetric=true, or "
            "augment.flip_symmetric=false."
        )
    return problems


def narrow_heads(model: ModelSettings, latents: Path, train: np.ndarray) -> list[str]:
    """Heads with a layer of fewer units than the rank of what they are to predict, in words.

    What such a head puts out before its tanh lies in as many directions as that layer has units,
    whatever it is trained on.

    Args:
        latents: a folder with main.npy [P, M] and hier.npy [P, K, h].
        train: the indices of the training samples.
    """
    problems, main_size = [], 0
    for kind in ("main", "hier"):
        values = np.load(latents / f"{kind}.npy", mmap_mode="r", allow_pickle=False)[train]
        targets = values.reshape(len(train), -1).astype(np.float64)
        main_size = main_size or targets.shape[1]
        variances = np.linalg.svd(targets - targets.mean(axis=0), compute_uv=False) ** 2
        held = variances.cumsum() / max(variances.sum(), np.finfo(np.float64).tiny)
        rank = int((held < EXPLAINED).sum()) + 1
        widths = model.widths(main_size, targets.shape[1])
        narrowest = min(widths.values())
        if narrowest < rank and held[-1] > 0.0:
            narrow = [name for name, units in widths.items() if units < rank]
            most = held[narrowest - 1]
            problems.append(
                f"the head of the {kind} latents is narrower than they are: {EXPLAINED:.0%} of "
                f"the variance of its training targets lies in {rank} directions, and {narrowest} "
                f"units, its narrowest layer, can give {most:.0%}, however long it is trained. "
                f"Raise {' and '.join(narrow)} to {rank} or more."
            )
    return problems
