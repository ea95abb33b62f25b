"""What a training does to its samples, drawn for the verb `visualize_augmentations`: each
augmentation by itself, the transformations of ScoreAug, and the pair of SDA.

Shapes: B samples; images [B, C, *S]; x_t and target [B, c, *s].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from losses.diffusion_terms import LATENT
from metrics.diffusion import LEVELS
from models.diffusion.score_aug.sda import shifted
from models.diffusion.score_aug.settings import ScoreAugSettings
from models.diffusion.score_aug.transforms import Plan, apply, symmetries, unchanged
from models.diffusion.spaces import Space
from models.diffusion.strategies.times import on_grid
from settings.flat import flatten
from trainables.api import Tensors
from trainables.diffusion.forward import noised
from trainables.diffusion.prediction import strategy_of
from trainables.diffusion.prepared import Prepared
from trainables.diffusion.samples import BIN, LEVEL
from trainables.diffusion.settings import DiffusionSettings

_SHOWN_DEVIATIONS = 3.0
"""Of x_t and target, from the middle grey to black and to white."""

_LEVEL = LEVELS.index(3)
"""Noise of the log-SNR 3, under which both the image and the noise are to be seen."""

_PROBABILITY = "_probability"
_OF_VOLUMES = "turn"
_IN_FLIPS = ("flip", "turn")
"""Of volumes that `augment.volumes=flips` leaves."""

_AXES = ("W", "H", "D")


def augmentations(settings: DiffusionSettings) -> dict[str, dict[str, Any]]:
    """Name -> the settings that make this one alone, and always; those of `augment.kind`."""
    kind, is_3d = settings.augment.kind, settings.model.spatial_dims == 3
    if kind == "none":
        return {}
    node = getattr(settings.augment, kind)
    keys = [key for key in flatten(node) if key.endswith(_PROBABILITY)]
    names = {key.removesuffix(_PROBABILITY): key for key in keys}
    if is_3d and settings.augment.volumes == "flips":
        names = {name: key for name, key in names.items() if name in _IN_FLIPS}
    elif not is_3d:
        names.pop(_OF_VOLUMES, None)
    nothing = {f"augment.{kind}.{key}": 0.0 for key in keys}
    return {
        name.replace("_", " "): {**nothing, f"augment.{kind}.{key}": 1.0}
        for name, key in names.items()
    }


def augmented_views(
    settings: DiffusionSettings, prepared: Prepared, batch: Tensors
) -> dict[str, dict[str, Tensor]]:
    """`score_aug`, `patterns` and `sda`, those that are on. A picture has x_t on the left and what
    is predicted of it on the right, of the first channel of the space; 0 is the middle grey.
    """
    if not (settings.score_aug.enabled or settings.loss.sda.is_on):
        return {}
    image = batch[LATENT] if LATENT in batch else batch["image"]
    level = torch.full((len(image),), _LEVEL)
    given = {**batch, LEVEL: level, BIN: torch.full_like(level, -1)}
    space = prepared.space(settings.space)
    figures: dict[str, dict[str, Tensor]] = {}
    if settings.score_aug.enabled:
        figures |= _score_aug(settings, noised(space, given, settings))
    if settings.loss.sda.is_on:
        figures["sda"] = _sda(settings, space, given)
    return figures


def _score_aug(settings: DiffusionSettings, given: Tensors) -> dict[str, dict[str, Tensor]]:
    node, noisy = settings.score_aug, given["noisy"]
    count, dimensions = len(noisy), noisy.ndim - 2
    node.check_sides(noisy.shape[2:])

    def drawn(plan: Plan) -> Tensor:
        return _pair(*(apply(plan, given[key], intensity=True) for key in ("noisy", "target")))

    nothing = {"as it is": drawn(unchanged(count, dimensions))}
    figures = {
        "score_aug": nothing
        | {name: drawn(plan) for name, plan in _plans(node, count, dimensions)}
    }
    if node.draws_patterns:
        figures["patterns"] = nothing | {
            f"pattern {number}": drawn(_plan(count, dimensions, pattern=torch.tensor(number)))
            for number in node.v2.patterns.ids
        }
    return figures


def _plans(node: ScoreAugSettings, count: int, dimensions: int) -> Iterator[tuple[str, Plan]]:
    """Each transformation that is on, the largest shift and factors, a box in the middle."""
    for turns, flip in symmetries(node.rotation, node.flip, dimensions):
        yield _symmetry_name(turns, flip), _plan(count, dimensions, turns=turns, flip=flip)
    if node.translation.enabled:
        shift = torch.tensor(node.translation.ranges(dimensions))
        yield "shift", _plan(count, dimensions, shift=shift)
    if node.draws_cutouts:
        length = torch.full((dimensions,), 0.5 * (node.cutout.least + node.cutout.most))
        box = torch.stack([0.5 - 0.5 * length, length], dim=1)
        yield "cutout", _plan(count, dimensions, box=box)
    if node.brightness.enabled:
        for factor in (1.0 / node.brightness.largest, node.brightness.largest):
            scaled = torch.tensor(factor)
            yield f"brightness {factor:.2g}", _plan(count, dimensions, factor=scaled)


def _plan(
    count: int, dimensions: int, *, turns: int = 0, flip: int = 0, **each: Tensor
) -> Plan:
    """The same for all samples."""
    return Plan(
        dimensions=dimensions,
        turns=torch.full((count,), turns),
        flip=torch.full((count,), flip),
        needs_square=turns > 0,
        **{name: value.expand(count, *value.shape) for name, value in each.items()},
    )


def _symmetry_name(turns: int, flip: int) -> str:
    parts = [f"turn {90 * turns}"] if turns else []
    parts += [f"flip {_AXES[flip - 1]}"] if flip else []
    return ", ".join(parts)


def _sda(settings: DiffusionSettings, space: Space, given: Tensors) -> dict[str, Tensor]:
    """Images as they are at t, and every turned or flipped one at the time that t is shifted to,
    as `forward` makes them.
    """
    node, plain = settings.loss.sda, noised(space, given, settings)
    strategy = strategy_of(settings, plain["clean"].shape[2:])
    t = shifted(plain["t"], node)
    t = on_grid(t, strategy.levels) if strategy.levels else t
    image, dimensions = given["image"], given["image"].ndim - 2
    node.check_sides(image.shape[2:])
    columns = {f"t = {float(plain['t'][0]):.3g}": _pair(plain["noisy"], plain["target"])}
    for turns, flip in symmetries(node.rotation, node.flip, dimensions, combined=False):
        plan = _plan(len(image), dimensions, turns=turns, flip=flip)
        clean = space.encode(apply(plan, image).float())
        noise = apply(plan, plain["noise"])
        pair = _pair(strategy.noised(clean, noise, t), strategy.target(clean, noise, t))
        columns[f"{_symmetry_name(turns, flip)}, t = {float(t[0]):.3g}"] = pair
    return columns


def _pair(noisy: Tensor, target: Tensor) -> Tensor:
    """[B, 2, *s] in [0, 1]."""
    both = torch.cat([noisy[:, :1], target[:, :1]], dim=1).float()
    return (0.5 + 0.5 * both / _SHOWN_DEVIATIONS).clamp(0.0, 1.0)
