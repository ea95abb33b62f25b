"""Examinations of a training of diffusion: images that the network makes, what it says of one
noisy image at other times, and whether its moving average has followed it.

Shapes: B cases; x_t [B, c, *s]; images [B, C, *S].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.diffusion import LEVELS
from metrics.diffusion_signs import AVERAGE_ERROR, SPREAD, TIME_RESPONSE
from models.diffusion.strategies.sampling import State, last
from settings.mri import GROUPS
from trainables.api import Column, Exam, Examination, Modules
from trainables.diffusion.forward import noised, times
from trainables.diffusion.latent.modules import MASK_ENCODER
from trainables.diffusion.prediction import predict, strategy_of
from trainables.diffusion.samples import LEVEL, PAIRS
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.use import sampled
from trainables.drawing import flat, rows

_CASES = {2: 8, 3: 4}
"""Images that are made, by their dimensions."""

_TIMES = (0, 2, 4)
"""Of `LEVELS`, log-SNR -6, 0 and 6: at whose times predictions of one image are compared."""

_SHOWN = 4

_MARGIN = 0.05
"""Beyond [0, 1], from which on a value counts as outside."""

_COARSE = 32
"""Pixels a side at which images are compared in spread."""


def examinations(settings: DiffusionSettings) -> tuple[Examination, ...]:
    """Images that the network makes by `sampling`, and the way to them, but not of a file of
    latents, without their autoencoder; the signs of its health.
    """
    signs = Examination("signs", len(LEVELS), _sign_columns(), _signs)
    return (signs, _generated(settings)) if settings.space.has_images else (signs,)


# Images that are made


def _generated(settings: DiffusionSettings) -> Examination:
    reads = ("sampling.*", "condition.*", "control.*", "strategy.*", "space.*", "data.*_size")
    cases = _CASES[settings.model.spatial_dims]
    outside = f"share of these values outside [-{_MARGIN}, 1 + {_MARGIN}]"
    spread = (
        f"deviation between {cases} images that the network makes over that between as many of "
        "validation, by pixel"
    )
    columns = [
        Column("generated_mean", "", None, "mean of the values of images that the network makes"),
        Column("generated_outside", "", None, outside),
        Column(SPREAD, "", None, spread, _ratio_of_deviations),
    ]
    placed = [dataclasses.replace(column, reads=reads) for column in columns]
    return Examination("generated", cases, placed, _make, _draw)


def _modules(exam: Exam) -> Modules:
    names = ("network", "space", "conditions", "control", MASK_ENCODER)
    return {name: exam.modules[name] for name in names if name in exam.modules}


def _path(exam: Exam, batch: Mapping[str, Tensor]) -> Iterator[State]:
    seeds = torch.tensor([exam.seed(case) for case in exam.cases], device=exam.device)
    settings: DiffusionSettings = exam.settings
    return sampled(settings, _modules(exam), {**batch, "seed": seeds}, seeds, settings.sampling)


def _images(exam: Exam) -> Mapping[str, Tensor]:
    """Validation images of the cases, spread over all of them."""
    samples: Any = getattr(exam.loaders, exam.split)
    images = len(samples) // PAIRS
    cases = _CASES[exam.settings.model.spatial_dims]
    return exam.fetch([case * images // cases * PAIRS for case in exam.cases])


def _make(exam: Exam) -> Mapping[str, tuple[Tensor, Tensor]]:
    space: Any = exam.modules["space"]
    batch = _images(exam)
    with exam.autocast():
        image = space.decode(last(_path(exam, batch)).x).double()
    is_outside = (image < -_MARGIN) | (image > 1.0 + _MARGIN)
    values = torch.tensor(image.numel(), dtype=torch.float64)
    moments = torch.cat([*_moments(image), *_moments(batch["image"].double())])
    return {
        "generated_mean": (image.sum(), values),
        "generated_outside": (is_outside.double().sum(), values),
        SPREAD: (moments, torch.tensor(len(image), dtype=torch.float64)),
    }


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over images of the values of coarse pixels, and of their squares: [P], [P]."""
    sides = [min(side, _COARSE) for side in images.shape[2:]]
    pool: Any = F.adaptive_avg_pool2d if images.ndim == 4 else F.adaptive_avg_pool3d
    coarse: Tensor = pool(images, sides)
    coarse = coarse.flatten(1)
    return coarse.sum(dim=0), coarse.square().sum(dim=0)


