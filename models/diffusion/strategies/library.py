"""Solvers of other libraries: of torchdiffeq, an extra, by their own names, and MONAI's sampler of
rectified flows.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from models.diffusion.strategies.settings import ADAPTIVE_METHODS, MONAI_STEPS, LibrarySettings
from models.integration import Velocity
from settings.schema import SettingsError

_BASE = 10_000
"""Cells of the size at which MONAI's transform moves nothing."""


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


def monai_trajectory(
    velocity: Velocity, x: Tensor, steps: int, ratio: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """(t, x) of MONAI's `RFlowScheduler` in continuous time, as its inferers call it: times in
    float16, the next one cut to a whole thousandth, so that the steps do not sum to 1 (001-M6).

    Args:
        ratio: of the resolution transform.
    """
    from monai.networks.schedulers import RFlowScheduler

    scheduler = RFlowScheduler(
        num_train_timesteps=MONAI_STEPS,
        use_discrete_timesteps=False,
        use_timestep_transform=True,
        base_img_size_numel=_BASE,
        spatial_dim=1,
    )
    # in one dimension the ratio of the sizes is that of the transform
    scheduler.set_timesteps(steps, input_img_size_numel=_BASE * ratio)  # type: ignore[arg-type]
    end = scheduler.timesteps.new_zeros(1)
    times = torch.cat([scheduler.timesteps, end]).double() / MONAI_STEPS
    yield times[0], x
    for here, there in itertools.pairwise(torch.cat([scheduler.timesteps, end])):
        t = torch.full((len(x),), float(here) / MONAI_STEPS, dtype=x.dtype, device=x.device)
        x, _ = scheduler.step(-velocity(x, t), here, x, there)
        yield there.double() / MONAI_STEPS, x
