"""The machine as the loop uses it: the Accelerator, memory layout, and the compiler."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import recursively_apply, send_to_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from settings.schema import SettingsError
from trainables.stepping.train_settings import TrainSettings, computes

_COMPILER_MODULES = ("torch._dynamo", "torch._inductor", "torch._functorch")

VALIDATION_SEED = 0
"""Seeds what a validation or an examination draws from the generators of the process."""


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """A fresh Accelerator; its process-wide state is reset first, since one process serves many
    trials.
    """
    cuda = torch.cuda.is_available()
    if not computes(settings.precision, gpu=cuda):
        raise SettingsError(
            f"train.precision={settings.precision} needs a GPU: on a CPU Accelerate would compute "
            "in fp32 without saying so. Use train.precision=bf16 or no."
        )
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=not cuda, mixed_precision=settings.precision)


def to_device(batch: Any, device: torch.device, channels_last: bool) -> Any:
    """Puts a batch on the device; with `channels_last` its images [B, C, H, W] lie as [B, H, W, C]
    in memory.
    """
    from_pinned = device.type == "cuda"
    if from_pinned:  # from pageable memory the host would wait for the device
        batch = recursively_apply(_pinned, batch)
    batch = send_to_device(batch, device, non_blocking=from_pinned)
    if not channels_last or not isinstance(batch, Mapping):
        return batch
    return {name: _channels_last(value) for name, value in batch.items()}


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor


def _channels_last(value: Any) -> Any:
    is_image = isinstance(value, Tensor) and value.ndim == 4
    return value.contiguous(memory_format=torch.channels_last) if is_image else value


def seed_everything(seed: int, device: torch.device) -> None:
    """Puts the generators of the process, and of its GPU, to the place of a seed."""
    random.seed(seed)
    seed_torch(seed, device.type == "cuda")


def seed_torch(seed: int, on_gpu: bool) -> None:
    """As `torch.manual_seed`, which costs 1 ms where there is no GPU."""
    torch.default_generator.manual_seed(seed)
    if on_gpu:
        torch.cuda.manual_seed_all(seed)


@contextmanager
def fixed_draws(device: torch.device) -> Iterator[None]:
    """What is drawn from the generators of the process is the same each time, and they go on
    afterwards as if nothing had been drawn.
    """
    pythons, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_everything(VALIDATION_SEED, device)
        np.random.seed(VALIDATION_SEED)
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)


@torch.no_grad()
def lay_out(module: nn.Module, channels_last: bool) -> None:
    """Puts the module's tensors of four axes into channels-last order.

    `module.to(memory_format=...)` would refuse a module with a tensor of five axes.
    """
    if channels_last:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = _channels_last(tensor.data)


def wrap(accelerator: Accelerator, module: nn.Module, settings: TrainSettings) -> Any:
    """The module as a step calls it: with mixed precision, DDP and `torch.compile`.

    The plain module stays what is saved, averaged and validated, so checkpoints of compiled and
    of plain trainings are alike.
    """
    # DDP takes no module without a gradient, and Accelerate asks it to on CPUs.
    is_frozen = not any(parameter.requires_grad for parameter in module.parameters())
    wrapped = accelerator.prepare_model(module, evaluation_mode=is_frozen)
    if settings.compile:
        return torch.compile(wrapped)
    if isinstance(wrapped, DistributedDataParallel):
        _leave_out_in_backward(wrapped)
    return wrapped


def _leave_out_in_backward(ddp: Any) -> None:
    """Lets a backward pass that recomputes activations call the module without DDP, which would
    take that for the beginning of the next step and refuse where this one has a gradient already.
    """
    forward = ddp.forward

    def forward_or_plain(*args: Any, **named: Any) -> Any:
        is_backward = torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint asks
        return (ddp.module if is_backward else forward)(*args, **named)

    ddp.forward = forward_or_plain


def explain_compiler(error: Exception) -> None:
    """Raises an error of `torch.compile` in words; returns where the error is another one."""
    if not type(error).__module__.startswith(_COMPILER_MODULES):
        return
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    raise SettingsError(
        f"train.compile=true: the model cannot be compiled here ({said.strip()}). A CPU needs a "
        "C++ compiler (g++, or the one named by CXX) with Python's headers, a GPU needs triton. "
        "Install it, or use train.compile=false."
    ) from error