def _ratio_of_deviations(moments: Tensor, count: float) -> float:
    made, squares, given, given_squares = moments.view(4, -1)
    of_made = (squares - made.square() / count).sum().clamp(min=0.0)  # but for rounding
    of_given = (given_squares - given.square() / count).sum()
    return math.sqrt(of_made / of_given) if count > 1 and of_given > 0 else math.nan


def _draw(exam: Exam) -> Mapping[str, Tensor]:
    space: Any = exam.modules["space"]
    with exam.autocast():
        states = [space.decode(state.x)[:_SHOWN] for state in _path(exam, _images(exam))]
    settings: DiffusionSettings = exam.settings
    shown = min(settings.logging.num_intermediate_steps, len(states))
    places = np.linspace(0, len(states) - 1, shown).round().astype(int)
    names = GROUPS[settings.data.group] if states[-1].shape[1] > 1 else ()
    return {
        "generated": rows(flat(states[-1])),
        **{
            f"generated_{name}": rows(flat(states[-1][:, channel : channel + 1]))
            for channel, name in enumerate(names)
        },
        "trajectory": rows(*(flat(states[place]) for place in places)),
    }


# The network's own signs


def _sign_columns() -> list[Column]:
    reads = ("strategy.*", "space.*")
    response = (
        "deviation of what is predicted of one noisy image at the times of log-SNR -6, 0 and 6, "
        "of its root mean square"
    )
    behind = "squared error of what the moving average predicts over that of the last weights"
    return [
        Column(TIME_RESPONSE, "", None, response, _root_of_share, reads),
        Column(AVERAGE_ERROR, "", None, behind, _share, reads),
    ]


def _signs(exam: Exam) -> Mapping[str, tuple[Tensor, Tensor]]:
    settings: DiffusionSettings = exam.settings
    space: Any = exam.modules["space"]
    batch = exam.batch([case * PAIRS + case for case in exam.cases])  # each at its own level
    given = noised(space, batch, settings)
    noisy = given["noisy"]
    strategy = strategy_of(settings, noisy.shape[2:])
    count = torch.tensor(len(noisy), dtype=torch.float64)
    with exam.autocast():
        said = []
        for level in _TIMES:
            at = {**batch, LEVEL: torch.full_like(batch[LEVEL], level)}
            t = times(strategy, at, space.deviation)
            said.append(predict(_modules(exam), noisy, t, batch, settings))
        errors = [
            (predict(modules, noisy, given["t"], batch, settings) - given["target"])
            for modules in (_modules(exam), _last(exam))
        ]
    at_times = torch.stack(said).double()
    deviations = (at_times - at_times.mean(dim=0)).square().sum()
    squared = [error.double().square().sum() for error in errors]
    if not any(f"last.{name}" in exam.modules for name in _modules(exam)):
        squared = [torch.full_like(value, math.nan) for value in squared]
    return {
        TIME_RESPONSE: (torch.stack([deviations, at_times.square().sum()]), count),
        AVERAGE_ERROR: (torch.stack(squared), count),
    }


def _last(exam: Exam) -> Modules:
    """The modules with their last weights in place of the moving averages."""
    modules = _modules(exam)
    return {name: exam.modules.get(f"last.{name}", module) for name, module in modules.items()}


def _share(sums: Tensor, count: float) -> float:
    part, whole = sums.tolist()
    return part / whole if whole > 0.0 else math.nan


def _root_of_share(sums: Tensor, count: float) -> float:
    return math.sqrt(_share(sums, count))
