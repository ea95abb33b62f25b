"""What stands in place of a decoder layer: its attention as it is, and another rule for what
becomes of it.

Shapes: B samples, L tokens, d width, h, a [B, L, d]. A rule takes the layer, what it is fed h and
what its attention gives a, and returns what the next layer is fed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]


class RuledLayer(nn.Module):
    """Called as the layer that it replaces: with its mask, rotary embedding and cache."""

    def __init__(self, layer: nn.Module, rule: Rule) -> None:
        super().__init__()
        self.layer, self.rule = layer, rule

    def forward(self, hidden_states: Tensor, **others: object) -> Tensor:
        layer: Any = self.layer
        normed = layer.input_layernorm(hidden_states)
        attention, _ = layer.self_attn(hidden_states=normed, **others)
        return self.rule(self.layer, hidden_states, attention)


def layers_of(llama: nn.Module) -> nn.ModuleList:
    body: Any = llama.model
    layers: nn.ModuleList = body.layers
    return layers


def with_rules(llama: nn.Module, rules: Mapping[int, Rule]) -> nn.Module:
    """The Llama with rules in some of its layers: a shell around the same weights."""
    model: Any = llama.model
    shell, body = _shallow(llama), _shallow(model)
    body.layers = nn.ModuleList(
        RuledLayer(layer, rules[place]) if place in rules else layer
        for place, layer in enumerate(layers_of(llama))
    )
    shell.model = body
    return shell


def _shallow(module: nn.Module) -> nn.Module:
    """Another module with the same parameters and parts, which may be exchanged. A forward that
    somebody has put around the module's own (mixed precision) is of the module, and not taken.
    """
    other = copy.copy(module)
    other.__dict__.pop("forward", None)
    other._modules = dict(module._modules)
    return other


# Rules


def mlp(layer: nn.Module, x: Tensor) -> Tensor:
    """MLP(norm(x)), not added to x."""
    parts: Any = layer
    output: Tensor = parts.mlp(parts.post_attention_layernorm(x))
    return output


def as_it_is(layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
    """h + a + MLP(norm(h + a)), the layer itself."""
    x = h + a
    return x + mlp(layer, x)


def without_attention(layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
    return h + mlp(layer, h)


def parallel(layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
    """h + a + MLP(norm(h)), as if attention and MLP stood side by side."""
    return h + a + mlp(layer, h)


def with_constant(mean: Tensor) -> Rule:
    """The same vector [d] for every token in place of a."""

    def rule(layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
        return as_it_is(layer, h, mean.to(a).expand_as(a))

    return rule


def with_affine(weight: Tensor, bias: Tensor) -> Rule:
    """h + MLP(norm(h)) + a weight + bias: [d, d] and [d]."""

    def rule(layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
        return without_attention(layer, h, a) + a @ weight.to(a) + bias.to(a)

    return rule


class Recorded:
    """As it is, and remembers what it was fed and what its attention gave."""

    def __init__(self) -> None:
        self.hidden, self.attention = torch.empty(0), torch.empty(0)

    def __call__(self, layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
        self.hidden, self.attention = h, a
        return as_it_is(layer, h, a)


# What a converted layer is to do


@torch.no_grad()
def target(layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
    """a + MLP(norm(h + a)): what added to h gives what the layer itself would give."""
    return as_it_is(layer, h, a) - h


@torch.no_grad()
def gate_change(layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
    """W_gate (norm(h + a) - norm(h)), [B, L, d_ffn]: what attention changes about the gate. It is
    not W_gate a, because of the norm (003-M7).
    """
    parts: Any = layer
    norm = parts.post_attention_layernorm
    change: Tensor = parts.mlp.gate_proj(norm(h + a) - norm(h))
    return change


@torch.no_grad()
def gate_of_attention(layer: nn.Module, a: Tensor) -> Tensor:
    """W_gate a, which the document takes for that change."""
    parts: Any = layer
    gate: Tensor = parts.mlp.gate_proj(a)
    return gate
