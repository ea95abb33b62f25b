"""Networks of the demo of `diffusion`, trained on a draw of its data, and images made by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ray_jobs.verb import cache_directory
from settings.flat import replace
from settings.resolve import resolve
from trainables.diffusion.prepared import Prepared
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.use import sampled
from trainables.loop import fit
from trainables.reporting.measure import modules_of
from trainables.run import LocalRun
from trainables.system import load_system

_AT_ONCE = 32
_SMALL = {"data.image_size": 32, "train.report_every": 400}
"""Half the sides of the demo, whose trainings take a third of the time."""

_QUIET = {"train.tensorboard": False, "train.figures": False}


@dataclass(frozen=True)
class Trained:
    """A training that has ended: its settings and data, and its modules in eval mode, with their
    moving averages.
    """

    settings: DiffusionSettings
    prepared: Prepared
    modules: Mapping[str, Any]


def begun(
    preset: str, changes: Mapping[str, Any], draw: int
) -> tuple[DiffusionSettings, Prepared]:
    """(settings, data) of a preset with changes, patients of `data.seed=draw`, at 32 x 32."""
    system = load_system("diffusion")
    given = {**_SMALL, **changes}
    first = resolve(system.Settings, system.name, preset=preset, sampled=given).settings
    settings = replace(first, {"data.seed": draw, **_QUIET})
    return settings, system.prepare(settings, cache_directory())


def trained(preset: str, changes: Mapping[str, Any], draw: int, folder: Path) -> Trained:
    """A training of what `begun` has."""
    from accelerate import Accelerator

    system = load_system("diffusion")
    settings, prepared = begun(preset, changes, draw)
    fit(system, settings, LocalRun(folder), prepared)
    newest = max((folder / "checkpoints").glob("step-*"))
    modules = modules_of(system, settings, prepared, newest, Accelerator(cpu=True))
    for module in modules.values():
        module.eval()
    return Trained(settings, prepared, modules)


@torch.no_grad()
def images_of(
    network: Trained, seeds: Sequence[int], steps: int, batch: Mapping[str, Tensor] | None = None
) -> Tensor:
    """An image for each seed, [N, C, *S]; batch: what it is conditioned on, a row for each."""
    space: Any = network.modules["space"]
    sampling = replace(network.settings.sampling, {"steps": steps})
    made = []
    for begin in range(0, len(seeds), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        chosen = torch.tensor(seeds[part])
        given = {name: values[part] for name, values in (batch or {}).items()}
        *_, state = sampled(
            network.settings, network.modules, {**given, "seed": chosen}, chosen, sampling
        )
        made.append(space.decode(state.x).float())
    return torch.cat(made)
