"""Gradients through an integrator: of first and second order, with activations kept or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.integration import SOLVERS, integrate, time_grid, twice_differentiable

STARTS = torch.tensor([0.05, 0.4, 0.8])
STEPS = 6


class Network(nn.Module):
    """A velocity that reads t and drops out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Linear(5, 64), nn.SiLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.SiLU()
        )
        self.last = nn.Linear(64, 4)
        self.calls = 0

    def forward(self, x, t):
        self.calls += 1
        return self.last(self.layers(torch.cat([x, t[:, None]], dim=1)))


class Attention(nn.Module):
    """A velocity with attention over 3 tokens of 4 values."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.query = nn.Parameter(torch.randn(4, 4, dtype=torch.float64) / 2.0)

    def forward(self, x, t):
        query = (x * (1.0 + t)[:, None, None]) @ self.query
        return F.scaled_dot_product_attention(query[:, None], x[:, None], x[:, None])[:, 0]

    def down(self, x, t):
        """-dE/dx of an energy E, in the graph of whoever asks for gradients."""
        with torch.enable_grad():
            place = x if x.requires_grad else x.detach().requires_grad_()
            energy = self(place, t).square().sum() + place.pow(4).sum() / 12.0
            return -torch.autograd.grad(energy, place, create_graph=True)[0]


TOKENS = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
TOKEN_TIMES = time_grid(2, torch.tensor([0.1, 0.6]))


def saved(compute):
    """What a computation returns, and the bytes that it keeps for a backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return compute(), sum(kept.values())


def trained(solver, checkpointed, dtype=torch.float32):
    network = Network()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.manual_seed(9)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        times = time_grid(STEPS, STARTS)
        last, size = saved(lambda: integrate(network, x, times, solver, checkpointed=checkpointed))
    drawn = torch.get_rng_state()
    last.square().sum().backward()
    assert torch.equal(torch.get_rng_state(), drawn)
    return last, [x.grad, *(p.grad for p in network.parameters())], size, network.calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("solver", SOLVERS)
def test_checkpointed_steps_give_the_same_gradients_bit_for_bit(solver, dtype):
    """Dropout and autocast are those of the first time."""
    last, gradients, size, calls = trained(solver, False, dtype)
    other, found, smaller, twice = trained(solver, True, dtype)
    assert torch.equal(last, other)
    assert all(torch.equal(a, b) for a, b in zip(gradients, found, strict=True))
    assert all(float(g.abs().max()) > 0.0 for g in gradients)
    evaluations = STEPS * SOLVERS[solver].evaluations
    assert (calls, twice) == (evaluations, 2 * evaluations)
    assert smaller < 0.1 * size


def test_nothing_is_kept_where_no_gradient_is_asked_for():
    network, x = Network(), torch.ones(3, 4)
    with torch.no_grad():
        _, size = saved(lambda: integrate(network, x, time_grid(3), checkpointed=True))
    assert size == 0 and network.calls == 3


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("solver", ["euler", pytest.param("heun", marks=pytest.mark.slow)])
def test_second_derivatives_of_attention_are_those_of_finite_differences(solver, checkpointed):
    velocity = Attention()

    def last(x, query):
        velocity.query = query
        return integrate(velocity, x, TOKEN_TIMES, solver, checkpointed=checkpointed)

    given = (TOKENS.clone().requires_grad_(), velocity.query)
    del velocity.query
    with twice_differentiable():
        assert torch.autograd.gradcheck(last, given)
        assert torch.autograd.gradgradcheck(last, given)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_an_energy_is_descended_and_trained_through(checkpointed):
    """The gradient of a flow along -dE/dx in the parameters of E."""
    velocity = Attention()

    def last(x, query):
        velocity.query = query
        return integrate(velocity.down, x, TOKEN_TIMES, checkpointed=checkpointed)

    given = (TOKENS.clone().requires_grad_(), velocity.query)
    del velocity.query
    with twice_differentiable():
        assert torch.autograd.gradcheck(last, given)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_kernels_of_a_step_are_those_of_its_repetition(checkpointed):
    """The forward within `twice_differentiable`, both backward passes outside, and against them
    all within.
    """

    def twice(network, last, x):
        (first,) = torch.autograd.grad(last.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, network.query])

    found = []
    for is_within in (True, False):
        network, x = Attention(), TOKENS.clone().requires_grad_()
        with twice_differentiable():
            last = integrate(network, x, TOKEN_TIMES, checkpointed=checkpointed)
            if is_within:
                found.append(twice(network, last, x))
        if not is_within:
            found.append(twice(network, last, x))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_fused_attention_has_no_second_derivative():
    """Why there is `twice_differentiable`. Where torch has learnt it, this fails: take it out."""
    network, x = Attention(), TOKENS.clone().requires_grad_()
    last = integrate(network, x, TOKEN_TIMES)
    (first,) = torch.autograd.grad(last.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"attention.* is not implemented"):
        first.square().sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_gpu_finds_the_same_and_is_not_waited_for(checkpointed):
    def found(device):
        network, x = Attention().to(device), TOKENS.to(device).requires_grad_()
        times = time_grid(2, TOKEN_TIMES[0].to(device), ratio=2.0)
        with twice_differentiable():
            last = integrate(network.down, x, times, "heun", checkpointed=checkpointed)
            back = time_grid(2, 1.0, 0.5)
            last = integrate(network.down, last, back, checkpointed=checkpointed)
        return torch.autograd.grad(last.square().sum(), [x, network.query])

    found("cuda")  # allocates and initialises
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = found("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(on_gpu, found("cpu"), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-9)
