"""A flow that is trained through its integration, and one whose velocity is an energy's slope."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from trainables.api import (
    SOLVERS,
    Built,
    Composite,
    Phase,
    Term,
    draw_normal,
    draw_uniform,
    integrate,
    setting,
    time_grid,
    twice_differentiable,
)
from trainables.toy import Toy, ToyModel, ToySettings, count_samples, squared


@dataclass(frozen=True, kw_only=True)
class FlowModel(ToyModel):
    solver: str = setting("euler", "of the flow", choices=tuple(SOLVERS))
    steps: int = setting(3, "of the solver", low=1, high=1000)
    is_checkpointed: bool = setting(True, "whether steps recompute their activations")


@dataclass(frozen=True, kw_only=True)
class FlowSettings(ToySettings):
    model: FlowModel = field(default_factory=FlowModel)


class Attending(nn.Module):
    """A number from the state, the input and the time of each sample, by attention among three
    tokens.
    """

    def __init__(self, dropout):
        super().__init__()
        self.embedding, self.last = nn.Linear(3, 3 * 8), nn.Linear(3 * 8, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state, x, t):
        tokens = self.embedding(torch.cat([state, x, t[:, None]], dim=1)).view(-1, 1, 3, 8)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.last(self.dropout(torch.tanh(mixed)).flatten(1))


class Flowing(Toy):
    """From noise and the input, mixed at a time that is the sample's own, to y at 1."""

    name = "tests:Flowing"
    Settings = FlowSettings

    def build(self, settings, prepared):
        return Built(modules={"model": Attending(settings.model.dropout)})

    def phases(self, settings, prepared):
        terms = Composite({"squared": Term(squared, count_samples)}, settings.loss)
        return [Phase("model", ("model",), self.predict, terms)]

    def velocity(self, network, x):
        return lambda state, t: network(state, x, t)

    def predict(self, modules, batch, settings):
        x, model = batch["x"], settings.model
        start = 0.8 * draw_uniform(batch["seed"], "start")
        noise = draw_normal(batch["seed"], "noise", x.shape[1:])
        with twice_differentiable():
            y = integrate(
                self.velocity(modules["model"], x),
                torch.lerp(noise, x, start[:, None]),
                time_grid(model.steps, start),
                model.solver,
                checkpointed=model.is_checkpointed,
            )
        return {"y": y}


class Descending(Flowing):
    """The same along the negative slope of what the network makes."""

    name = "tests:Descending"

    def velocity(self, network, x):
        def down(state, t):
            with torch.enable_grad():
                place = state if state.requires_grad else state.detach().requires_grad_()
                energy = network(place, x, t).float().sum()
                return -torch.autograd.grad(energy, place, create_graph=True)[0]

        return down
