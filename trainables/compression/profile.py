"""The cost of a training step of the autoencoders: parameters, time and peak memory, measured with
the one loop on random images.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from settings.flat import replace
from trainables.compression.settings import CompressionSettings
from trainables.reporting.profile import (
    CHANGES,
    measured_steps,
    on_nothing,
    random_batch,
    shown_sides,
    sides_of,
)
from trainables.system import System


def profile_cases(
    settings: CompressionSettings, kinds: Sequence[str], sizes: Sequence[str]
) -> list[tuple[dict[str, Any], CompressionSettings]]:
    """Every kind of model with every size of its images: `kind`, `size` and `batch_size`, and the
    settings that make it.
    """
    dims = settings.model.spatial_dims
    kinds = kinds or [settings.model.kind]
    sizes = sizes or [shown_sides(settings)]
    cases = []
    for kind, size in itertools.product(kinds, sizes):
        tree = replace(settings, {"model.kind": kind, **sides_of(size, dims)})
        case = {"kind": kind, "size": shown_sides(tree), "batch_size": tree.train.batch_size}
        cases.append((case, tree))
    return cases


def profile_step(system: System, settings: CompressionSettings, steps: int) -> dict[str, Any]:
    """What a step takes (`trainables.reporting.profile.measured_steps`), with `parameters` of the
    autoencoder and of the critic, and `latent` [c, *s].
    """
    from trainables.loop import Training

    system, settings = on_nothing(system), replace(settings, CHANGES)
    with torch.device("meta"):  # imports what building needs, which is no memory of the model
        system.build(replace(settings, {"model.pretrained": ""}), None)
    measures = measured_steps(
        lambda run: Training(system, settings, run, None), random_batch(settings), steps
    )
    counts = measures.pop("counts")
    space = settings.data.space(settings.model.spatial_dims)
    return {
        "parameters": counts["autoencoder"],
        "critic_parameters": counts.get("discriminator", 0),
        "latent": list(settings.model.latent_shape(space)),
        **measures,
    }
