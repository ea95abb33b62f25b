"""Sharpness-aware minimisation: the gradient is taken where the loss is worst nearby.

SAM (Foret et al. 2021) steps aside by e = rho g / |g|, ASAM (Kwon et al. 2021) by
e = rho w^2 g / |w g|, with norms over all parameters of the optimizer; the gradient at w + e is
applied at w.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from settings.schema import Settings, setting

_SMALLEST = 1e-12
"""Added to the norm that is divided by, as the authors' code does."""


@dataclass(frozen=True, kw_only=True)
class SharpnessSettings(Settings):
    """Sharpness-aware minimisation; every step costs two."""

    radius: float = setting(
        0.0, "rho, how far aside the gradient is taken; 0 for none", low=0.0, high=1e3
    )
    adaptive: bool = setting(
        False, "ASAM: aside in proportion to each weight, with a larger radius (0.5 to 2)"
    )


class Pass:
    """What a pass over the batches of a step begins with, beside the batches and the weights: the
    generators of the process, from which dropout draws, and the buffers of the modules (running
    statistics, power iterations).
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device) -> None:
        self._device = device
        self._parts = {part for module in modules.values() for part in module.modules()}
        self._python = random.getstate()
        self._generators = _generators(device)
        self._before = self._buffers()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Begins as that pass did, and leaves buffers and generators as that pass did."""
        after, generators, python = self._buffers(), _generators(self._device), random.getstate()
        self._put(self._before, self._generators, self._python)
        try:
            yield
        finally:
            self._put(after, generators, python)

    def _buffers(self) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
        """Each buffer by its owner and name, with its values: a forward may put another tensor
        there.
        """
        return [
            (part, name, buffer, buffer.detach().clone())
            for part in self._parts
            for name, buffer in part.named_buffers(recurse=False)
        ]

    @torch.no_grad()
    def _put(
        self,
        buffers: Sequence[tuple[nn.Module, str, Tensor, Tensor]],
        generators: Sequence[Tensor],
        python: Any,
    ) -> None:
        for part, name, buffer, values in buffers:
            buffer.copy_(values)
            setattr(part, name, buffer)
        torch.set_rng_state(generators[0])
        if len(generators) > 1:
            torch.cuda.set_rng_state(generators[1], self._device)
        random.setstate(python)


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


@contextmanager
def aside(parameters: Sequence[nn.Parameter], settings: SharpnessSettings) -> Iterator[None]:
    """The parameters stand aside by their gradient, which is then dropped; afterwards they are
    where they were, to the bit.

    Their gradients must be those of the whole step, reduced over the ranks. A parameter without
    one stays.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in moved]
    _step_aside(moved, settings)
    for parameter in moved:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, before, strict=True):
                parameter.copy_(value)


@torch.no_grad()
def _step_aside(moved: Sequence[nn.Parameter], settings: SharpnessSettings) -> None:
    gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
    if not gradients:
        return
    pairs = list(zip(moved, gradients, strict=True))
    measured = [g * w.abs() for w, g in pairs] if settings.adaptive else gradients
    norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in measured]
    scale = settings.radius / (torch.linalg.vector_norm(torch.stack(norms)) + _SMALLEST)
    for weight, gradient in pairs:
        step = gradient * weight.square() if settings.adaptive else gradient
        weight.add_((step * scale).to(weight.dtype))
