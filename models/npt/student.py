"""The student: the teacher with some layers converted, on the teacher's own weights.

Shapes: B samples, L tokens, V vocabulary, N converted layers, d width, r rank, q directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.npt.converter import Conversion, Converter
from models.npt.layers import Recorded, Rule, layers_of, with_rules
from models.npt.llama import logits_of
from models.npt.settings import ConverterSettings


@dataclass
class ConvertedRule:
    """h + m, and remembers how m came about.

    Attributes:
        noise: standard normal [B, L, r]; None takes the mean of the code.
    """

    converter: Converter
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
    """

    directions: Tensor

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
        self.layers = layers
        self.each = nn.ModuleDict({str(at): Converter(width, hidden, settings) for at in layers})
        self.register_buffer("directions", torch.zeros(len(layers), width, directions))

    def forward(
        self,
        teacher: nn.Module,
        tokens: Tensor,
        noise: Mapping[int, Tensor] | None = None,
        hidden: Mapping[int, Tensor] | None = None,
        is_fed: Tensor | None = None,
    ) -> tuple[Tensor, list[Conversion]]:
        """The student's logits [B, L, V], and the conversion of each converted layer.

        Args:
            noise: of each converted layer [B, L, r]; without it codes are their means.
            hidden: what the teacher feeds each converted layer, for the samples of `is_fed` [B].
        """
        rules = self.rules(noise)
        student = with_rules(teacher, dict(rules))
        if hidden is not None and is_fed is not None:
            layers = layers_of(student)
            for at in self.layers:
                layers[at] = FedLayer(layers[at], hidden[at], is_fed)
        logits = logits_of(student, tokens)
        made = (rule.conversion for rule in rules.values())
        return logits, [conversion for conversion in made if conversion is not None]

    def rules(self, noise: Mapping[int, Tensor] | None = None) -> dict[int, ConvertedRule]:
        """The rule of each converted layer, for `with_rules`."""
        converters: dict[str, Converter] = dict(self.each.items())  # type: ignore[arg-type]
        return {
            at: ConvertedRule(converters[str(at)], None if noise is None else noise[at])
            for at in self.layers
        }


@torch.no_grad()
def teach(
    teacher: nn.Module, tokens: Tensor, layers: tuple[int, ...]
) -> tuple[Tensor, dict[int, Recorded]]:
    """The teacher's logits, and what these layers were fed."""
    records = {at: Recorded() for at in layers}
    rules: dict[int, Rule] = dict(records)
    return logits_of(with_rules(teacher, rules), tokens), records
