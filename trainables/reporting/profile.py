"""What a training step takes: time, peak memory and what is kept for the backward pass, measured
with the one loop on random images. Systems of medical images share it; each knows its kinds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from settings.mri import MASK, channels_of
from settings.schema import SettingsError
from trainables.parts import Loaders, Phase
from trainables.run import LocalRun
from trainables.system import System

MEGABYTE = 1e6
_ENDLESS = 1_000_000
"""Steps of the training of which a few are taken."""

_WARM = 2
"""Steps before the clock starts: they make the optimizer's state."""

CHANGES: Mapping[str, Any] = {
    "train.steps": _ENDLESS,
    "train.tensorboard": False,
    "train.test": False,
}
"""Of the settings of a training that is measured."""


class DataNode(Protocol):
    @property
    def group(self) -> str:
        """Of `settings.mri.GROUPS`."""

    def space(self, dims: int) -> tuple[int, ...]:
        """Sides of the samples."""


class ModelNode(Protocol):
    @property
    def spatial_dims(self) -> int:
        """2 or 3."""


class TrainNode(Protocol):
    @property
    def batch_size(self) -> int: ...


class ImageTree(Protocol):
    """What is read of a system's settings."""

    @property
    def data(self) -> DataNode: ...

    @property
    def model(self) -> ModelNode: ...

    @property
    def train(self) -> TrainNode: ...


class Stepped(Protocol):
    """A training, as far as it is measured here (`trainables.loop.Training`)."""

    accelerator: Accelerator
    modules: dict[str, nn.Module]
    phases: list[Phase]
    settings: Any

    def one_step(self, batches: Sequence[Mapping[str, Tensor]]) -> None: ...

    def close(self) -> None: ...


def sides_of(size: str, dims: int) -> dict[str, Any]:
    """The setting that makes images or volumes of this size.

    Raises:
        SettingsError: there are none.
    """
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


def shown_sides(settings: ImageTree) -> str:
    """The size of the samples, as `sides_of` takes it."""
    return "x".join(map(str, settings.data.space(settings.model.spatial_dims)))


def on_nothing(system: System) -> System:
    """The system without data; the batches come from `random_batch`, and nothing is validated."""

    def loaders(self: System, settings: object, prepared: None) -> Loaders:
        nothing: Any = []
        unread: Any = [{}]  # a training begins only where there is something to validate
        return Loaders(nothing, unread)

    return type("OnNothing", (type(system),), {"loaders": loaders})()


def random_batch(settings: ImageTree) -> dict[str, Tensor]:
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


def measured_steps(
    begin: Callable[[LocalRun], Stepped], batch: Mapping[str, Tensor], steps: int
) -> dict[str, Any]:
    """Takes training steps and measures them. Run it in a process of its own, with all imported
    that building needs: memory that something else has left would hide in this one's.

    Args:
        begin: makes the training.

    Returns:
        `counts`, the parameters of each module; `step_seconds` (median); `peak_mb` (10^6 bytes),
        on a GPU the most that tensors took, on a CPU by how much the process grew at most, which
        counts what the allocator keeps; `activations_mb`; and `device`.
    """
    before = _reset_peak()
    with tempfile.TemporaryDirectory() as folder:
        training, seconds = begin(LocalRun(Path(folder))), []
        for step in range(_WARM + steps):
            began = time.perf_counter()
            training.one_step([batch])
            _wait()
            if step >= _WARM:
                seconds.append(time.perf_counter() - began)
        peak, device = _peak(), training.accelerator.device
        on_device = {name: value.to(device) for name, value in batch.items()}
        with training.accelerator.autocast():
            stored = kept_bytes(
                lambda: training.phases[0].forward(
                    training.modules, on_device, training.settings
                ),
                training.modules,
            )
        counts = {
            name: sum(p.numel() for p in module.parameters())
            for name, module in training.modules.items()
        }
        training.close()
    return {
        "counts": counts,
        "step_seconds": statistics.median(seconds),
        "peak_mb": (peak - before) / MEGABYTE,
        "activations_mb": stored / MEGABYTE,
        "device": str(device),
    }


def kept_bytes(forward: Callable[[], object], modules: Mapping[str, nn.Module]) -> int:
    """What a forward keeps for its backward, without the modules' own tensors: the storages that
    autograd holds, each once.
    """
    weights = {
        tensor.untyped_storage().data_ptr()
        for module in modules.values()
        for tensor in (*module.parameters(), *module.buffers())
    }
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in held.values())


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
