"""The learning rate by step, and which parameters decay."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainables.optimizing.optimizer import OptimizerSettings, make_optimizer, parameter_groups
from trainables.optimizing.rates import learning_rate


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.1),  # warmup_first
        (5, 0.55),  # half-way up
        (10, 1.0),  # the peak
        (55, (1.0 + 0.2) / 2.0),  # half-way down: the mean of peak and final
        (32.5, 0.2 + 0.8 * (1.0 + math.cos(math.pi / 4)) / 2.0),
        (100, 0.2),
        (1000, 0.2),
    ],
)
def test_the_table_of_warm_up_and_cosine(step, factor):
    settings = OptimizerSettings(lr=2.0, warmup=0.1, warmup_first=0.1, final=0.2)
    assert learning_rate(settings, step, 100) == pytest.approx(2.0 * factor, rel=1e-12)


def test_the_constant_schedule_stays_at_the_peak():
    settings = OptimizerSettings(lr=0.5, warmup=0.2, schedule="constant")
    assert {learning_rate(settings, step, 50) for step in range(10, 80)} == {0.5}
    assert learning_rate(settings, 9, 50) < 0.5


@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0.0, 1.0),
    final=st.floats(0.0, 1.0),
    schedule=st.sampled_from(["constant", "cosine"]),
)
def test_it_climbs_in_the_warm_up_only(steps, warmup, final, schedule):
    """004-M21: a cosine shorter than the training made the document's rate climb again."""
    settings = OptimizerSettings(lr=1.0, warmup=warmup, final=final, schedule=schedule)
    rates = [learning_rate(settings, step, steps) for step in range(2 * steps + 2)]
    assert all(0.0 <= rate <= 1.0 for rate in rates)
    for step, (now, then) in enumerate(pairwise(rates)):
        if step + 1 <= warmup * steps:
            assert then >= now
        elif step >= warmup * steps:
            assert then <= now


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.cap = nn.Parameter(torch.zeros(()))
        self.scale = nn.Parameter(torch.zeros(1, 3, 1, 1))


def test_weight_decay_spares_vectors_scalars_and_what_the_system_names():
    modules = {"model": Small(), "critic": nn.Linear(2, 1), "other": nn.Linear(1, 1)}
    settings = OptimizerSettings(weight_decay=0.5)
    groups = parameter_groups(modules, ("model", "critic"), settings, frozenset({"model.scale"}))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = {
        f"{name}.{key}": decay.get(id(p))
        for name, module in modules.items()
        for key, p in module.named_parameters()
    }
    assert named == {
        "model.linear.weight": 0.5,
        "critic.weight": 0.5,
        "model.linear.bias": 0.0,
        "model.norm.weight": 0.0,
        "model.norm.bias": 0.0,
        "model.cap": 0.0,
        "model.scale": 0.0,
        "critic.bias": 0.0,
        "other.weight": None,
        "other.bias": None,
    }
    assert sum(len(group["params"]) for group in groups) == 8


def test_no_group_is_empty():
    assert len(parameter_groups({"m": nn.LayerNorm(3)}, ("m",), OptimizerSettings())) == 1


def test_a_decayed_weight_shrinks_and_an_exempt_one_does_not():
    """AdamW without a gradient: w <- w (1 - lr * weight_decay), Loshchilov & Hutter 2019."""
    module = nn.Linear(2, 2)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    settings = OptimizerSettings(lr=0.1, weight_decay=0.5)
    groups = parameter_groups({"m": module}, ("m",), settings)
    optimizer = make_optimizer(settings, groups)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(module.weight.data, before["weight"] * (1.0 - 0.1 * 0.5))
    torch.testing.assert_close(module.bias.data, before["bias"])


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_the_settings_reach_the_rule(kind, rule):
    betas = {} if kind == "sgd" else {"beta2": 0.9, "eps": 1e-5}
    settings = OptimizerSettings(kind=kind, lr=0.25, beta1=0.7, **betas)
    module = nn.Linear(1, 1)
    optimizer = make_optimizer(settings, parameter_groups({"m": module}, "m", settings))
    assert type(optimizer) is rule
    assert optimizer.defaults["lr"] == 0.25
    if kind == "sgd":
        assert optimizer.defaults["momentum"] == 0.7
    else:
        assert optimizer.defaults["betas"] == (0.7, 0.9)
        assert optimizer.defaults["eps"] == 1e-5


def test_the_conditioner_documents_schedule_is_legal():
    """1 % of 1e-4 first, 1e-4 after the warm-up, 1e-8 at the end."""
    settings = OptimizerSettings(lr=1e-4, warmup=0.01, warmup_first=0.01, final=1e-4)
    rates = [learning_rate(settings, step, 10_000) for step in (0, 100, 10_000)]
    assert rates == pytest.approx([1e-6, 1e-4, 1e-8], rel=1e-9)
    assert learning_rate(settings, 9_999, 10_000) < 1.1e-8
