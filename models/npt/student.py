"""The student: the teacher with some layers converted, on the teacher's own weights.

Shapes: B samples, L tokens, V vocabulary, N converted layers, d width, r rank, q directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.npt.converter import KINDS, Conversion
from models.npt.layers import Recorded, Rule, layers_of, with_rules
from models.npt.llama import logits_of
from models.npt.settings import ConverterSettings

LEVELS = 101
"""Quantiles of |a| that are known of each layer."""

Convert = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Conversion]
"""What a layer becomes, of the layer, h, a and the noise of its code."""


@dataclass(frozen=True)
class Window:
    """Which layers learn at a step, and which are converted at all; the rest are the teacher's.

    Attributes:
        open: that learn, ascending; they are converted.
        converted: ascending.
    """

    open: tuple[int, ...]
    converted: tuple[int, ...]


def one_by_one(layers: tuple[int, ...], place: int, are_converted: bool) -> Window:
    """The window of one layer.

    Args:
        place: of the layer that learns, from 1; 0, and beyond the last one, all of them.
        are_converted: whether those after it are converted already.
    """
    if not 0 < place <= len(layers):
        return Window(layers, layers)
    return Window((layers[place - 1],), layers if are_converted else layers[:place])


def with_gradient(converter: nn.Module, factor: float) -> Convert:
    """The converter whose parameters have `factor` times their gradient; with 0 they have none,
    and an optimizer leaves them and their moments alone. The values are the same to the bit.
    """
    if factor == 1.0:
        return converter

    def convert(layer: nn.Module, h: Tensor, a: Tensor, noise: Tensor | None) -> Conversion:
        parameters = {
            name: p.detach() + factor * (p - p.detach()) if factor else p.detach()
            for name, p in converter.named_parameters()
        }
        conversion: Conversion = functional_call(converter, parameters, (layer, h, a, noise))
        return conversion

    return convert


@dataclass
class ConvertedRule:
    """h + m, and remembers how m came about.

    Attributes:
        noise: standard normal [B, L, r]; None takes the mean of the code.
    """

    converter: Convert
    noise: Tensor | None = None
    conversion: Conversion | None = None

    def __call__(self, layer: nn.Module, h: Tensor, a: Tensor) -> Tensor:
        conversion: Conversion = self.converter(layer, h, a, self.noise)
        self.conversion = conversion
        return h + conversion.mlp


class FedLayer(nn.Module):
    """A layer that some samples enter with what the teacher feeds it."""

    def __init__(self, layer: nn.Module, hidden: Tensor, is_fed: Tensor) -> None:
        super().__init__()
        self.layer, self.hidden, self.is_fed = layer, hidden, is_fed

    def forward(self, hidden_states: Tensor, **others: object) -> Tensor:
        h = torch.where(self.is_fed[:, None, None], self.hidden, hidden_states)
        return self.layer(h, **others)


class Converters(nn.Module):
    """The converters of a teacher's layers: all that learns.

    Attributes:
        layers: which are converted, ascending.
        directions: of the largest spread of norm(h) in each [N, d, q], as the teacher has it.
        lengths: quantiles of |a| in each [N, LEVELS], as the teacher has it.
    """

    directions: Tensor
    lengths: Tensor

    def __init__(
        self,
        layers: tuple[int, ...],
        width: int,
        hidden: int,
        settings: ConverterSettings,
        directions: int = 0,
    ) -> None:
        """
        Args:
            width, hidden: d and f of the teacher.
            directions: q.
        """
        super().__init__()
        self.layers, self.gradient = layers, settings.gradient
        kind = KINDS[settings.kind]
        self.each = nn.ModuleDict({str(at): kind(width, hidden, settings) for at in layers})
        self.register_buffer("directions", torch.zeros(len(layers), width, directions))
        self.register_buffer("lengths", torch.zeros(len(layers), LEVELS))

    def forward(
        self,
        teacher: nn.Module,
        tokens: Tensor,
        noise: Mapping[int, Tensor] | None = None,
        hidden: Mapping[int, Tensor] | None = None,
        is_fed: Tensor | None = None,
        window: Window | None = None,
    ) -> tuple[Tensor, list[Conversion]]:
        """The student's logits [B, L, V], and the conversion of each layer that learns.

        Args:
            noise: of each converted layer [B, L, r]; without it codes are their means.
            hidden: what the teacher feeds each converted layer, for the samples of `is_fed` [B].
            window: None where all layers learn.
        """
        window = window or Window(self.layers, self.layers)
        rules = self.rules(noise, window)
        student = with_rules(teacher, dict(rules))
        if hidden is not None and is_fed is not None:
            layers = layers_of(student)
            for at in rules:
                layers[at] = FedLayer(layers[at], hidden[at], is_fed)
        logits = logits_of(student, tokens)
        made = (rules[at].conversion for at in window.open)
        return logits, [conversion for conversion in made if conversion is not None]

    def threshold(self, share: Tensor) -> Tensor:
        """|a| below which `share` of the teacher's tokens lie, in each layer [N]; no bound from 1
        on.

        Args:
            share: a number, on the device of the converters.
        """
        place = share.clamp(0.0, 1.0) * (LEVELS - 1)
        below = place.floor().clamp_max(LEVELS - 2)
        low, high = (self.lengths.index_select(1, (below + i).long().view(1)) for i in (0, 1))
        value = torch.lerp(low, high, (place - below).to(low.dtype))[:, 0]
        return torch.where(share >= 1.0, torch.inf, value)

    def rules(
        self, noise: Mapping[int, Tensor] | None = None, window: Window | None = None
    ) -> dict[int, ConvertedRule]:
        """The rule of each converted layer, for `with_rules`."""
        window = window or Window(self.layers, self.layers)
        converters = dict(self.each.items())
        factor = self.gradient if self.training else 1.0
        return {
            at: ConvertedRule(
                with_gradient(converters[str(at)], factor if at in window.open else 0.0),
                None if noise is None else noise[at],
            )
            for at in window.converted
        }


@torch.no_grad()
def teach(
    teacher: nn.Module, tokens: Tensor, layers: tuple[int, ...]
) -> tuple[Tensor, dict[int, Recorded]]:
    """The teacher's logits, and what these layers were fed."""
    records = {at: Recorded() for at in layers}
    rules: dict[int, Rule] = dict(records)
    return logits_of(with_rules(teacher, rules), tokens), records
