"""The values of the health signs in one report, before any threshold."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Columns = Mapping[str, float | str | None]
"""A report by column; None for what has no value."""

SIGNS = (
    "term_share",
    "gradient_norm_high",
    "gradient_norm_low",
    "weight_collapse",
    "overfit_ratio",
)
"""The signs of every system."""

_BELOW = ("gradient_norm_low", "weight_collapse")
"""Those of them that warn below their threshold; the others warn above it."""


@dataclass(frozen=True)
class MeasuredSign:
    """A sign that one system's validation measures, with the threshold `health.<name>`.

    Attributes:
        column: of the report.
        subject: what is said before the value.
        warns_below: the threshold, rather than above it.
        since: the setting `health.<since>` with the share of a training before which it is not
            looked at; "" for none.
    """

    name: str
    column: str
    subject: str
    warns_below: bool = False
    since: str = ""


@dataclass(frozen=True)
class Watched:
    """One phase, as its columns are named.

    Attributes:
        name: of the phase; "" for the first one.
        prefix: of its terms (`loss`, `critic`).
        terms: those with a lower bound; the others have no meaningful ratio or share.
        gradient_norm: its column.
        balanced: terms whose weight is a balancer's, in a meaningful size, times this number; none
            where the weights are fixed.
    """

    name: str
    prefix: str
    terms: tuple[str, ...]
    gradient_norm: str
    balanced: Mapping[str, float] = field(default_factory=dict)

    def named(self, sign: str) -> str:
        """The sign's name, with the phase's in front where it is not the first."""
        return f"{self.name}.{sign}" if self.name else sign


@dataclass(frozen=True)
class Reading:
    """A sign's value at one report, None where there is nothing to measure.

    Attributes:
        sign: of `SIGNS`, or that of a `MeasuredSign`.
        name: the same with the phase's in front where it is not the first.
        subject: what is said before the value.
        least: a value below it is not beyond any threshold.
        warns_below: the threshold, rather than above it.
    """

    sign: str
    name: str
    value: float | None
    subject: str
    least: float = -math.inf
    warns_below: bool = False

    def is_beyond(self, threshold: float) -> bool:
        if self.value is None or self.value < self.least:
            return False
        return self.value < threshold if self.warns_below else self.value > threshold


def readings(
    report: Columns,
    phases: Sequence[Watched],
    measured: Sequence[MeasuredSign],
    declared: Mapping[str, float],
    early: Collection[str] = (),
) -> Iterator[Reading]:
    """All readings of a report: by phase in the order of `SIGNS`, then those that the system
    measures.

    Args:
        declared: the share that each term (`loss.hole`) would have had at first under the weights
            that the system declares (`DeclaredShares`); 0 for one that is absent.
        early: names of measured signs that are not looked at yet.
    """
    for phase in phases:
        yield _term_share(report, phase, declared)
        for sign, value, subject in _signs(report, phase):
            named = phase.named(sign)
            yield Reading(sign, named, value, subject, warns_below=sign in _BELOW)
    for own in measured:
        value = None if own.name in early else number(report, own.column)
        yield Reading(own.name, own.name, value, own.subject, warns_below=own.warns_below)


def overfit_ratio(report: Columns, prefix: str, terms: Sequence[str]) -> float | None:
    """Sum of w v over sum of w t: w the weights applied now, v and t each term's mean in
    validation and in training, over the terms that were measured in both. None where no such term
    was, or the training loss is not above 0.
    """
    training = validation = 0.0
    for term in terms:
        column = f"{prefix}.{term}"
        train, val = number(report, f"train.{column}"), number(report, f"val.{column}")
        weight = number(report, f"train.{column}.weight")
        if train is not None and val is not None and weight is not None:
            training += weight * train
            validation += weight * val
    return validation / training if training > 0.0 else None


def number(report: Columns, column: str) -> float | None:
    """The value of a column, None where it has none."""
    value = report.get(column)
    return None if value is None or isinstance(value, str) else float(value)


def _term_share(report: Columns, phase: Watched, declared: Mapping[str, float]) -> Reading:
    """The largest share. A term is told of where its share has risen by half of what it lacked to
    1: that a term is nearly all of the sum may be meant (`DeclaredShares`). It has taken over
    where it was not most of the sum before.
    """
    term, share = _largest_share(report, phase)
    column = f"{phase.prefix}.{term}"
    before = declared.get(column, 0.0)
    what = (
        "took over: with the weights that the system declares its"
        if before <= 0.5
        else "was most of the sum with the weights that the system declares, and is more of it "
        "now: its"
    )
    subject = f"{column} {what} share began at {before:.4g}, now it is"
    least = before + (1.0 - before) / 2.0
    return Reading("term_share", phase.named("term_share"), share, subject, least)


def _signs(report: Columns, phase: Watched) -> Iterator[tuple[str, float | None, str]]:
    """(sign, value, what is said before the value), but for `term_share`."""
    norm = number(report, phase.gradient_norm)
    yield "gradient_norm_high", norm, f"large {phase.gradient_norm} of"
    yield "gradient_norm_low", norm, f"vanishing {phase.gradient_norm} of"
    term, share = _smallest_weight(report, phase)
    subject = f"weight collapse of {phase.prefix}.{term}: its share of the mean weight is"
    yield "weight_collapse", share, subject
    ratio = overfit_ratio(report, phase.prefix, phase.terms)
    yield "overfit_ratio", ratio, f"overfitting, validation over training {phase.prefix} is"


def _largest_share(report: Columns, phase: Watched) -> tuple[str, float | None]:
    """The largest share of the terms that were trained on; None for one alone, which has all."""
    shares = {}
    for term in phase.terms:
        column = f"train.{phase.prefix}.{term}"
        share, weight = (number(report, f"{column}.{part}") for part in ("share", "weight"))
        if share is not None and weight and number(report, column) is not None:
            shares[term] = share
    if len(shares) < 2:
        return "", None
    largest = max(shares, key=lambda term: shares[term])
    return largest, shares[largest]


def _smallest_weight(report: Columns, phase: Watched) -> tuple[str, float | None]:
    """The smallest weight of the balanced terms, over their mean."""
    weights = {}
    for term, own in phase.balanced.items():
        weight = number(report, f"train.{phase.prefix}.{term}.weight")
        if weight is not None:
            weights[term] = weight / own
    mean = sum(weights.values()) / len(weights) if weights else 0.0
    if len(weights) < 2 or mean <= 0.0:
        return "", None
    smallest = min(weights, key=lambda term: weights[term])
    return smallest, weights[smallest] / mean
