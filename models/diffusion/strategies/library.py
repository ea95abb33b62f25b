"""Solvers of torchdiffeq, an extra, by their own names."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor

from models.diffusion.strategies.settings import ADAPTIVE_METHODS, LibrarySettings
from models.integration import Velocity
from settings.schema import SettingsError


def check_library() -> None:
    """Raises SettingsError where torchdiffeq is not installed: before a training or a draw of
    images, not within.
    """
    if importlib.util.find_spec("torchdiffeq") is None:
        raise SettingsError(
            "sampling.rflow.solver=torchdiffeq needs the package torchdiffeq, which is not "
            "installed. Install it by `pip install 'weighbridge[ode]'`, or take one of our own "
            "solvers, such as heun."
        )


def library_trajectory(
    velocity: Velocity, x: Tensor, times: Tensor, settings: LibrarySettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """(t, x) at each of the N + 1 times, the first included, as `models.integration.trajectory`.

    An adaptive method chooses one step for all that it is given, by an error that is a mean over
    it; so each sample is solved alone, and the others of its batch do not change it. Methods of a
    fixed step take the steps from time to time.

    Args:
        times: float64 [N + 1].
    """
    check_library()
    from torchdiffeq import odeint

    def of(part: Tensor) -> Tensor:
        def slope(t: Tensor, state: Tensor) -> Tensor:
            return velocity(state, t.expand(len(state))).to(state.dtype)

        return odeint(
            slope,
            part,
            times.to(part.device),
            method=settings.method,
            rtol=settings.rtol,
            atol=settings.atol,
        )

    if settings.method in ADAPTIVE_METHODS:
        path = torch.cat([of(x[index : index + 1]) for index in range(len(x))], dim=1)
    else:
        path = of(x)
    yield from zip(times, path, strict=True)
