"""Integration of dx/dt = v(x, t): explicit Runge-Kutta on a grid that ends where it is asked to.

Of a flow either way, from noise to data or back: to sample under `torch.no_grad()`, or to train
through, with gradients of first and second order.

Time is float64 throughout. A step's dt is the difference of two neighbours of the grid and is
rounded once, to the state's precision, where it meets the velocity; no t that was rounded or moved
comes back into the arithmetic (001-M6: a grid of float16 and whole numbers whose steps add up to
1.017; 002-M10: dt made anew from the t that was reached, so that a third of the way remains).

Shapes: B samples; N steps; the state x [B, ...], t [B].
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

Velocity = Callable[[Tensor, Tensor], Tensor]
"""`v(x, t)` -> dx/dt [B, ...], from t [B] in the precision of x."""


@dataclass(frozen=True)
class Solver:
    """An explicit Runge-Kutta method whose stages each start from the slope of the one before.

    Attributes:
        nodes: where in a step each stage looks, as a share of the step.
        weights: of the stages' slopes in the step; they sum to 1.
        order: p of the error dt^p.
    """

    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    order: int

    @property
    def evaluations(self) -> int:
        """Of the velocity, in a step."""
        return len(self.nodes)


SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "euler": Solver((0.0,), (1.0,), 1),
        "midpoint": Solver((0.0, 0.5), (0.0, 1.0), 2),
        "heun": Solver((0.0, 1.0), (0.5, 0.5), 2),
        "rk4": Solver((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4),
    }
)
"""By the names that a setting takes as its `choices`."""


def shift_time(t: Tensor, ratio: float) -> Tensor:
    """r t / (1 + (r - 1) t) of times in [0, 1], any shape; both ends stay where they are.

    With t = 1 as the noise, r = (values / values of the base resolution)^(1 / axes) gives a larger
    image as much noise as the base has (Esser et al. 2024, equation 23): in training and on the
    grid. Its inverse has 1 / r, and so has a flow whose noise is at t = 0.
    """
    return t / (t + (1.0 - t) / ratio)


def time_grid(
    steps: int, start: float | Tensor = 0.0, end: float | Tensor = 1.0, ratio: float = 1.0
) -> Tensor:
    """The times of N steps, float64 [N + 1], or [N + 1, B] where start or end is [B]. The first
    and the last are start and end bit for bit; time may run down.

    Args:
        ratio: of `shift_time`, which equal steps go through; start and end, in [0, 1], are on
            both sides the same.

    Raises:
        ValueError: fewer steps than one, or a ratio that is not positive.
    """
    if steps < 1:
        raise ValueError(f"a grid has 1 step or more, not {steps}. Set a larger number of steps.")
    if not ratio > 0.0:
        raise ValueError(f"the ratio of a grid is above 0, not {ratio}; 1 leaves steps equal.")
    device = next((x.device for x in (start, end) if isinstance(x, Tensor)), None)
    first, last = torch.broadcast_tensors(*(_exact_time(x, device) for x in (start, end)))
    share = torch.arange(1, steps, dtype=torch.float64, device=device) / steps
    share = share.view(-1, *[1] * first.ndim)
    if ratio == 1.0:
        inner = first + (last - first) * share
    else:
        low, high = shift_time(first, 1.0 / ratio), shift_time(last, 1.0 / ratio)
        inner = shift_time(low + (high - low) * share, ratio)
    return torch.cat([first[None], inner, last[None]])


def integrate(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    solver: str = "euler",
    *,
    checkpointed: bool = False,
) -> Tensor:
    """The state at the last time, in the shape and precision of x, its state at the first.

    Args:
        x: float32 or float64; the velocity may compute in less (autocast, a network in bf16).
        times: of `time_grid`. `times[i : j + 1]` is the part from the i-th to the j-th.
        solver: a name of `SOLVERS`.
        checkpointed: whether a step keeps nothing but its state for the backward pass, which runs
            its evaluations a second time, with the same draws of torch's generators, the same
            autocast and the same kernels of attention. The velocity must then be a function of
            its arguments: what it counts or gathers is counted twice.

    Raises:
        ValueError: an unknown solver, a state in half precision, a grid that is not float64 or of
            another B, a velocity that has not the state's shape.
    """
    path = trajectory(velocity, x, times, solver, checkpointed=checkpointed)
    return collections.deque(path, maxlen=1)[0][1]


def trajectory(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    solver: str = "euler",
    *,
    checkpointed: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(t float64 [B], x) at each of the N + 1 times, the first included; else as `integrate`."""
    times, method = _checked(x, times, solver)
    yield times[0], x
    for t, following in itertools.pairwise(times):
        step = (velocity, x, t, following, method)
        if checkpointed and torch.is_grad_enabled():
            x = checkpoint(_step_by, _kernels(), *step, use_reentrant=False)
        else:
            x = _step(*step)
        yield following, x


