"""Warning signs of a training, read off the columns of one report.

The signs are those that the documents list: a term that outweighs the others, a gradient norm
that explodes or vanishes, a balancer that gives up a term, a validation far worse than the
training. Nothing here stops anything; `train.patience` and `train.overfit_ratio` do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from settings.schema import Settings, setting

Columns = Mapping[str, float | str | None]
"""A report by column; None for what has no value."""

SIGNS = (
    "term_share",
    "gradient_norm_high",
    "gradient_norm_low",
    "weight_collapse",
    "overfit_ratio",
)


@dataclass(frozen=True, kw_only=True)
class HealthSettings(Settings):
    """When a training is warned of. Values of the documents, but for the last one: their only
    ratio is the one that stops a training (1000).
    """

    term_share: float = setting(
        0.9, "warn above: largest share of one of several terms", low=0.0, high=1.0
    )
    gradient_norm_high: float = setting(
        10.0, "warn above: largest gradient norm since the last report, before clipping", low=0.0
    )
    gradient_norm_low: float = setting(1e-5, "warn below: the same gradient norm", low=0.0)
    weight_share: float = setting(
        0.05,
        "warn below: smallest weight that a balancer made, of the mean of its weights",
        low=0.0,
        high=1.0,
    )
    overfit_ratio: float = setting(
        10.0, "warn above: validation loss over training loss", low=1.0, high=1e9
    )


@dataclass(frozen=True)
class Watched:
    """One phase, as its columns are named.

    Attributes:
        name: of the phase; "" for the first one.
        prefix: of its terms (`loss`, `critic`).
        terms: with a lower bound; the others have no ratio and no share to speak of.
        gradient_norm: its column.
        balanced: terms whose weight a balancer alone makes, and whose size says something; none
            where the weights are fixed.
    """

    name: str
    prefix: str
    terms: tuple[str, ...]
    gradient_norm: str
    balanced: tuple[str, ...] = ()

    def column(self, sign: str) -> str:
        return f"health.{self.name}.{sign}" if self.name else f"health.{sign}"


@dataclass(frozen=True)
class HealthFinding:
    """A sign beyond its threshold.

    Attributes:
        name: of the sign, with the phase's in front where it is not the first.
        value, threshold: what was found, and what `health.*` allows.
        step: of the report.
        text: the finding in words.
    """

    name: str
    value: float
    threshold: float
    step: int
    text: str


def findings(
    report: Columns, settings: HealthSettings, phases: Sequence[Watched]
) -> list[HealthFinding]:
    """What the report of one step warns of, in the order of the phases and of `SIGNS`."""
    step = int(_number(report, "step") or 0)
    found = []
    for phase in phases:
        for sign, value, subject in _signs(report, phase):
            key, threshold, is_broken = _limit(sign, value, settings)
            if value is not None and is_broken:
                name = phase.column(sign).removeprefix("health.")
                text = f"step {step}: {subject} {value:.4g} (health.{key}={threshold:g})"
                found.append(HealthFinding(name, value, threshold, step, text))
    return found


def health_columns(
    report: Columns, settings: HealthSettings, phases: Sequence[Watched], before: Columns
) -> tuple[dict[str, float | None], list[HealthFinding]]:
    """The columns `health.<sign>` (None where there is nothing to measure) and
    `health.<sign>.warned` (1 from the first report on that was beyond the threshold), and the
    findings that are new.

    Args:
        before: the trial's last report before this one, empty for the first. It holds all that
            must be known of the past, so a resumed training warns as an undisturbed one.
    """
    columns: dict[str, float | None] = {}
    for phase in phases:
        for sign, value, _ in _signs(report, phase):
            column = phase.column(sign)
            columns[column] = value
            columns[f"{column}.warned"] = _number(before, f"{column}.warned") or 0.0
    fresh = []
    for finding in findings(report, settings, phases):
        column = f"health.{finding.name}.warned"
        if columns[column] == 0.0:
            columns[column] = 1.0
            fresh.append(finding)
    return columns, fresh


def overfit_ratio(report: Columns, prefix: str, terms: Sequence[str]) -> float | None:
    """Sum of w v over sum of w t: w the weights applied now, v and t each term's mean in
    validation and in training, over the terms that were measured in both. None where no such term
    was, or the training loss is not above 0.
    """
    training = validation = 0.0
    for term in terms:
        column = f"{prefix}.{term}"
        own = _number(report, f"train.{column}")
        other, weight = _number(report, f"val.{column}"), _number(report, f"train.{column}.weight")
        if own is not None and other is not None and weight is not None:
            training += weight * own
            validation += weight * other
    return validation / training if training > 0.0 else None


def _limit(sign: str, value: float | None, settings: HealthSettings) -> tuple[str, float, bool]:
    """(settings key, threshold, whether the value is beyond it)."""
    key = "weight_share" if sign == "weight_collapse" else sign
    threshold = getattr(settings, key)
    if value is None:
        return key, threshold, False
    is_low = sign in ("gradient_norm_low", "weight_collapse")
    return key, threshold, value < threshold if is_low else value > threshold


def _signs(report: Columns, phase: Watched) -> Iterator[tuple[str, float | None, str]]:
    """(sign, value, what is said before the value) in the order of `SIGNS`."""
    term, share = _largest_share(report, phase)
    yield "term_share", share, f"{phase.prefix}.{term} outweighs the other terms, its share is"
    norm = _number(report, phase.gradient_norm)
    yield "gradient_norm_high", norm, f"large {phase.gradient_norm} of"
    yield "gradient_norm_low", norm, f"vanishing {phase.gradient_norm} of"
    term, share = _smallest_weight(report, phase)
    yield (
        "weight_collapse",
        share,
        f"weight collapse of {phase.prefix}.{term}: its share of the mean weight is",
    )
    ratio = overfit_ratio(report, phase.prefix, phase.terms)
    yield "overfit_ratio", ratio, f"overfitting, validation over training {phase.prefix} is"


def _largest_share(report: Columns, phase: Watched) -> tuple[str, float | None]:
    """Of the terms that were trained on, where there are several: one alone has all by nature."""
    shares = {}
    for term in phase.terms:
        column = f"train.{phase.prefix}.{term}"
        share, weight = (_number(report, f"{column}.{part}") for part in ("share", "weight"))
        if share is not None and weight and _number(report, column) is not None:
            shares[term] = share
    if len(shares) < 2:
        return "", None
    largest = max(shares, key=lambda term: shares[term])
    return largest, shares[largest]


def _smallest_weight(report: Columns, phase: Watched) -> tuple[str, float | None]:
    """Of the balanced terms, over their mean."""
    weights = {}
    for term in phase.balanced:
        weight = _number(report, f"train.{phase.prefix}.{term}.weight")
        if weight is not None:
            weights[term] = weight
    mean = sum(weights.values()) / len(weights) if weights else 0.0
    if len(weights) < 2 or mean <= 0.0:
        return "", None
    smallest = min(weights, key=lambda term: weights[term])
    return smallest, weights[smallest] / mean


def _number(report: Columns, column: str) -> float | None:
    value = report.get(column)
    return None if value is None or isinstance(value, str) else value
