"""The moving average of a module's weights, in fp32 whatever the precision of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

COUNT = "n_averaged"
_SHORT = (torch.bfloat16, torch.float16)


class MovingAverage:
    """w' <- decay w' + (1 - decay) w after every `every`th update; up to update `start`, and after
    the first one, it is the weights themselves.

    Weights of 16 bits are averaged in fp32: (1 - decay) (w - w') is mostly below half of their
    last digit, and an average in their own precision would stay at the first step. Buffers are
    copied: running statistics are averages already, and the mean of spectral norm's unit vectors
    is shorter than 1.

    Attributes:
        module: the average as it is used, in the precision of the weights, in eval mode and
            without gradients.
    """

    def __init__(
        self, module: nn.Module, decay: float, start: int = 0, every: int = 1
    ) -> None:
        self.module = deepcopy(module).eval().requires_grad_(False)
        self.start, self.every = start, every
        self.count = 0
        self._average = get_ema_multi_avg_fn(decay)
        self._exact = {
            name: parameter.detach().float() if parameter.dtype in _SHORT else parameter.detach()
            for name, parameter in self.module.named_parameters()
        }
        self._rounded = [
            (parameter, self._exact[name])
            for name, parameter in self.module.named_parameters()
            if parameter.dtype in _SHORT
        ]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights of the module after the update that led to `step`."""
        is_copied = step <= self.start or not self.count
        if not is_copied and step % self.every:
            return
        averaged = list(self._exact.values())
        new = [p.detach().to(w.dtype) for p, w in zip(module.parameters(), averaged, strict=True)]
        if is_copied:
            for average, weight in zip(averaged, new, strict=True):
                average.copy_(weight)
        else:
            self._average(averaged, new, self.count)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
        self.count += 1
        for parameter, exact in self._rounded:
            parameter.copy_(exact)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the count, and `module.<key>` in the precision of the
        average, which a module's `load_state_dict` rounds to its own.
        """
        rounded = {f"module.{key}": value for key, value in self.module.state_dict().items()}
        exact = {f"module.{name}": weight for name, weight in self._exact.items()}
        return {COUNT: torch.tensor(self.count), **rounded, **exact}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from the `tensors` of another; every key must match."""
        named = {key.removeprefix("module."): tensors[key] for key in tensors if key != COUNT}
        self.module.load_state_dict(named)
        for name, weight in self._exact.items():
            weight.copy_(named[name])
        self.count = int(tensors[COUNT])


def averages(
    modules: Mapping[str, nn.Module], decay: float, start: int = 0, every: int = 1
) -> dict[str, MovingAverage]:
    """A moving average of every module that learns; none where `decay` is 0."""
    return {
        name: MovingAverage(module, decay, start, every)
        for name, module in modules.items()
        if decay and any(parameter.requires_grad for parameter in module.parameters())
    }
