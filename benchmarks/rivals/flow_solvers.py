"""What a rectified flow loses to the arithmetic of its sampler: steps that do not sum to 1, a
constant velocity that does not arrive, and the error of each solver on Gaussian data, whose flow
is known in closed form. Beside MONAI's scheduler in continuous time.

The slopes over 8 to 64 steps are not the orders of the solvers, which are tested on linear flows
(`tests/models/test_integration.py`): they say what a solver gains by more steps on this one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring.rows import Row, main, row
from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.sampling import sample, velocity_of
from models.diffusion.strategies.settings import SamplingSettings, StrategySettings
from models.integration import SOLVERS, integrate, time_grid
from settings.flat import replace

MAX_STEPS, MONAI_MAX_STEPS = 1000, 100
RATIOS = (0.25, 0.5, 0.71, 1.0, 2.0, 4.0)
COUNTS = (7, 30, 100)
SIDES, BASE = (128, 128), 32**3
"""A slice of 128 x 128 beside MONAI's default base, which moves times to the image."""

SLOPE_COUNTS = (8, 16, 32, 64)
SLOPES = {
    1.0: {"euler": 0.97, "midpoint": 3.0, "heun": 3.0, "rk4": 5.0},
    0.25: {"euler": 0.97, "midpoint": 2.99, "heun": 1.83, "rk4": 2.4},
}
"""Variance of the data -> what each solver is expected to have, within .05."""


def measure() -> Iterator[Row]:
    torch.set_num_threads(1)
    yield grids()
    for transform in (False, True):
        for steps in COUNTS:
            yield constant(steps, transform)
    for variance, expected in SLOPES.items():
        for solver in SOLVERS:
            name = f"flow_solvers/slope/variance_{variance:g}/{solver}"
            found = slope(solver, variance)
            yield Row(name, found, "", "expected within .05", expected[solver], None)


def grids() -> Row:
    """The worst |sum of dt - 1| over step counts and ratios."""
    ours = theirs = 0.0
    for ratio, steps in itertools.product(RATIOS, range(1, MAX_STEPS + 1)):
        dt = np.diff(time_grid(steps, 1.0, 0.0, ratio).numpy())
        ours = max(ours, abs(float(np.cumsum(dt)[-1]) + 1.0))
    for ratio, steps in itertools.product(RATIOS, range(1, MONAI_MAX_STEPS + 1)):
        theirs = max(theirs, abs(_monai_sum(steps, ratio) - 1.0))
    peer = f"MONAI RFlowScheduler, up to {MONAI_MAX_STEPS} steps"
    return row(f"flow_solvers/sum_of_dt_off_1_to_{MAX_STEPS}", ours, "", peer, theirs)


def constant(steps: int, transform: bool) -> Row:
    """The largest error of a flow whose velocity is that of one image and one noise, float32."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(1, 1, *SIDES, generator=generator)
    noise = torch.randn(1, 1, *SIDES, generator=generator)
    velocity = clean - noise
    changes = {"rflow.transform.enabled": transform, "rflow.transform.base_cells": BASE}
    strategy = make_strategy(replace(StrategySettings(), changes), SIDES)
    settings = SamplingSettings(steps=steps)
    end = sample(
        strategy,
        lambda x, t: velocity,
        torch.zeros(1, dtype=torch.int64),
        clean.shape[1:],
        settings,
        noise=noise,
    )
    ours = float((end.x - clean).abs().max())
    theirs = float((_monai_sample(velocity, noise, steps, transform) - clean).abs().max())
    name = f"flow_solvers/constant/{'transform' if transform else 'equal'}_{steps}"
    return row(name, ours, "", "MONAI RFlowScheduler", theirs)


def slope(solver: str, variance: float) -> float:
    """Of log error over log N, for data N(0, variance) and the velocity that is best for them: in
    float64, x(0) = std x(1).
    """
    strategy = make_strategy(StrategySettings())

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 - noise | x_t] = ((1 - t) variance - t) / ((1 - t)^2 variance + t^2) x_t."""
        t = t[:, None]
        return ((1.0 - t) * variance - t) / ((1.0 - t) ** 2 * variance + t**2) * x

    one = torch.ones(1, 1, dtype=torch.float64)
    flow = velocity_of(strategy, velocity)
    errors = [
        abs(integrate(flow, one, time_grid(n, 1.0, 0.0), solver).item() - math.sqrt(variance))
        for n in SLOPE_COUNTS
    ]
    return -float(np.polyfit(np.log(SLOPE_COUNTS), np.log(errors), 1)[0])


def _monai_sum(steps: int, ratio: float) -> float:
    """The sum of the steps that MONAI's `step` takes, as its inferers call it."""
    from monai.networks.schedulers import RFlowScheduler

    base = 10_000
    scheduler = RFlowScheduler(
        use_discrete_timesteps=False,
        use_timestep_transform=True,
        base_img_size_numel=base,
        spatial_dim=1,
    )
    scheduler.set_timesteps(steps, input_img_size_numel=round(ratio * base))
    times = [*scheduler.timesteps, torch.zeros((), dtype=scheduler.timesteps.dtype)]
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    steps_taken = (
        scheduler.step(one, t, zero, later)[0].item() for t, later in itertools.pairwise(times)
    )
    return sum(steps_taken)


def _monai_sample(velocity: Tensor, noise: Tensor, steps: int, transform: bool) -> Tensor:
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import RFlowScheduler

    scheduler = RFlowScheduler(
        use_discrete_timesteps=False,
        use_timestep_transform=transform,
        base_img_size_numel=BASE,
        spatial_dim=len(SIDES),
    )
    scheduler.set_timesteps(steps, input_img_size_numel=math.prod(SIDES))
    network: Any = _Constant(velocity)  # it only calls it
    found = DiffusionInferer(scheduler).sample(noise, network, scheduler, verbose=False)
    return found if isinstance(found, Tensor) else found[0]


class _Constant(torch.nn.Module):
    """A network that knows the velocity."""

    def __init__(self, velocity: Tensor) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, x: Tensor, **_: object) -> Tensor:
        return self.velocity


if __name__ == "__main__":
    main(measure, __doc__)
