"""The flow in training: where a sample starts, and the end point that its energy is taken at.

t = 0 is noise and t = 1 the target. Shapes: B samples; the state x [B, C, H, W].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.draws import draw_normal, draw_uniform
from models.integration import Velocity, integrate, time_grid
from models.style_flow.settings import FlowSettings


@dataclass(frozen=True)
class Start:
    """Where the integration of each sample begins.

    Attributes:
        x: the state at t0.
        t0: float64 [B].
        noise: x_0, of which the state is a mixture.
    """

    x: Tensor
    t0: Tensor
    noise: Tensor


@dataclass(frozen=True)
class End:
    """The end point x [B, C, H, W], and the t at which it is, float64 [B]: exactly 1 with
    `flow.step_rule=grid`.
    """

    x: Tensor
    t: Tensor


def start_of(
    source: Tensor, seed: Tensor, settings: FlowSettings, t0_low: Tensor | None = None
) -> Start:
    """The start of each sample, drawn by its seed: t0 ~ U(low, high), and
    x_t0 = (1 - t0) x_0 + t0 source with x_0 ~ N(0, I).

    Args:
        t0_low: [B], in place of the setting, for a bound that moves in training.
    """
    low = settings.t0_low if t0_low is None else t0_low.double().clamp_max(settings.t0_high)
    share = draw_uniform(seed, "flow.t0").double()
    t0 = low + (settings.t0_high - low) * share
    noise = draw_normal(seed, "flow.noise", source.shape[1:]).to(source.dtype)
    if settings.start == "source":
        return Start(source, t0, noise)
    mixed = torch.lerp(noise, source, t0.to(source.dtype)[:, None, None, None])
    return Start(mixed, t0, noise)


def step_times(t0: Tensor, settings: FlowSettings) -> Tensor:
    """The times of n steps from t0 [B], float64 [n + 1, B].

    `grid`: t0 + (1 - t0) k / n, the last exactly 1. `moving`, the document's, makes dt anew as
    (1 - t) / n of the t that was reached: 1 - (1 - t0) (1 - 1 / n)^k, which never arrives.
    """
    if settings.step_rule == "grid":
        return time_grid(settings.steps, t0)
    count = torch.arange(settings.steps + 1, dtype=torch.float64, device=t0.device)
    left = (1.0 - 1.0 / settings.steps) ** count
    return 1.0 - (1.0 - t0.double()) * left[:, None]


def transport(velocity: Velocity, start: Start, settings: FlowSettings) -> End:
    """The end point x_1, differentiable in the start and in the velocity's parameters."""
    times = step_times(start.t0, settings)
    x = integrate(
        laid_out(velocity, settings.layout),
        start.x,
        times,
        settings.solver,
        checkpointed=settings.checkpointing,
    )
    return End(x, times[-1])


def laid_out(velocity: Velocity, layout: str) -> Velocity:
    """The velocity, whose x comes in that layout: one of `LAYOUTS`."""
    if layout == "as_given":
        return velocity
    last = layout == "channels_last"
    form = torch.channels_last if last else torch.contiguous_format
    return lambda x, t: velocity(x.contiguous(memory_format=form), t)
