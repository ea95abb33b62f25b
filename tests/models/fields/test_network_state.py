"""The conditioner's network as a thing that is saved, moved, compiled and trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

# State, devices


def test_a_state_dict_restores_the_output_and_the_power_iteration(net):
    """The singular vectors are buffers: without them a resumed training would differ."""
    model, x = net.make(seed=1), net.images()
    for _ in range(3):
        model(x)
    assert any(name.endswith("_u") for name in model.state_dict())
    other = net.make(seed=2)
    other.load_state_dict(model.state_dict())
    for train in (False, True, True):
        net.same(model.train(train)(x), other.train(train)(x), rtol=0, atol=0)


def test_a_second_pass_in_eval_mode_moves_nothing_and_keeps_the_first_ones_gradient(net):
    model, x = net.make(), net.images()
    alone = copy.deepcopy(model)
    alone(x)["main"].square().sum().backward()
    prediction = model(x)
    with torch.no_grad():
        model.eval()(x.flip(-1))
    model.train()
    prediction["main"].square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        if p.grad is not None:
            assert torch.equal(p.grad, q.grad), name
    for name, value in model.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name


@pytest.mark.slow
def test_a_moving_average_must_copy_the_singular_vectors(net):
    """Averaged, they are no longer of length 1, and the weights are divided by too little."""
    model, x = net.make(), net.images(8)
    target = torch.rand(8, 12, generator=torch.Generator().manual_seed(0)) - 0.5
    averages = {
        averaged: AveragedModel(
            model, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=averaged
        )
        for averaged in (True, False)
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (model(x)["main"] - target).square().mean().backward()
        optimizer.step()
        for average in averages.values():
            average.update_parameters(model)
    largest = {
        averaged: max(
            float(torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2))
            for m in average.eval().modules()
            if hasattr(m, "parametrizations")
        )
        for averaged, average in averages.items()
    }
    assert largest[False] < 1.2
    assert largest[True] > 1.5


def test_channels_last_gives_the_same(net):
    x = net.images(2, 32)
    plain, last = net.make().eval(), net.make().eval().to(memory_format=torch.channels_last)
    found = last(x.contiguous(memory_format=torch.channels_last), collect=True)
    net.same(found, plain(x, collect=True), rtol=1e-4, atol=1e-5)
    assert last.stages[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("collect", [False, True])
def test_it_is_captured_in_one_graph(net, collect):
    model, x = net.make(), net.images(2, 32)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for train in (True, False):
        expected = plain.train(train)(x, collect=collect)
        net.same(compiled.train(train)(x, collect=collect), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_it_compiles_with_its_gradient(net):
    """The backward graph too; the code generator itself is not run."""
    model, x = net.make(filters=(8, 8)), net.images(2, 32)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for module in (plain, compiled):
        module(x)["hier"].square().sum().backward()
    reached = 0
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5, msg=name)
            reached += 1
    assert reached > 10
    net.same(compiled.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)


def test_bf16_is_close_and_the_output_is_float32(net):
    model, x = net.make().eval(), net.images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(x)
    assert found["main"].dtype == torch.float32
    net.same(found, model(x), rtol=0.1, atol=0.02)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)["main"].sum().backward()
    assert model.stages[0].conv2.parametrizations.weight[0]._u.dtype == torch.float32


@pytest.mark.slow
def test_it_learns_a_few_images(net):
    model, x = net.make(), net.images(4)
    target = {
        name: torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) - 0.5
        for name, value in model(x).items()
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        found = model(x)
        loss = sum((found[name] - target[name]).square().mean() for name in target)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01
