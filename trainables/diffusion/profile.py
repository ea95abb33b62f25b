"""The cost of a training step of diffusion: parameters, tokens, time and memory, for each network
of each published size and patch, at each size of its images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from models.diffusion.settings import (
    DIT_SIZES,
    HDIT_SIZES,
    KINDS,
    UNET_SIZES,
    UVIT_SIZES,
    ModelSettings,
)
from settings.flat import flatten, replace
from settings.schema import SettingsError
from trainables.diffusion.settings import DiffusionSettings
from trainables.reporting.profile import (
    CHANGES,
    measured_steps,
    on_nothing,
    random_batch,
    shown_sides,
    sides_of,
)
from trainables.system import System

SIZES: Mapping[str, Sequence[str]] = {
    "unet": tuple(UNET_SIZES),
    "dit": tuple(DIT_SIZES),
    "hdit": tuple(HDIT_SIZES),
    "uvit": tuple(UVIT_SIZES),
}


def profile_cases(
    settings: DiffusionSettings, kinds: Sequence[str], sizes: Sequence[str]
) -> list[tuple[dict[str, Any], DiffusionSettings]]:
    """Every network with every size of its images: `kind`, `size` and `batch_size`, and the
    settings that make it.

    Args:
        kinds: KIND, KIND-SIZE or KIND-SIZE/PATCH, as the papers write them: `dit-XL/2`. What is
            left out is that of the settings.
    """
    dims = settings.model.spatial_dims
    kinds = kinds or [settings.model.kind]
    sizes = sizes or [shown_sides(settings)]
    cases = []
    for kind, size in itertools.product(kinds, sizes):
        tree = replace(settings, {**network_of(kind), **sides_of(size, dims)})
        case = {"kind": kind, "size": shown_sides(tree), "batch_size": tree.train.batch_size}
        cases.append((case, tree))
    return cases


def network_of(spelled: str) -> dict[str, Any]:
    """The settings of a network spelled KIND, KIND-SIZE, KIND/PATCH or KIND-SIZE/PATCH.

    Raises:
        SettingsError: there is none.
    """
    named, slash, patch = spelled.partition("/")
    kind, dash, size = named.partition("-")
    if kind not in KINDS:
        raise SettingsError(
            f"--kinds takes {', '.join(KINDS)}, each with a size and a patch where they are to be "
            f"others than the settings' (dit-S/2), not {spelled!r}."
        )
    if dash and size not in SIZES[kind]:
        raise SettingsError(f"{kind} has the sizes {', '.join(SIZES[kind])}, not {size!r}.")
    if slash and (kind == "unet" or not patch.isdecimal()):
        raise SettingsError(
            f"--kinds {spelled}: a patch is a number of cells (dit-S/2), and a unet has none."
        )
    changes: dict[str, Any] = {"model.kind": kind}
    if dash and kind == "unet":
        changes |= {f"model.unet.{key}": value for key, value in flatten(UNET_SIZES[size]).items()}
    elif dash:
        changes[f"model.{kind}.size"] = size
    if slash:
        changes[f"model.{kind}.patch_size"] = int(patch)
    return changes


def tokens_of(model: ModelSettings, sides: Sequence[int]) -> list[int]:
    """What attends to each other, for every level that has attention, finest first: tokens of a
    transformer (with the time's in a `uvit`), cells of a `unet`.
    """
    if model.kind == "unet":
        coarsest = len(model.unet.widths) - 1
        first = coarsest + 1 - max(1, model.unet.attention)
        divisors = [2**level for level in range(max(0, first), coarsest + 1)]
    else:
        patch = {
            "dit": model.dit.patch_size,
            "hdit": model.hdit.patch_size,
            "uvit": model.uvit.patch_size,
        }[model.kind]
        levels = len(model.hdit.level_depths) // 2 + 1 if model.kind == "hdit" else 1
        divisors = [patch * 2**level for level in range(levels)]
    more = 1 if model.kind == "uvit" else 0
    return [math.prod(side // divisor for side in sides) + more for divisor in divisors]


def profile_step(system: System, settings: DiffusionSettings, steps: int) -> dict[str, Any]:
    """What a step takes (`trainables.reporting.profile.measured_steps`), with `parameters` of the
    network and of what is learnt about conditions, `tokens`, and `latent` [c, *s], the shape of
    what is diffused.
    """
    from trainables.loop import Training

    system, settings = on_nothing(system), replace(settings, CHANGES)
    with torch.device("meta"):  # imports what building needs, which is no memory of the model
        built = system.build(settings, None)
    space: Any = built.modules["space"]
    batch = random_batch(settings)
    sizes = settings.condition.sizes
    if sizes.enabled:
        batch["counts"] = torch.ones(settings.train.batch_size, sizes.bins, dtype=torch.int64)
    measures = measured_steps(lambda run: Training(system, settings, run, None), batch, steps)
    counts = measures.pop("counts")
    return {
        "parameters": counts["network"] + counts.get("conditions", 0),
        "critic_parameters": 0,
        "latent": [len(space.shift), *settings.sides],
        "tokens": tokens_of(settings.model, settings.sides),
        **measures,
    }
