"""Domains, values and directions in Optuna's terms, and values back. A value that is encoded and
decoded again is equal and of the same type.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal

from search.objectives import Goal
from search_spaces.domains import Choice, Domain, Integer, LogUniform, Uniform, same_value
from settings.schema import Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial


def distribution(domain: Domain) -> BaseDistribution:
    """The domain as Optuna's distribution."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Choice):
        return CategoricalDistribution([encode(domain, option) for option in domain.options])
    if isinstance(domain, Integer):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    if isinstance(domain, LogUniform):
        return FloatDistribution(domain.low, domain.high, log=True)
    return FloatDistribution(domain.low, domain.high, step=domain.step)


def directions(goal: Goal) -> list[Literal["minimize", "maximize"]]:
    """The directions of a study with the goal's objectives."""
    return ["minimize" if o.mode == "min" else "maximize" for o in goal.objectives]


def encode(domain: Domain, value: Value) -> Any:
    """A value as Optuna stores it: options that are tuples become JSON text, all else stays."""
    return json.dumps(value) if isinstance(domain, Choice) and isinstance(value, tuple) else value


def decode(domain: Domain, stored: Any) -> Value:
    """The domain's value for one that Optuna stores."""
    if isinstance(domain, Choice):
        return next(
            option for option in domain.options if same_value(encode(domain, option), stored)
        )
    return domain.snap(stored)


def suggest(trial: Trial, key: str, domain: Domain) -> Value:
    """Draws one key (Optuna's define-by-run calls)."""
    if isinstance(domain, Choice):
        return decode(
            domain, trial.suggest_categorical(key, [encode(domain, o) for o in domain.options])
        )
    if isinstance(domain, Integer):
        return domain.snap(
            trial.suggest_int(key, domain.low, domain.high, log=domain.log, step=domain.step)
        )
    if isinstance(domain, LogUniform):
        return domain.snap(trial.suggest_float(key, domain.low, domain.high, log=True))
    return domain.snap(trial.suggest_float(key, domain.low, domain.high, step=domain.step))


def from_unit(domain: Domain, position: float) -> Value:
    """The value at a position in [0, 1): each value of a discrete domain has an equal share of
    it, each number of a continuous one as the domain weighs them. The inverse of `to_unit`.
    """
    if isinstance(domain, Choice):
        return domain.options[_share(position, len(domain.options))]
    if isinstance(domain, Integer) and domain.log:
        low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
        return domain.snap(round(math.exp(low + position * (high - low))))
    if isinstance(domain, Integer):
        return domain.low + domain.step * _share(position, _count(domain))
    if isinstance(domain, LogUniform):
        low, high = math.log(domain.low), math.log(domain.high)
        return domain.snap(math.exp(low + position * (high - low)))
    if domain.step is not None:
        return domain.snap(domain.low + domain.step * _share(position, _count(domain)))
    return domain.snap(domain.low + position * (domain.high - domain.low))


def to_unit(domain: Domain, value: Any) -> float:
    """The position of a value in [0, 1]: the middle of its share in a discrete domain."""
    if isinstance(domain, Choice):
        index = next(i for i, option in enumerate(domain.options) if same_value(option, value))
        return (index + 0.5) / len(domain.options)
    if isinstance(domain, Integer) and domain.log:
        low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
        return (math.log(value) - low) / (high - low)
    if isinstance(domain, LogUniform):
        low, high = math.log(domain.low), math.log(domain.high)
        return (math.log(value) - low) / (high - low)
    if domain.step is not None:
        return (round((value - domain.low) / domain.step) + 0.5) / _count(domain)
    return (value - domain.low) / (domain.high - domain.low)


def share_between(domain: Integer | LogUniform | Uniform, low: float, high: float) -> float:
    """The share of a domain that lies from `low` to `high`, both included: of a discrete one, of
    its values.
    """
    if isinstance(domain, Integer) and domain.log:
        ends = math.log(high + 0.5) - math.log(low - 0.5)
        return ends / (math.log(domain.high + 0.5) - math.log(domain.low - 0.5))
    between = to_unit(domain, high) - to_unit(domain, low)
    if isinstance(domain, LogUniform) or domain.step is None:
        return between
    return between + 1.0 / _count(domain)


def _count(domain: Integer | Uniform) -> int:
    """The number of values of a domain with a step."""
    return round((domain.high - domain.low) / (domain.step or 1)) + 1


def _share(position: float, count: int) -> int:
    return min(int(position * count), count - 1)
