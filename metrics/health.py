"""Health checks of a training: thresholds of the signs, their warnings, and which signs end it.

The signs (`metrics.health_signs`) are those that the documents list: a term that takes over from
the others, a gradient norm that explodes or vanishes, a balancer that gives up a term, a
validation far worse than the training. A system adds those that its validation measures
(`HealthSettings.measured`). Each warns once; those that `health.stop` names end the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from metrics.health_signs import SIGNS, Columns, MeasuredSign, Reading, number
from settings.schema import Settings, SettingsError, setting
from settings.stop_reasons import HealthStop

_WARN_KEYS = {"weight_collapse": "weight_share"}
_STOP_KEYS = {**_WARN_KEYS, "gradient_norm_high": "gradient_norm_stop"}
"""The setting with a sign's threshold, where its name is not the sign's."""

STOP_HELP = "signs that end a training, which is no result then"


@dataclass(frozen=True, kw_only=True)
class HealthSettings(Settings):
    """When a training gets a warning, and when it ends.

    The thresholds are the documents', except for `overfit_ratio`: their only ratio is the one that
    stops a training (1000). They call a gradient norm large above 10, and unhealthy if it is
    "consistently" above 50; hence two thresholds, and `stop_after`.
    """

    measured: ClassVar[tuple[MeasuredSign, ...]] = ()

    term_share: float = setting(
        0.9,
        "warn above, if risen by half of what it lacked: largest share of one of several terms",
        low=0.0,
        high=1.0,
    )
    gradient_norm_high: float = setting(
        10.0, "warn above: largest gradient norm since the last report, before clipping", low=0.0
    )
    gradient_norm_stop: float = setting(
        50.0, "stop above, where stop names gradient_norm_high: the same gradient norm", low=0.0
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
    stop: tuple[str, ...] = setting((), STOP_HELP, choices=SIGNS)
    stop_after: int = setting(3, "validations in a row with one of these signs that end it", low=1)

    def check(self) -> None:
        is_named = "gradient_norm_high" in self.stop
        if is_named and self.gradient_norm_stop < self.gradient_norm_high:
            raise SettingsError(
                "health.gradient_norm_stop must be at least health.gradient_norm_high "
                f"({self.gradient_norm_high:g}), not {self.gradient_norm_stop:g}: a training is "
                "warned of before it is stopped. Lower the latter, or raise the former."
            )


@dataclass(frozen=True)
class HealthFinding:
    """A sign beyond its threshold.

    Attributes:
        name: of the sign, with the phase's in front where it is not the first.
        text: the finding in words.
    """

    name: str
    text: str


def findings(
    readings: Sequence[Reading], settings: HealthSettings, step: int
) -> list[HealthFinding]:
    """What one report warns of, in the order of its readings.

    Args:
        readings: `health_signs.readings` of the report.
        step: of the report.
    """
    warnings = []
    for reading in readings:
        key = _WARN_KEYS.get(reading.sign, reading.sign)
        threshold = getattr(settings, key)
        if reading.value is not None and reading.is_beyond(threshold):
            value = f"{reading.subject} {reading.value:.4g}"
            text = f"step {step}: {value} (health.{key}={threshold:g})"
            warnings.append(HealthFinding(reading.name, text))
    return warnings


def health_columns(
    readings: Sequence[Reading], settings: HealthSettings, step: int, before: Columns
) -> tuple[dict[str, float | None], list[HealthFinding]]:
    """The columns `health.<sign>` (None where there is nothing to measure) and
    `health.<sign>.warned` (1 from the first report on that was beyond the threshold), and the
    findings that are new.

    Args:
        readings: `health_signs.readings` of the report.
        step: of the report.
        before: the trial's last report before this one, empty for the first. It holds all that
            must be known of the past, so a resumed training warns as an undisturbed one.
    """
    columns: dict[str, float | None] = {}
    for reading in readings:
        column = _column(reading.name)
        columns[column] = reading.value
        columns[f"{column}.warned"] = number(before, f"{column}.warned") or 0.0
    fresh = []
    for finding in findings(readings, settings, step):
        warned = f"{_column(finding.name)}.warned"
        if columns[warned] == 0.0:
            columns[warned] = 1.0
            fresh.append(finding)
    return columns, fresh


def _column(name: str) -> str:
    return f"health.{name}"


def health_stop(
    readings: Sequence[Reading], settings: HealthSettings, step: int, streaks: Mapping[str, int]
) -> tuple[dict[str, int], HealthStop | None]:
    """How many reports up to this one each sign of `health.stop` has been beyond its threshold in
    a row, and the first one that has been so `health.stop_after` times. A report with nothing to
    measure ends a row.

    Args:
        readings: `health_signs.readings` of the report.
        step: of the report.
        streaks: what this returned for the report before; empty for the first.
    """
    counts: dict[str, int] = {}
    stop = None
    for reading in readings:
        if reading.sign not in settings.stop:
            continue
        threshold = getattr(settings, _STOP_KEYS.get(reading.sign, reading.sign))
        if reading.value is None or not reading.is_beyond(threshold):
            continue
        counts[reading.name] = streaks.get(reading.name, 0) + 1
        if stop is None and counts[reading.name] >= settings.stop_after:
            stop = HealthStop.shortened(reading.name, reading.value, threshold, step)
    return counts, stop
