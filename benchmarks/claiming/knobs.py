"""Which knobs of a comparison did not move: where nothing acted, nothing has been compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import pandas as pd

from benchmarks.claiming.arms import Arm, Arms
from losses.composite import Composite

NEAR = 0.1
"""A balancer's weights have not moved while they are this near to their start (share of it)."""

_AT_THE_CAP, _DEAD = "val.*saturation*", "val.*dead_codes*"


def idle_knobs(
    arms: Arms, reports: Sequence[pd.DataFrame], trials: Sequence[pd.DataFrame]
) -> list[str]:
    """A line for each arm and knob.

    Args:
        reports, trials: `load_reports` and `load_sweep` of the same sweeps.
    """
    by_arm: dict[str, list[pd.DataFrame]] = {name: [] for name in arms.arms}
    for of_sweep, frame in zip(reports, trials, strict=True):
        numbers = frame.loc[frame["state"] == "complete"].set_index("trial")["point"]
        for number, point in numbers.items():
            if point in by_arm:
                by_arm[point].append(of_sweep[of_sweep["trial"] == number])
    found = []
    for name, trainings in by_arm.items():
        if trainings:
            told = pd.concat(trainings)
            lines = (*_weights(arms, arms.arms[name], told), *_caps(told), *_codes(told))
            found += [f"{name}: {line}" for line in lines]
    return found


def _weights(arms: Arms, arm: Arm, reports: pd.DataFrame) -> Iterator[str]:
    configured = arms.of(arm)
    for phase in configured.phases:
        balancer = phase.composite.balancer
        if balancer.needs == "nothing":
            continue
        ratios = list(_ratios(phase.composite, reports, configured.steps))
        if ratios and min(ratios) >= 1.0 - NEAR and max(ratios) <= 1.0 + NEAR:
            yield (
                f"the weights of balancer {balancer.kind} stayed within {min(ratios):.3g} to "
                f"{max(ratios):.3g} of their start"
            )


def _ratios(composite: Composite, reports: pd.DataFrame, steps: int) -> Iterator[float]:
    """Weights of the active terms over those of a balancer that has seen nothing."""
    for row in reports.to_dict("records"):
        start: Mapping[str, float] = composite.weights(max(int(row["step"]) - 1, 0), steps)
        for term, weight in start.items():
            reported = row.get(f"train.{composite.prefix}.{term}.weight")
            if weight and pd.notna(reported):
                yield float(reported) / weight


def _caps(reports: pd.DataFrame) -> Iterator[str]:
    for column in _matching(reports, _AT_THE_CAP):
        if reports[column].max() == 0.0:
            yield f"no value reached the cap ({column} is 0 throughout)"


def _codes(reports: pd.DataFrame) -> Iterator[str]:
    for column in _matching(reports, _DEAD):
        dead = reports.groupby("step")[column].mean().iloc[-1]
        if dead > 0.0:
            yield f"{dead:.4g} codes are never used at the end ({column}, mean of the trainings)"


def _matching(reports: pd.DataFrame, pattern: str) -> list[str]:
    """The columns that have values."""
    known = reports.columns[reports.notna().any()]
    return [str(column) for column in known if fnmatchcase(str(column), pattern)]
