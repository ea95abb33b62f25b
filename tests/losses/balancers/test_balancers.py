"""Each balancer against its paper's formula, written down again on torch's autograd or numpy."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

# Uncertainty


def test_uncertainty_rests_where_the_log_variance_is_the_log_loss(balancers):
    balancer = balancers.make("uncertainty", lr=0.05)
    losses = (2e-3, 1.0, 40.0)
    for step in range(3000):
        balancer.observe(balancers.seen(losses), step)
    assert balancers.weights(balancer) == pytest.approx([1.0 / x for x in losses], rel=1e-3)


def test_uncertainty_is_adam_on_the_objective_of_the_paper(balancers):
    losses, _ = balancers.course(60)
    balancer = balancers.make("uncertainty", lr=0.03)
    s = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([s], lr=0.03)
    for step, row in enumerate(losses):
        assert balancers.weights(balancer) == pytest.approx(torch.exp(-s).tolist(), rel=1e-12)
        adam.zero_grad()
        (torch.exp(-s) * torch.tensor(row) + s).sum().backward()
        adam.step()
        balancer.observe(balancers.seen(row), step)


def test_the_weight_of_a_loss_of_zero_is_bounded(balancers):
    balancer = balancers.make("uncertainty", lr=1.0)
    for step in range(40):
        balancer.observe(balancers.seen((0.0, 1.0, 1.0)), step)
    assert balancers.weights(balancer)[0] == pytest.approx(math.exp(15.0))


# Softmax


def test_softmax_weighter_collapses(balancers):
    """000-M8: the weighter of the document minimises sum w L, so all weight flows to the smallest
    loss.
    """
    balancer = balancers.make("softmax", lr=1e-3)
    for step in range(5000):
        balancer.observe(balancers.seen((1.0, 0.1, 0.01)), step)
    found = balancers.weights(balancer)
    assert found == pytest.approx([0.014, 0.080, 2.906], abs=1e-3)
    assert sum(found) == pytest.approx(3.0)


def test_softmax_is_adam_on_the_weighted_sum_of_the_losses(balancers):
    losses, _ = balancers.course(60, seed=1)
    balancer = balancers.make("softmax", lr=0.05)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.05)
    for step, row in enumerate(losses):
        expected = 3 * torch.softmax(logits, 0)
        assert balancers.weights(balancer) == pytest.approx(expected.tolist(), rel=1e-12)
        adam.zero_grad()
        (expected * torch.tensor(row)).sum().backward()
        adam.step()
        balancer.observe(balancers.seen(row), step)


# GradNorm


def test_gradnorm_is_adam_on_the_difference_of_gradient_norms(balancers):
    """Against the paper's own route on a two-layer net: the norm of each weighted gradient with
    its graph, then the gradient of their distance to the targets with respect to the weights.
    """
    alpha, lr = 0.7, 0.025
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, goals = draw(32, 4), draw(3, 32) * torch.tensor([[0.2], [1.0], [5.0]])
    shared, heads = draw(6, 4).requires_grad_(), draw(3, 6).requires_grad_()
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=lr)
    balancer = balancers.make("gradnorm", interval=1, lr=lr, alpha=alpha)
    first = None
    for step in range(25):
        assert balancers.weights(balancer) == pytest.approx(w.tolist(), rel=1e-9)
        losses = (torch.tanh(x @ shared.T) @ heads.T - goals.T).square().mean(0)
        first = losses.detach() if first is None else first
        norms, plain = [], []
        for i in range(3):
            (g,) = torch.autograd.grad(w[i] * losses[i], shared, create_graph=True)
            norms.append(g.norm())
            plain.append(
                float(torch.autograd.grad(losses[i], shared, retain_graph=True)[0].norm())
            )
        rates = losses.detach() / first
        targets = torch.stack(norms).detach().mean() * (rates / rates.mean()) ** alpha
        distance = (torch.stack(norms) - targets).abs().sum()
        (w.grad,) = torch.autograd.grad(distance, w, retain_graph=True)
        moves = torch.autograd.grad((w.detach() * losses).sum(), (shared, heads))
        adam.step()
        with torch.no_grad():
            w.mul_(3 / w.sum())
            shared.sub_(0.02 * moves[0])
            heads.sub_(0.02 * moves[1])
        balancer.observe(balancers.seen(losses.tolist(), plain), step)
    assert max(w.tolist()) > 1.3 and min(w.tolist()) < 0.7


def test_gradnorm_never_turns_a_term_round(balancers):
    balancer = balancers.make("gradnorm", interval=1, lr=0.5, alpha=0.0)
    for step in range(50):
        balancer.observe(balancers.seen((1.0, 1.0, 1.0), (1e6, 1.0, 1.0)), step)
        assert min(balancers.weights(balancer)) > 0.0
    assert balancers.weights(balancer)[0] < 0.01


def test_a_loss_that_wakes_from_0_does_not_take_all_weight_of_gradnorm(balancers):
    """Its rate is L / 0; the others', over the mean of all, would all be 0."""
    balancer = balancers.make("gradnorm", interval=1, lr=0.05, alpha=1.5)
    balancer.observe(balancers.seen((1.0, 1.0, 0.0), (1.0, 1.0, 1.0)), 0)
    for step in range(1, 200):
        balancer.observe(balancers.seen((1.0, 1.0, 0.5), (1.0, 1.0, 1.0)), step)
    assert min(balancers.weights(balancer)) > 0.03


