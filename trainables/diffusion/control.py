"""Whether a control branch can be trained on the network that `train.init_from` names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from settings.flat import flatten
from trainables.api import Finding
from trainables.checkpoints import checkpoint
from trainables.checkpoints.checkpoint import CheckpointError
from trainables.diffusion.settings import DiffusionSettings

_SHARED = (
    *("model.kind", "model.spatial_dims", "model.unet.", "space.kind", "data.group"),
    *("strategy.kind", "strategy.ddpm.prediction", "condition.", "score_aug.enabled"),
    *("score_aug.omega", "score_aug.modality_factors", "regulariser.self_conditioning.enabled"),
)
"""Settings, or what they begin with, that say what the frozen network is and was taught."""


def other_trunk(settings: DiffusionSettings) -> Iterator[Finding]:
    """One finding for all settings in which the training of the frozen network differs. Where its
    checkpoint is gone there is none: a training that is resumed has the network itself.
    """
    if not settings.control.enabled:
        return
    try:
        path = checkpoint.find(Path(settings.train.init_from).expanduser(), best=True)
        theirs: dict[str, Any] = checkpoint.read_meta(path).get("settings", {})
    except CheckpointError:
        return
    ours = json.loads(json.dumps(flatten(settings)))
    theirs = json.loads(json.dumps(theirs))
    differing = [
        f"{key} is {theirs[key]} there and {value} here"
        for key, value in ours.items()
        if key.startswith(_SHARED)
        and not key.endswith("dropout")
        and theirs.get(key, value) != value
    ]
    if differing:
        yield Finding(
            f"control.enabled=true keeps the network of {path} as it is, which was trained with "
            f"other settings: {'; '.join(differing)}. Take its settings, or train a network with "
            "these first.",
            hopeless=True,
        )
