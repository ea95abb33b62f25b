"""The state of a training as its checkpoints hold it: out of the objects of the loop, and back."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from trainables.checkpoints import begin
from trainables.checkpoints.restore import fill, stripped
from trainables.optimizing.average import MovingAverage
from trainables.stepping.update import PhaseUpdate


def tensors_of(
    modules: Mapping[str, nn.Module],
    averages: Mapping[str, MovingAverage],
    external: Container[str] = (),
) -> dict[str, Tensor]:
    """The weights and buffers by name: `module.<name>.<key>` and `ema.<name>.<key>`, without those
    of external modules.
    """
    tensors = {
        f"module.{name}.{key}": tensor.detach()
        for name, module in modules.items()
        if name not in external
        for key, tensor in module.state_dict().items()
    }
    for name, average in averages.items():
        tensors |= {f"ema.{name}.{key}": value for key, value in average.tensors().items()}
    return tensors


def load_tensors(
    modules: Mapping[str, nn.Module],
    averages: Mapping[str, MovingAverage],
    tensors: Mapping[str, Tensor],
) -> None:
    """Puts them back.

    Raises:
        CheckpointError: they are of another network.
    """
    for name, module in modules.items():
        fill(module, stripped(tensors, f"module.{name}."), f"module {name}")
    for name, average in averages.items():
        average.load(stripped(tensors, f"ema.{name}."))


def state_of(updates: Sequence[PhaseUpdate], accelerator: Accelerator) -> dict[str, Any]:
    """What else the next step depends on: optimizers, balancers, the gradient scaler."""
    return {
        "optimizers": [update.optimizer.state_dict() for update in updates],
        "balancers": [update.phase.composite.balancer.state_dict() for update in updates],
        "rates": [update.rate.state() for update in updates],
        "skipped_in_a_row": [update.overflows.in_a_row for update in updates],
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
    }


def load_state(
    updates: Sequence[PhaseUpdate], accelerator: Accelerator, state: Mapping[str, Any]
) -> None:
    """Puts it back."""
    for update, stored in zip(updates, state["optimizers"], strict=True):
        begin.load_optimizer(update.optimizer, stored)
    for update, stored in zip(updates, state["balancers"], strict=True):
        update.phase.composite.balancer.load_state_dict(stored)
    for update, rate in zip(updates, state.get("rates", [None] * len(updates)), strict=True):
        update.rate.load(rate)
    for update, skipped in zip(updates, state["skipped_in_a_row"], strict=True):
        update.overflows.in_a_row = skipped
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
