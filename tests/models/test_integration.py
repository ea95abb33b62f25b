"""Grids end where they are asked to, solvers have their orders, and gradients go through them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from models.integration import (
    SOLVERS,
    guided,
    integrate,
    shift_time,
    time_grid,
    trajectory,
)

ORDERS = {"euler": (1.0, 0.1), "midpoint": (2.0, 0.15), "heun": (2.0, 0.15), "rk4": (4.0, 0.3)}
COSTS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
COUNTS = (8, 16, 32, 64)
MATRIX = torch.tensor([[-0.7, 1.9], [-1.3, 0.2]], dtype=torch.float64)
X = torch.tensor([[1.0, 0.3], [-0.4, 2.0], [0.7, -1.1]], dtype=torch.float64)
STARTS = torch.tensor([0.0, 0.23, 0.61], dtype=torch.float64)


def linear(x, t):
    return x @ MATRIX.T


def turning(x, t):
    """2t J x: from s to t by the angle t^2 - s^2."""
    return 2.0 * t[:, None] * x[:, [1, 0]] * x.new_tensor([-1.0, 1.0])


def turned(x, angle):
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], dim=1)


def order_of(errors):
    """The slope of the logarithm of the error over that of N, to shorter steps positive."""
    return -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]


# --- the grid ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.0, 2.0, 0.5, 3.7])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.1, 1.0), (0.9, 0.2)])
def test_every_grid_has_its_ends_and_goes_the_whole_way(ratio, start, end):
    for steps in range(1, 1001):
        times = time_grid(steps, start, end, ratio)
        assert times.dtype == torch.float64 and times.shape == (steps + 1,)
        assert float(times[0]) == start and float(times[-1]) == end
        dt = np.diff(times.numpy())
        assert abs(float(np.cumsum(dt)[-1]) - (end - start)) <= 1e-12
        assert (dt * (end - start) > 0.0).all()


@given(
    starts=st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=6),
    steps=st.integers(1, 60),
    ratio=st.sampled_from([1.0, 1.7, 0.4]),
)
def test_every_sample_has_its_own_start(starts, steps, ratio):
    start = torch.tensor(starts)
    times = time_grid(steps, start, 1.0, ratio)
    assert times.shape == (steps + 1, len(starts))
    assert torch.equal(times[0], start.double()) and (times[-1] == 1.0).all()
    assert ((times[1:] - times[:-1]).sum(0) - (1.0 - start.double())).abs().max() <= 1e-12
    for column, value in zip(times.T, starts, strict=True):
        assert torch.equal(column, time_grid(steps, value, 1.0, ratio))
    assert torch.equal(time_grid(steps, 1.0, start, ratio)[-1], start.double())


def test_equal_steps_are_equal_and_a_ratio_moves_them_to_the_noise():
    """At t = 1 the noise: .5 becomes 2/3, as the mean of the noise at 4 times the values."""
    assert time_grid(10).numpy() == pytest.approx(np.linspace(0.0, 1.0, 11), abs=1e-15)
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    assert shift_time(t, 2.0).tolist() == pytest.approx([0.0, 2 / 11, 2 / 3, 18 / 19, 1.0])
    for ratio in (0.1, 0.3, 2.0, 3.7):
        assert shift_time(t, ratio)[[0, -1]].tolist() == [0.0, 1.0]
    expected = [2.0 * u / (1.0 + u) for u in np.linspace(1.0, 0.0, 28)]
    assert time_grid(27, 1.0, 0.0, 2.0).tolist() == pytest.approx(expected, abs=1e-15)
    assert time_grid(27, 0.0, 1.0, 2.0).flip(0).tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((0,), "1 step or more, not 0"), ((4, 0.0, 1.0, 0.0), "above 0, not 0.0")],
)
def test_a_grid_that_is_none_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        time_grid(*arguments)


# --- the solvers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("ratio", [1.0, 2.0])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_orders_against_the_exponential_of_a_matrix(solver, ratio, start, end):
    expected = X @ torch.from_numpy(expm((end - start) * MATRIX.numpy())).T
    found = [integrate(linear, X, time_grid(count, start, end, ratio), solver) for count in COUNTS]
    order, tolerance = ORDERS[solver]
    errors = [float((x - expected).norm()) for x in found]
    assert order_of(errors) == pytest.approx(order, abs=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
def test_orders_where_the_velocity_reads_the_time_of_each_sample(solver):
    """A stage that looked at another t would lose the order."""
    expected = turned(X, 1.0 - STARTS.square())
    errors = [
        float((integrate(turning, X, time_grid(n, STARTS), solver) - expected).norm())
        for n in COUNTS
    ]
    assert order_of(errors) == pytest.approx(ORDERS[solver][0], abs=ORDERS[solver][1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_forth_and_back_returns_to_the_start(solver):
    """By the solver's order or better: those of an even one gain one more on the way back."""
    errors = []
    for count in COUNTS:
        forth = integrate(linear, X, time_grid(count), solver)
        back = integrate(linear, forth, time_grid(count, 1.0, 0.0), solver)
        errors.append(float((back - X).norm()))
    assert order_of(errors) > ORDERS[solver][0] - ORDERS[solver][1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("times", [time_grid(40, STARTS), time_grid(1, 0.03, 0.29 + 0.0 * STARTS)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_the_velocity_is_asked(solver, times, dtype):
    """Where a stage looks at an end of the step it is that very time: .03 + (.29 - .03) is another
    number than .29.
    """
    seen = []

    def velocity(x, t):
        assert t.dtype == x.dtype == dtype and t.shape == (3,)
        seen.append(t)
        return x

    integrate(velocity, X.to(dtype), times, solver)
    cost = COSTS[solver]
    assert SOLVERS[solver].evaluations == cost and len(seen) == (len(times) - 1) * cost
    assert SOLVERS[solver].order == ORDERS[solver][0]
    assert torch.equal(torch.stack(seen[::cost]), times[:-1].to(dtype))
    if solver in ("heun", "rk4"):
        assert torch.equal(torch.stack(seen[cost - 1 :: cost]), times[1:].to(dtype))


def test_a_step_is_rounded_once():
    """In float32 the state moves by each dt of the grid of float64, rounded; and not by the
    difference of times that were rounded before.
    """
    times = time_grid(25, 1.0, 0.0, 2.0)
    zero = np.float32(0.0)
    once = sum(np.diff(times.numpy()).astype(np.float32), zero)
    before = sum(np.diff(times.float().numpy()), zero)
    found = integrate(lambda x, t: torch.ones_like(x), torch.zeros(1, 1), times)
    assert found.item() == once != before


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_constant_velocity_arrives(solver):
    """002-M10: a dt made anew from the t that was reached leaves a third of the way."""
    whole = integrate(lambda x, t: torch.ones_like(x), X, time_grid(5, STARTS), solver)
    assert (whole - X - (1.0 - STARTS)[:, None]).abs().max() < 1e-14


def test_one_start_for_all_is_as_one_for_each():
    one = integrate(turning, X.float(), time_grid(9, 0.3), "rk4")
    starts = torch.full((3,), 0.3, dtype=torch.float64)
    assert torch.equal(one, integrate(turning, X.float(), time_grid(9, starts), "rk4"))


def test_a_trajectory_has_every_time_and_may_be_cut():
    times = time_grid(6, STARTS)
    path = list(trajectory(turning, X, times, "heun"))
    assert torch.equal(torch.stack([t for t, _ in path]), times)
    assert torch.equal(path[0][1], X)
    assert torch.equal(path[-1][1], integrate(turning, X, times, "heun"))
    half = integrate(turning, X, times[:4], "heun")
    assert torch.equal(half, path[3][1])
    assert torch.equal(integrate(turning, half, times[3:], "heun"), path[-1][1])


def test_a_state_has_any_axes_and_the_velocity_any_precision():
    x = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    growth = torch.exp(1.0 - STARTS).view(3, 1, 1, 1).float()
    found = integrate(lambda x, t: x, x, time_grid(8, STARTS), "rk4")
    torch.testing.assert_close(found, growth * x, rtol=1e-4, atol=1e-6)
    half = integrate(lambda x, t: x.bfloat16(), x, time_grid(8, STARTS), "rk4")
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, growth * x, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"solver": "dopri5"}, "one of euler, midpoint, heun, rk4, not 'dopri5'"),
        ({"x": X.bfloat16()}, r"float32 or float64, not torch\.bfloat16"),
        ({"times": time_grid(4).float()}, r"not torch\.float32 \[5\]. Make them by time_grid"),
        ({"times": time_grid(4, STARTS[:2])}, r"\[N \+ 1, 3\] .* not torch\.float64 \[5, 2\]"),
        ({"times": time_grid(4)[:1]}, "1 step or more"),
        ({"velocity": lambda x, t: x[:, :1]}, r"its state, \[3, 2\], not \[3, 1\]"),
    ],
)
def test_what_cannot_be_integrated_is_refused(changes, says):
    given_ = {"velocity": linear, "x": X, "times": time_grid(4), "solver": "euler", **changes}
    with pytest.raises(ValueError, match=says):
        integrate(**given_)


# --- guidance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5, lambda t: 2.0 - t])
def test_guidance_goes_beyond_the_conditional_velocity(weight):
    """Against v_u + w (v_c - v_u), by hand; x' = a x with a = .2 and 1.1."""
    velocity = guided(lambda x, t: 1.1 * x, lambda x, t: 0.2 * x, weight)
    x, times = X[:1], time_grid(400, 1.0, 0.0)
    share = {0.0: 0.0, 1.0: 1.0, 1.5: 1.5}.get(weight, 1.5)  # the mean of 2 - t over [0, 1]
    expected = x * math.exp(-(0.2 + share * 0.9))
    torch.testing.assert_close(integrate(velocity, x, times, "rk4"), expected, rtol=1e-9, atol=0.0)


def test_without_guidance_the_other_velocity_is_not_computed():
    def never(x, t):
        raise AssertionError

    assert guided(linear, never, 1.0) is linear
    with pytest.raises(AssertionError):
        guided(linear, never, 1.01)(X, STARTS)