# DWA and ReLoBRaLo


@pytest.mark.parametrize("interval", [1, 4])
def test_dwa_is_the_softmax_of_the_last_two_averages(balancers, interval):
    losses, _ = balancers.course(24, seed=2)
    balancer = balancers.make("dwa", interval=interval, temperature=0.5)
    for step, row in enumerate(losses):
        epochs = losses[: step // interval * interval].reshape(-1, interval, 3).mean(1)
        ratios = epochs[-1] / epochs[-2] if len(epochs) > 1 else np.ones(3)
        powers = np.exp(ratios / 0.5)
        expected = 3 * powers / powers.sum()
        assert balancers.weights(balancer) == pytest.approx(list(expected), rel=1e-9)
        balancer.observe(balancers.seen(row), step)
    assert max(balancers.weights(balancer)) > 1.01


@pytest.mark.parametrize("lookback", [0.0, 0.4, 1.0])
def test_relobralo_is_the_recursion_of_the_paper(balancers, lookback):
    losses, _ = balancers.course(30, seed=3)
    balancer = balancers.make(
        "relobralo", interval=1, temperature=0.3, decay=0.8, lookback=lookback
    )
    lam, looks = np.ones(3), 0

    def relative(now, before):
        powers = np.exp(now / before / 0.3)
        return 3 * powers / powers.sum()

    for step, row in enumerate(losses):
        balancer.observe(balancers.seen(row, seed=100 + step), step)
        if step:
            rho = float(random.Random(100 + step).random() >= lookback)
            looks += rho == 0.0
            history = rho * lam + (1 - rho) * relative(row, losses[0])
            lam = 0.8 * history + 0.2 * relative(row, losses[step - 1])
        assert balancers.weights(balancer) == pytest.approx(list(lam), rel=1e-9)
    assert looks == {0.0: 0, 1.0: 29}.get(lookback, looks) and (lookback != 0.4 or 5 < looks < 20)


def test_the_temperature_of_zero_is_that_of_the_paper(balancers):
    for kind, temperature in (("dwa", 2.0), ("relobralo", 0.1)):
        pair = [balancers.make(kind, interval=1, temperature=t) for t in (0.0, temperature)]
        for step, row in enumerate(balancers.course(6)[0]):
            for balancer in pair:
                balancer.observe(balancers.seen(row), step)
        assert balancers.weights(pair[0]) == balancers.weights(pair[1]) != [1.0, 1.0, 1.0]


def test_a_loss_that_wakes_from_zero_does_not_take_all(balancers):
    balancer = balancers.make("dwa", interval=1)
    for step, first in enumerate((0.0, 0.0, 1.0)):
        balancer.observe(balancers.seen((first, 1.0, 1.0)), step)
    assert min(balancers.weights(balancer)) == pytest.approx(3 / (2 + math.exp(4.5)))


# Inverse gradient norm


@given(st.lists(st.floats(0.2, 1.5), min_size=3, max_size=3))
def test_inverse_gradient_makes_every_term_pull_equally(balancers, norms):
    balancer = balancers.make("inverse_gradient", interval=1)
    balancer.observe(balancers.seen((1.0, 1.0, 1.0), norms), 0)
    found = np.array(balancers.weights(balancer))
    assert found * norms == pytest.approx(np.full(3, np.mean(found * norms)))
    assert found.sum() == pytest.approx(3.0)


def test_inverse_gradient_uses_a_moving_average(balancers):
    _, norms = balancers.course(20, seed=4)
    balancer = balancers.make("inverse_gradient", interval=1, decay=0.7)
    average = norms[0]
    for step, row in enumerate(norms):
        average = 0.7 * average + 0.3 * row
        balancer.observe(balancers.seen((1.0, 1.0, 1.0), row), step)
        expected = 3 * (1 / average) / (1 / average).sum()
        assert balancers.weights(balancer) == pytest.approx(list(expected), rel=1e-9)


def test_inverse_gradient_is_bounded_also_for_a_term_without_gradient(balancers):
    balancer = balancers.make("inverse_gradient", interval=1, weight_max=4.0)
    balancer.observe(balancers.seen((1.0, 1.0, 1.0), (0.0, 1.0, 1e4)), 0)
    raw = np.array([4.0, 4.0, np.mean([0.0, 1.0, 1e4]) / 1e4])
    assert balancers.weights(balancer) == pytest.approx(list(3 * raw / raw.sum()))
    balancer.observe(balancers.seen((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), 1)
    still = balancers.make("inverse_gradient", interval=1)
    still.observe(balancers.seen((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), 0)
    assert balancers.weights(still) == [1.0, 1.0, 1.0]


# Magnitude ratio


@given(st.floats(1e-6, 1e3), st.floats(0.0, 1e3), st.floats(0.0, 1e3))
def test_magnitude_ratio_is_the_clamped_ratio_to_the_anchor(balancers, anchor, second, third):
    balancer = balancers.make("magnitude_ratio", ratio=0.5, ratio_max=5.0)
    balancer.observe(balancers.seen((anchor, second, third)), 0)
    others = torch.tensor([second, third], dtype=torch.float64)
    expected = (0.5 * anchor / (others + 1e-12)).clamp(1.0, 5.0)
    assert balancers.weights(balancer, 1, {"near": 7.0, "far": 1.0, "edge": 1.0}) == pytest.approx(
        [7.0, *expected.tolist()]
    )
