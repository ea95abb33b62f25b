"""Exploration of a population: settings near given ones, each key on its domain's own scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from search.optuna.distributions import from_unit
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Space
from settings.schema import Value

Number = Uniform | LogUniform | Integer

FACTORS = (0.8, 1.25)
"""Factors that move a value on a logarithmic scale; each undoes the other."""

SHIFT = 0.1
"""A value on a linear scale moves by this share of its range, up or down; at least by one step."""

RESAMPLE = 0.25
"""Share of the choices that are drawn anew."""


def perturbed(space: Space, parent: Mapping[str, Any], draw: Random) -> dict[str, Any]:
    """Settings one step away from those of a parent in every number, with some choices drawn anew.

    A key that becomes active by a new choice is drawn from its whole domain.
    """
    return explored(space, parent, draw, lambda domain, value: nudged(domain, value, draw))


def explored(
    space: Space,
    parent: Mapping[str, Any],
    draw: Random,
    number: Callable[[Number, Any], Value],
) -> dict[str, Any]:
    """Settings near those of a parent: numbers by `number(domain, parent's value)`, and some
    choices drawn anew.
    """
    values: dict[str, Any] = {}
    for key in space.order():
        if not space.is_active(key, values, values):
            continue
        domain = space.domains[key]
        if key not in parent:
            values[key] = from_unit(domain, draw.random())
        elif isinstance(domain, Choice):
            anew = draw.random() < RESAMPLE
            values[key] = draw.choice(domain.options) if anew else parent[key]
        else:
            values[key] = number(domain, parent[key])
    return values


def nudged(domain: Number, value: float, draw: Random) -> Value:
    """A number one step up or down; the other way where the range ends."""
    first = draw.choice((0, 1))
    for way in (first, 1 - first):
        moved = _moved(domain, value, way)
        if moved != value:
            return moved
    return value


def _moved(domain: Number, value: float, way: int) -> Value:
    if isinstance(domain, LogUniform) or (isinstance(domain, Integer) and domain.log):
        aim = value * FACTORS[way]
    else:
        aim = value + (2 * way - 1) * SHIFT * (domain.high - domain.low)
    moved = domain.snap(round(aim) if isinstance(domain, Integer) else aim)
    step = getattr(domain, "step", None)
    if moved == value and step is not None:  # a grid too coarse for the move
        return domain.snap(value + (2 * way - 1) * step)
    return moved
