"""The balancers by name, with their settings; for every Composite whose settings have the node.

The kinds are in `losses.balancers.ratio` and `losses.balancers.learned`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from losses.balancers.base import Balancer, FixedWeights, TermBalancer
from losses.balancers.components import Componentwise, components, parse_groups
from losses.balancers.learned import GradNorm, Softmax, Uncertainty
from losses.balancers.ratio import (
    DynamicWeightAverage,
    InverseGradient,
    MagnitudeRatio,
    RelativeLossBalancing,
)
from losses.terms import Term
from settings.schema import Settings, SettingsError, setting

KINDS = (
    "fixed",
    "uncertainty",
    "gradnorm",
    "dwa",
    "relobralo",
    "inverse_gradient",
    "magnitude_ratio",
    "softmax",
)

PAPER_TEMPERATURES = {"dwa": 2.0, "relobralo": 0.1}

_TAKE_ANY_LOSS = ("fixed", "inverse_gradient")
"""Kinds that look at no loss, or only at its gradient."""


@dataclass(frozen=True, kw_only=True)
class BalancerSettings(Settings):
    """How the weights are computed. With any kind but fixed and `base=ones` a term's own weight
    says only whether the term is on (0: off); with `base=weights` what the kind computes is
    multiplied by it, and the kind looks at losses and gradients that have it in them. Schedules
    multiply with both. magnitude_ratio keeps the weight of its anchor, the first term that is on.

    softmax is the source document's learned weighter, kept as a negative example: it gives all
    weight to the smallest loss (000-M8).
    """

    kind: str = setting(
        "fixed",
        "who makes the weights; softmax is a negative example, its weights collapse onto the "
        "smallest loss",
        choices=KINDS,
    )
    base: str = setting(
        "ones",
        "what the computed weights multiply: ones, so that a term's own weight is idle, or the "
        "terms' own weights",
        choices=("ones", "weights"),
    )
    groups: tuple[str, ...] = setting(
        (),
        "terms that share one computed weight, NAME=TERM+TERM...; their loss is the sum of the "
        "terms times their base. A term in none is a group of its own",
    )
    interval: int = setting(
        10,
        "gradnorm, inverse_gradient, relobralo look at one step in so many; dwa averages over "
        "them; the other kinds look at every step",
        unit="steps",
        low=1,
        high=100_000,
    )
    lr: float = setting(
        0.01, "uncertainty, gradnorm, softmax: Adam's rate for the weights", low=1e-6, high=1.0
    )
    alpha: float = setting(
        1.5, "gradnorm: how much harder terms that lag behind may pull", low=0.0, high=10.0
    )
    temperature: float = setting(
        0.0,
        "dwa, relobralo: of the softmax over relative losses; 0 for the papers' values, 2 and 0.1",
        low=0.0,
        high=1e3,
    )
    decay: float = setting(
        0.9,
        "relobralo, inverse_gradient: share of the old value at each look",
        low=0.0,
        high=0.99999,
    )
    lookback: float = setting(
        0.01,
        "relobralo: probability that a look compares with the first losses (the paper's 1 - rho)",
        low=0.0,
        high=1.0,
    )
    ratio: float = setting(
        0.5, "magnitude_ratio: wanted size of a term over the anchor's", low=1e-4, high=1e4
    )
    ratio_max: float = setting(5.0, "magnitude_ratio: largest weight of a term", low=1.0, high=1e6)
    adapts: tuple[str, ...] = setting(
        (), "magnitude_ratio: the terms or groups that get a weight; none for all but the anchor"
    )
    weight_max: float = setting(
        10.0,
        "inverse_gradient: weights lie in 1/weight_max .. weight_max before they are normalised",
        low=1.0,
        high=1e6,
    )


def make_balancer(
    settings: BalancerSettings,
    terms: Mapping[str, Term],
    weights: Mapping[str, float] | None = None,
    every: Collection[str] = (),
) -> Balancer:
    """The balancer of the settings.

    Args:
        terms: those that are on.
        weights: of them, in the settings; 1 where None.
        every: the names of all terms, which groups may have; those of `terms` where empty.

    Raises:
        SettingsError: a term has no lower bound and the kind needs losses that are not negative;
            groups that are none, or `adapts` that names none.
    """
    _check_bounded(settings.kind, terms)
    groups = parse_groups(settings.groups, every or terms)
    is_plain = settings.base == "ones" and not groups
    if settings.kind == FixedWeights.kind:
        return FixedWeights()
    if is_plain:
        return _make(settings, tuple(terms))
    ones = dict.fromkeys(terms, 1.0)
    of = components(groups, (weights or ones) if settings.base == "weights" else ones)
    return Componentwise(_make(settings, tuple(of)), of)


def _make(s: BalancerSettings, names: Sequence[str]) -> TermBalancer:
    """A balancer, other than `fixed`, of what has these names."""
    temperature = s.temperature or PAPER_TEMPERATURES.get(s.kind, 1.0)
    if s.kind == "uncertainty":
        return Uncertainty(names, s.lr)
    if s.kind == "gradnorm":
        return GradNorm(names, s.interval, s.lr, s.alpha)
    if s.kind == "dwa":
        return DynamicWeightAverage(names, s.interval, temperature)
    if s.kind == "relobralo":
        return RelativeLossBalancing(names, s.interval, temperature, s.decay, s.lookback)
    if s.kind == "inverse_gradient":
        return InverseGradient(names, s.interval, s.decay, s.weight_max)
    if s.kind == "magnitude_ratio":
        _check_adapts(s.adapts, names)
        return MagnitudeRatio(names, s.ratio, s.ratio_max, s.adapts)
    return Softmax(names, s.lr)


def _check_adapts(adapts: Sequence[str], names: Sequence[str]) -> None:
    wrong = [name for name in adapts if name not in names[1:]]
    if wrong:
        raise SettingsError(
            f"balancer.adapts: {', '.join(wrong)} is no term or group that is on, or is the "
            f"anchor ({names[0] if names else 'none'}). It may name "
            f"{', '.join(names[1:]) or 'none'}."
        )


def _check_bounded(kind: str, terms: Mapping[str, Term]) -> None:
    if kind in _TAKE_ANY_LOSS:
        return
    for name, term in terms.items():
        if term.unbounded:
            raise SettingsError(
                f"balancer {kind} needs losses that are not negative, and term {name!r} has no "
                f"lower bound ({term.unbounded}). Use balancer.kind=inverse_gradient or fixed, "
                "or switch the term off."
            )
