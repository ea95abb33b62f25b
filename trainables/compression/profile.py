"""The cost of a training step of the autoencoders: parameters, time and peak memory, measured with
the one loop on random images.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from settings.flat import replace
from settings.mri import MASK, channels_of
from settings.schema import SettingsError
from trainables.compression.settings import CompressionSettings
from trainables.parts import Loaders
from trainables.system import System

_MEGABYTE = 1e6
_ENDLESS = 1_000_000
"""Steps of the training of which a few are taken."""

_WARM = 2
"""Steps before the clock starts: they make the optimizer's state."""


def profile_cases(
    settings: CompressionSettings, kinds: Sequence[str], sizes: Sequence[str]
) -> list[tuple[dict[str, Any], CompressionSettings]]:
    """Every kind of model with every size of its images: `kind`, `size` and `batch_size`, and the
    settings that make it.
    """
    dims = settings.model.spatial_dims
    kinds = kinds or [settings.model.kind]
    sizes = sizes or ["x".join(map(str, settings.data.space(dims)))]
    cases = []
    for kind, size in itertools.product(kinds, sizes):
        tree = replace(settings, {"model.kind": kind, **_space(size, dims)})
        shown = "x".join(map(str, tree.data.space(dims)))
        case = {"kind": kind, "size": shown, "batch_size": tree.train.batch_size}
        cases.append((case, tree))
    return cases


def _space(size: str, dims: int) -> dict[str, Any]:
    """The setting that makes images or volumes of this size."""
    given = size.split("x")
    if not all(side.isdecimal() for side in given) or len(given) not in (1, dims):
        raise SettingsError(
            f"--size takes a number of pixels, or {'x'.join('DHW'[-dims:])}, not {size!r}."
        )
    sides = tuple(map(int, given))
    if dims == 3:
        return {"data.volume_size": sides if len(sides) == 3 else sides * 3}
    if len(set(sides)) > 1:
        raise SettingsError(f"slices are square (data.image_size), not {size}.")
    return {"data.image_size": sides[0]}


def _on_nothing(system: System) -> System:
    """The system without data; the batches come from `random_batch`, and nothing is validated."""

    def loaders(self: System, settings: CompressionSettings, prepared: None) -> Loaders:
        nothing: Any = []
        unread: Any = [{}]  # a training begins only where there is something to validate
        return Loaders(nothing, unread)

    return type("OnNothing", (type(system),), {"loaders": loaders})()


def random_batch(settings: CompressionSettings) -> dict[str, Tensor]:
    """A training batch of the settings' size, of noise, with one lesion a sample."""
    generator = torch.Generator().manual_seed(0)
    count, dims = settings.train.batch_size, settings.model.spatial_dims
    space, group = settings.data.space(dims), settings.data.group
    image = torch.rand(count, channels_of(group), *space, generator=generator)
    mask = torch.zeros(count, 1, *space)
    lesion = [slice(None), slice(None), *(slice(side // 4, side // 2) for side in space)]
    mask[tuple(lesion)] = 1.0
    return {
        "image": mask.clone() if group == MASK else image,
        "mask": mask,
        "region": mask.byte(),
        "lesion": mask.byte(),
        "modality": torch.zeros(count, dtype=torch.int64),
        "spacing": torch.ones(count, dims),
        "seed": torch.arange(count),
    }


def profile_step(system: System, settings: CompressionSettings, steps: int) -> dict[str, Any]:
    """Takes training steps of the system and measures them. Run it in a process of its own: memory
    that another case has left would hide in this one's.

    Returns:
        `parameters` of the autoencoder and of the critic, `latent` [c, *s], `step_seconds`
        (median) and `peak_mb` (10^6 bytes): on a GPU the most that tensors took, on a CPU by how
        much the process grew at most, which counts what the allocator keeps.
    """
    from trainables.loop import Training
    from trainables.run import LocalRun

    system = _on_nothing(system)
    changes = {"train.steps": _ENDLESS, "train.tensorboard": False, "train.test": False}
    settings = replace(settings, changes)
    space = settings.data.space(settings.model.spatial_dims)
    with torch.device("meta"):  # imports what building needs, which is no memory of the model
        system.build(replace(settings, {"model.pretrained": ""}), None)
    before = _reset_peak()
    with tempfile.TemporaryDirectory() as folder:
        training = Training(system, settings, LocalRun(Path(folder)), None)
        batch, seconds = random_batch(settings), []
        for step in range(_WARM + steps):
            began = time.perf_counter()
            training.one_step([batch])
            _wait()
            if step >= _WARM:
                seconds.append(time.perf_counter() - began)
        peak, device = _peak(), str(training.accelerator.device)
        counts = {
            name: sum(p.numel() for p in module.parameters())
            for name, module in training.modules.items()
        }
        training.close()
    return {
        "parameters": counts["autoencoder"],
        "critic_parameters": counts.get("discriminator", 0),
        "latent": list(settings.model.latent_shape(space)),
        "step_seconds": statistics.median(seconds),
        "peak_mb": (peak - before) / _MEGABYTE,
        "device": device,
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> int:
    """Resets the peak and returns the bytes in use now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return 0
    # Linux: 5 resets VmHWM. ru_maxrss will not do, it begins with the parent's.
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status("VmHWM")


def _status(name: str) -> int:
    """Reads a line of /proc/self/status, which is in kB, as bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
