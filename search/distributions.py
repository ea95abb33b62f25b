"""Domains in Optuna's terms, and back. A value that goes there and returns is the same value of
the same type.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from search_spaces.domains import Choice, Domain, Integer, LogUniform, same_value
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


def encode(domain: Domain, value: Value) -> Any:
    """A value as Optuna holds it: options that are tuples become JSON text, all else stays."""
    return json.dumps(value) if isinstance(domain, Choice) and isinstance(value, tuple) else value


def decode(domain: Domain, held: Any) -> Value:
    """The domain's own value for what Optuna holds."""
    if isinstance(domain, Choice):
        return next(
            option for option in domain.options if same_value(encode(domain, option), held)
        )
    return domain.snap(held)


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