def guided(
    conditional: Velocity, unconditional: Velocity, weight: float | Callable[[Tensor], Tensor]
) -> Velocity:
    """v_u + w (v_c - v_u), classifier-free guidance (Ho and Salimans 2022, their 1 + w as w).

    Args:
        weight: w, or w(t) [B] of t [B] for one that changes on the way. 1 is the conditional
            velocity alone, and is not asked for the other.
    """
    if weight == 1.0:
        return conditional

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        w = weight(t) if callable(weight) else torch.full_like(t, weight)
        v_u, v_c = unconditional(x, t).to(x.dtype), conditional(x, t).to(x.dtype)
        return torch.lerp(v_u, v_c, _by_sample(w, x))

    return velocity


def twice_differentiable() -> AbstractContextManager[Any]:
    """While attention is computed by kernels that have a second derivative; the fused ones
    (`scaled_dot_product_attention` picks them on CPUs as on GPUs) have none.

    It holds for what is computed within: the velocity, and the gradient of an energy in it. Their
    backward passes may lie outside.
    """
    return sdpa_kernel(SDPBackend.MATH)


def _exact_time(value: float | Tensor, device: torch.device | None) -> Tensor:
    """Float64 [] or [B]; a number gets to a GPU without a copy, which the host would wait for."""
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    return torch.full((), value, dtype=torch.float64, device=device)


def _step_by(kernels: list[SDPBackend], *step: Any) -> Tensor:
    """A step with these kernels of attention: its repetition in a backward pass may lie outside of
    `twice_differentiable`, and others keep other tensors.
    """
    with sdpa_kernel(kernels):
        return _step(*step)


def _step(velocity: Velocity, x: Tensor, t: Tensor, following: Tensor, solver: Solver) -> Tensor:
    """The state at the time that follows; t and following float64 [B]."""
    dt, slopes = following - t, [x]
    for node in solver.nodes:
        place = x + _by_sample(node * dt, x) * slopes[-1] if node else x
        # At 0 and 1 the ends of the step themselves, whatever dt was rounded to.
        slopes.append(_slope(velocity, place, torch.lerp(t, following, node)))
    pairs = zip(solver.weights, slopes[1:], strict=True)
    change = sum(slope if weight == 1.0 else weight * slope for weight, slope in pairs if weight)
    return x + _by_sample(dt, x) * change


def _slope(velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
    slope = velocity(x, t.to(x.dtype)).to(x.dtype)
    if slope.shape != x.shape:
        raise ValueError(
            f"a velocity has the shape of its state, {list(x.shape)}, not {list(slope.shape)}. "
            "Return dx/dt of every value."
        )
    return slope


def _by_sample(value: Tensor, x: Tensor) -> Tensor:
    """A number for each sample [B] as a factor on x, rounded to its precision."""
    return value.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def _checked(x: Tensor, times: Tensor, solver: str) -> tuple[Tensor, Solver]:
    """The times of every sample, float64 [N + 1, B] on the state's device, and the method."""
    if solver not in SOLVERS:
        raise ValueError(f"a solver is one of {', '.join(SOLVERS)}, not {solver!r}. Name one.")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"a state is float32 or float64, not {x.dtype}, which steps of a small dt do not "
            "move. Give x.float() and let the velocity compute in less."
        )
    if times.dtype != torch.float64 or len(times) < 2 or times.shape[1:] not in ((), x.shape[:1]):
        raise ValueError(
            f"times are float64 [N + 1] or [N + 1, {len(x)}] of 1 step or more, not {times.dtype} "
            f"{list(times.shape)}. Make them by time_grid."
        )
    times = times.to(x.device, non_blocking=True).view(len(times), -1)
    return times.expand(-1, len(x)), SOLVERS[solver]


def _kernels() -> list[SDPBackend]:
    """Those that attention may be computed by now."""
    enabled = {
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    return [kernel for kernel, is_enabled in enabled.items() if is_enabled]
