"""What a balancer weighs: every term by itself, or groups of terms that share a weight.

Legend: c a component, w_i the weight of term i within it, L_i and g_i the term's loss and
gradient. L_c = sum_i w_i L_i, g_c = sum_i w_i g_i, and the weight that is applied to term i is
w_i times what the balancer gives to c, times the schedule's factor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from losses.balancers.base import Balancer, Needs, Observed
from settings.schema import SettingsError

Components = Mapping[str, Mapping[str, float]]
"""Component -> term -> its weight within."""


def parse_groups(groups: Sequence[str], terms: Collection[str]) -> dict[str, list[str]]:
    """`NAME=TERM+TERM...` by name.

    Raises:
        SettingsError: another form, a term that is none or in two groups, a name that is another
            term's or that of two groups.
    """
    found: dict[str, list[str]] = {}
    of: dict[str, str] = {}
    for text in groups:
        name, _, members = (part.strip() for part in text.partition("="))
        named = [member.strip() for member in members.split("+")]
        if not name or not all(named):
            raise SettingsError(
                f"balancer.groups takes NAME=TERM+TERM..., not {text!r}. For example "
                f"balancer.groups=[errors={'+'.join(list(terms)[:2])}]."
            )
        if name in found or "." in name:
            raise SettingsError(f"balancer.groups: {name!r} names two groups, or has a dot.")
        for term in named:
            if term not in terms:
                raise SettingsError(
                    f"balancer.groups: {term!r} in {text!r} is no term. Terms: {', '.join(terms)}."
                )
            if term in of:
                raise SettingsError(
                    f"balancer.groups: {term!r} is in {of[term]!r} and in {name!r}. A term has "
                    "one weight: take it out of one."
                )
            of[term] = name
        found[name] = named
    for name in found.keys() & set(terms):
        if name not in found[name]:
            raise SettingsError(
                f"balancer.groups: {name!r} names a group, and a term that is not in it. Name the "
                "group otherwise."
            )
    return found


def components(groups: Mapping[str, Sequence[str]], weights: Mapping[str, float]) -> Components:
    """The groups that have terms, and each other term as a component of its own name, in the order
    of the terms.

    Args:
        weights: of every term that is on, within its component.
    """
    of = {term: name for name, members in groups.items() for term in members}
    found: dict[str, dict[str, float]] = {}
    for term, weight in weights.items():
        found.setdefault(of.get(term, term), {})[term] = weight
    return found


def summed(components: Components, losses: Mapping[str, float]) -> dict[str, float]:
    """The loss of each component of which some term was there."""
    losses_of = {
        name: [weight * losses[term] for term, weight in within.items() if term in losses]
        for name, within in components.items()
    }
    return {name: sum(values) for name, values in losses_of.items() if values}


class Componentwise:
    """A balancer of components, as one of terms.

    Args:
        inner: over the names of the components.
        components: with every term that is on.
    """

    def __init__(self, inner: Balancer, components: Components) -> None:
        self.inner, self.components = inner, components
        self.kind, self.equalises = inner.kind, inner.equalises
        self.needs: Needs = inner.needs
        self.interval = inner.interval
        self.keeps_weight_of: frozenset[str] = frozenset()  # that is in `components`

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        active = {
            name: 1.0 if any(base[term] > 0.0 for term in within) else 0.0
            for name, within in self.components.items()
        }
        given = self.inner.weights(active, step)
        applied = dict.fromkeys(base, 0.0)
        for name, within in self.components.items():
            applied.update({term: base[term] * w * given[name] for term, w in within.items()})
        return applied

    def observe(self, observed: Observed, step: int) -> None:
        self.inner.observe(observed, step)

    def state_dict(self) -> dict[str, Any]:
        members = {name: list(within) for name, within in self.components.items()}
        return {**self.inner.state_dict(), "components": members}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            ValueError: the state is that of another kind, or of other components.
        """
        members = {name: list(within) for name, within in self.components.items()}
        stored = state.get("components", {name: [name] for name in state.get("names", ())})
        if stored != members:
            raise ValueError(
                f"the checkpoint holds the state of a balancer over the components {stored}, and "
                f"the settings ask for {members}. Resume with the settings of the checkpoint, or "
                "start a new trial."
            )
        self.inner.load_state_dict(state)
