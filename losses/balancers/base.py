"""The interface of a balancer, which computes the weights of the terms from what it saw of them in
earlier steps.

Legend: i a term, L_i its mean over a step, g_i its gradient (unweighted) with respect to the
shared parameters, K the number of active terms.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Needs = Literal["nothing", "losses", "gradients"]

TINY = 1e-12
"""Added where a loss or a norm divides: a term may be exactly 0 (a satisfied hinge)."""


@dataclass(frozen=True)
class Observed:
    """One step as a balancer sees it, equal on every rank.

    Attributes:
        losses: global mean of each term that was active and had something to count.
        norms: ||g_i|| of the same terms; empty unless the balancer needs gradients.
        seed: of this step, for what a balancer draws.
    """

    losses: Mapping[str, float]
    norms: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


class Balancer(Protocol):
    """Computes the weights of the terms.

    It may also have `keeps_weight_of`: the terms whose weight in the settings still counts (all,
    where it has none). Of every other term the settings' weight says only whether the term is on,
    since two factors on one weight would work against each other (000-M11: terms multiplied by a
    fixed weight and then weighted again).
    """

    kind: str
    needs: Needs
    equalises: bool
    """Whether the weights bring losses or gradients of different sizes to the same size. Large
    ones then have small weights on purpose, and a small weight does not mean that a term was given
    up.
    """
    interval: int
    """`observe` is called after the updates from `step` to `step + 1` with `step % interval ==
    0`; not after a step whose gradient was not finite.
    """

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        """The weights to apply at `step`, called once a step.

        Args:
            base: of every term, its schedule's factor, times its settings' weight if it is kept; 0
                for a term that is off.
        """
        ...

    def observe(self, observed: Observed, step: int) -> None:
        """Takes in what the update at `step` saw; may change the weights from `step + 1` on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values and tensors: a checkpoint is read without unpickling code."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class FixedWeights:
    """The weights as the settings and schedules give them."""

    kind = "fixed"
    needs: Needs = "nothing"
    equalises = False
    interval = 1

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        return dict(base)

    def observe(self, observed: Observed, step: int) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class TermBalancer(ABC):
    """The base of all kinds: weights by the names of the terms that are on (000-M9: a weighter
    with a fixed number of components silently drops the rest), and a state that is checked.

    Args:
        names: the terms that the settings switch on. A schedule may still hold one at 0.
    """

    kind = ""
    needs: Needs = "losses"
    equalises = False
    interval = 1

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.keeps_weight_of: frozenset[str] = frozenset()

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        active = [name for name in self.names if base[name] > 0.0]
        balanced = self._balanced(active) if active else {}
        return {name: value * balanced.get(name, 0.0) for name, value in base.items()}

    @abstractmethod
    def _balanced(self, active: Sequence[str]) -> dict[str, float]:
        """The weight of each term that is active in this step, before its schedule's factor."""

    @abstractmethod
    def observe(self, observed: Observed, step: int) -> None: ...

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """All that `observe` changes, by the names of the attributes."""

    def _load(self, state: Mapping[str, Any]) -> None:
        for name in self._state():
            setattr(self, name, copy.deepcopy(state[name]))

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "names": list(self.names), **self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            ValueError: the state is that of another kind, or of other terms.
        """
        kind, names = state.get("kind", FixedWeights.kind), list(state.get("names", ()))
        if kind != self.kind or names != list(self.names):
            raise ValueError(
                f"the checkpoint holds the state of balancer {kind!r} over {names}, and the "
                f"settings ask for {self.kind!r} over {list(self.names)}. Resume with the "
                "settings of the checkpoint, or start a new trial."
            )
        self._load(state)


def normalised(values: Mapping[str, float]) -> dict[str, float]:
    """The values scaled to sum to their number, so that balancing does not change the step."""
    scale = len(values) / sum(values.values())
    return {name: value * scale for name, value in values.items()}


def mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
