"""Hutchinson's estimate against the trace of the Jacobian, in training and in validation."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from models.style_flow.divergence import hutchinson, probes

T = torch.tensor([0.2, 0.7])
STYLE = torch.tensor([0, 2])


def exact(velocity, x, t):
    """The trace of the Jacobian of each sample, a row at a time."""
    traces = []
    for i in range(len(x)):
        at, time = x[i : i + 1], t[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda place: velocity(place, time), at)  # noqa: B023
        traces.append(jacobian.reshape(at.numel(), at.numel()).trace())
    return torch.stack(traces)


def test_the_mean_over_all_signs_is_the_trace():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    net = net.double()

    def velocity(x, t):
        return net(torch.cat([x, t[:, None]], dim=1))

    x, t = torch.randn(2, 4, dtype=torch.float64), T.double()
    signs = [
        torch.tensor([s] * 2, dtype=torch.float64) for s in itertools.product((-1, 1), repeat=4)
    ]
    estimates = torch.stack([hutchinson(velocity, x, t, xi)[1] for xi in signs])
    torch.testing.assert_close(estimates.mean(dim=0), exact(velocity, x, t))
    assert (estimates.std(dim=0) > 1e-3).all()


@pytest.mark.parametrize("variant", ["base", "plus"])
def test_the_estimates_of_a_network_are_about_its_trace(make, latents, variant):
    """Rademacher probes: the variance is that of the symmetric part off the diagonal."""
    network = make(variant=variant).double()
    x, t, count = latents(1, side=4).double(), T[:1].double(), 400

    def velocity(place, time):
        return network(place, time, STYLE[:1].expand(len(place)))

    trace = exact(velocity, x, t)
    many = x.expand(count, -1, -1, -1)
    xi = probes(torch.arange(count), x.shape[1:])
    found = hutchinson(velocity, many, t.expand(count), xi)[1].detach()
    assert found.mean().item() == pytest.approx(
        trace.item(), abs=3 * found.std().item() / count**0.5
    )


def test_it_is_trained_through_and_reads_one_sample(make, latents):
    network, x = make(variant="plus").double(), latents(2).double()
    velocity = network.of_style(STYLE)
    xi = probes(torch.tensor([1, 2]), x.shape[1:])
    v, estimate = hutchinson(velocity, x, T.double(), xi)
    torch.testing.assert_close(v, velocity(x, T.double()))
    loss = estimate.square().sum()
    parameters = [network.first.weight, network.attention.qkv.weight]
    found = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, found, strict=True):
        index = (0,) * parameter.ndim
        values = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[index] += change
                values.append(hutchinson(velocity, x, T.double(), xi)[1].square().sum())
                parameter[index] -= change
        expected = (values[0] - values[1]) / 2e-5
        assert gradient[index].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-8)
    alone = hutchinson(network.of_style(STYLE[1:]), x[1:], T[1:].double(), xi[1:])[1]
    torch.testing.assert_close(alone[0], estimate[1])


def test_without_gradients_it_is_the_same_number_in_no_graph(make, latents):
    network, x = make(variant="plus"), latents(2)
    xi = probes(torch.tensor([1, 2]), x.shape[1:])
    _, trained = hutchinson(network.of_style(STYLE), x, T, xi)
    with torch.no_grad():
        v, validated = hutchinson(network.of_style(STYLE), x, T, xi)
    assert not v.requires_grad and not validated.requires_grad and not x.requires_grad
    torch.testing.assert_close(validated, trained.detach())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_it_reaches_the_state_that_a_step_before_has_made(make, latents):
    """A penalty within the integration: its gradient goes on to what x came from."""
    network, source = make().double(), latents(2).double().requires_grad_()
    x = 2.0 * source
    xi = probes(torch.tensor([1, 2]), x.shape[1:])
    hutchinson(network.of_style(STYLE), x, T.double(), xi)[1].sum().backward()
    assert source.grad.abs().sum() > 0


def test_fused_attention_alone_would_have_no_second_derivative():
    x = torch.randn(1, 2, 4, 8, requires_grad=True)

    def velocity(place, t):
        return F.scaled_dot_product_attention(place, place, place)

    _, estimate = hutchinson(velocity, x, T[:1], torch.ones(1, 2, 4, 8))
    (gradient,) = torch.autograd.grad(estimate.sum(), x)
    assert gradient.abs().sum() > 0
    v = velocity(x, T)
    (product,) = torch.autograd.grad(v.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(product.square().sum(), x)


def test_probes_are_signs_by_the_seed_and_number():
    seed = torch.arange(500)
    xi = probes(seed, (2, 3, 3))
    assert set(xi.unique().tolist()) == {-1.0, 1.0}
    assert abs(xi.mean()) < 3.0 / xi.numel() ** 0.5
    assert torch.equal(probes(seed[7:8], (2, 3, 3))[0], xi[7])
    assert not torch.equal(probes(seed, (2, 3, 3), number=1), xi)
