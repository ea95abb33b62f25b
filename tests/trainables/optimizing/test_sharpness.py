"""SAM and ASAM, beside another implementation and the papers' own lines."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from pytorch_optimizer import SAM
from torch import nn

from trainables.optimizing.sharpness import Pass, SharpnessSettings, aside

RULES = {"sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), "adamw": (torch.optim.AdamW, {})}


def problem():
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    batches = [torch.randn(8, 4, generator=generator) for _ in range(5)]
    return net, batches


def loss_of(net, batch):
    return (net(batch[:, :3]) - batch[:, 3:]).square().mean()


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize(("radius", "adaptive"), [(0.05, False), (0.7, False), (1.0, True)])
def test_a_step_equals_another_implementation_and_the_papers(kind, radius, adaptive):
    rule, options = RULES[kind]
    net, batches = problem()
    theirs, by_hand = copy.deepcopy(net), copy.deepcopy(net)
    ours = rule(net.parameters(), **options)
    sam = SAM(theirs.parameters(), rule, rho=radius, adaptive=adaptive, **options)
    plain = rule(by_hand.parameters(), **options)
    for batch in batches:
        loss_of(net, batch).backward()
        settings = SharpnessSettings(radius=radius, adaptive=adaptive)
        with aside(list(net.parameters()), settings):
            loss_of(net, batch).backward()
        ours.step()
        ours.zero_grad()

        loss_of(theirs, batch).backward()
        sam.first_step(zero_grad=True)
        loss_of(theirs, batch).backward()
        sam.second_step(zero_grad=True)

        _by_hand(by_hand, batch, radius, adaptive)
        plain.step()
        plain.zero_grad()
    for mine, other, hand in zip(
        net.parameters(), theirs.parameters(), by_hand.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(mine, hand, rtol=1e-6, atol=1e-6)


def _by_hand(net, batch, radius, adaptive):
    """Equation 2 of Foret et al.; equation 8 of Kwon et al., with T_w = diag |w|."""
    weights = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    loss_of(net, batch).backward()
    g = torch.nn.utils.parameters_to_vector([p.grad for p in net.parameters()])
    t = weights.abs() if adaptive else torch.ones_like(weights)
    e = radius * t * t * g / (t * g).norm()
    net.zero_grad()
    torch.nn.utils.vector_to_parameters(weights + e, net.parameters())
    loss_of(net, batch).backward()
    torch.nn.utils.vector_to_parameters(weights, net.parameters())


def test_the_weights_are_back_to_the_bit_and_the_first_gradient_is_gone():
    net, (batch, *_) = problem()
    before = [p.detach().clone() for p in net.parameters()]
    loss_of(net, batch).backward()
    with aside(list(net.parameters()), SharpnessSettings(radius=0.3)):
        distance = sum(
            (p.detach() - b).square().sum() for p, b in zip(net.parameters(), before, strict=True)
        )
        assert float(distance.sqrt()) == pytest.approx(0.3, rel=1e-5)
        assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


def test_who_has_no_gradient_stays_and_a_flat_place_is_no_division_by_zero():
    net, (batch, *_) = problem()
    net[0].requires_grad_(False)
    loss_of(net, batch).backward()
    with aside(list(net.parameters()), SharpnessSettings(radius=1.0)):
        assert torch.equal(net[0].weight, problem()[0][0].weight)
    for parameter in net[2].parameters():
        parameter.grad = torch.zeros_like(parameter)
    with aside(list(net.parameters()), SharpnessSettings(radius=1.0)):
        assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    for parameter in net.parameters():
        parameter.grad = None
    with aside(list(net.parameters()), SharpnessSettings(radius=1.0)):
        pass


def test_a_pass_is_replayed_and_its_buffers_advance_once():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    x = torch.randn(8, 4)
    torch.manual_seed(1)
    random.seed(1)
    first = Pass({"net": net}, torch.device("cpu"))
    seen = [(net(x), random.random())]
    after = {key: value.clone() for key, value in net.state_dict().items()}
    with first.again():
        seen.append((net(x + 1.0), random.random()))
        assert int(net[0].num_batches_tracked) == 1
    assert seen[0][1] == seen[1][1]
    assert torch.equal(seen[0][0] == 0.0, seen[1][0] == 0.0), "the same values are dropped"
    assert all(torch.equal(value, after[key]) for key, value in net.state_dict().items())
    left = torch.rand(1), random.random()
    torch.manual_seed(1)
    random.seed(1)
    net(x), random.random()
    assert left == (torch.rand(1), random.random()), "the generators go on as after one pass"


class Counting(nn.Module):
    """A buffer that each forward puts another tensor in place of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + 1.0
        return x


def test_a_buffer_that_is_replaced_advances_once_too():
    net = nn.Sequential(Counting(), nn.BatchNorm1d(4))
    first = Pass({"net": net}, torch.device("cpu"))
    net(torch.randn(8, 4))
    with first.again():
        assert float(net[0].seen) == 0.0
        net(torch.randn(8, 4))
    assert float(net[0].seen) == 1.0
    assert [name for name, _ in net[0].named_buffers()] == ["seen"]
