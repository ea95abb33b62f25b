"""Hypervolume of a sweep with several objectives over its course, at a fixed reference point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.directory import History, Sweep
from results.hypervolume import running_hypervolumes
from results.verdict_columns import violations
from search.log import COMPLETE, FAILED, INTERRUPTED, PAUSED, RUNNING, STOPPED, TrialRecord

FIRST_TRIALS = 10
"""Number of complete trials, in the order of their ends in the log, whose worst values are the
reference point if no documented point has values.
"""


def reference_point(sweep: Sweep, history: History, frame: pd.DataFrame) -> dict[str, float]:
    """The worst values that count for the hypervolume, by objective; empty where it is not known
    yet.

    They are those that somebody has named, so that sweeps compare. Otherwise they are the worst
    finite values of the complete documented points, or else of the first `FIRST_TRIALS` complete
    trials. Later trials never move the point: while the sweep runs, it is unknown until the trials
    that define it have ended.
    """
    if sweep.reference_point:
        return dict(sweep.reference_point)
    originals = [trial for trial in history.trials if trial.repeat_of is None]
    documented = [trial for trial in originals if trial.point is not None]
    unsettled = (RUNNING, PAUSED, INTERRUPTED)
    if history.state == "running" and any(t.status in unsettled for t in documented):
        return {}
    values = _last_values(sweep, frame)
    worst = _worst(sweep, values, [t for t in documented if t.status == COMPLETE])
    if worst:
        return worst
    first = [number for number in _in_order(history) if number in values.index][:FIRST_TRIALS]
    if history.state == "running" and len(first) < FIRST_TRIALS:
        return {}
    return _worst(sweep, values, [trial for trial in originals if trial.number in first])


def _last_values(sweep: Sweep, frame: pd.DataFrame) -> pd.DataFrame:
    """The objectives of each trial at its last report."""
    columns = {o.metric: frame[f"last/{o.metric}"].to_numpy(float) for o in sweep.objectives}
    return pd.DataFrame(columns, index=frame["trial"].to_numpy())


def _worst(sweep: Sweep, values: pd.DataFrame, trials: Sequence[TrialRecord]) -> dict[str, float]:
    """The worst value of each objective; empty where one of them has no finite value."""
    rows = values.loc[[trial.number for trial in trials]]
    worst = {
        o.metric: float(rows[o.metric].max() if o.mode == "min" else rows[o.metric].min())
        for o in sweep.objectives
    }
    return worst if all(map(math.isfinite, worst.values())) else {}


def _in_order(history: History) -> list[int]:
    """The complete trials that repeat no other, in the order of their ends in the log."""
    complete = {
        trial.number
        for trial in history.trials
        if trial.status == COMPLETE and trial.repeat_of is None
    }
    return [number for number in history.ended_at if number in complete]


def hypervolume_column(
    sweep: Sweep, history: History, frame: pd.DataFrame
) -> NDArray[np.float64]:
    """[n] for each row of the frame, the hypervolume of the front as it was when the trial had
    ended, in the order of the log; NaN for a trial that has not ended for good, and for all
    while the reference point is not known.
    """
    volumes = _after_each_end(sweep, history, frame, reference_point(sweep, history, frame))
    ended = {t.number for t in history.trials if t.status in (COMPLETE, STOPPED, FAILED)}
    trials = frame["trial"].tolist()
    return np.array([volumes.get(n, math.nan) if n in ended else math.nan for n in trials])


def _after_each_end(
    sweep: Sweep, history: History, frame: pd.DataFrame, reference: Mapping[str, float]
) -> dict[int, float]:
    """The hypervolume after the end of each trial, in the order of the log; nothing without a
    reference point.

    Only complete and feasible trials count, each with its own values: the means of repeats come at
    the end of a sweep and would change earlier hypervolumes.
    """
    if not reference:
        return {}
    signs = np.array([1.0 if o.mode == "min" else -1.0 for o in sweep.objectives])
    corner = np.array([reference[o.metric] for o in sweep.objectives]) * signs
    bounded = {c.metric: frame[f"last/{c.metric}"].to_numpy(float) for c in sweep.constraints}
    feasible = violations(sweep.goal, bounded, len(frame)) == 0.0
    costs = np.where(feasible[:, None], _last_values(sweep, frame).to_numpy() * signs, math.nan)
    rows = {number: row for row, number in enumerate(frame["trial"].tolist())}
    results = set(_in_order(history)) & rows.keys()
    ends = list(history.ended_at)
    course = np.full((len(ends), len(signs)), math.nan)
    for place, number in enumerate(ends):
        if number in results:
            course[place] = costs[rows[number]]
    return dict(zip(ends, running_hypervolumes(course, corner).tolist(), strict=True))


def hypervolume_history(
    sweep: Sweep, history: History, frame: pd.DataFrame, reference: Mapping[str, float]
) -> pd.DataFrame:
    """The hypervolume after each complete trial, in the order of their ends in the log: trial,
    ended_at (in seconds since the epoch), hypervolume.

    Args:
        reference: see `reference_point`; empty makes an empty frame.
    """
    volumes = _after_each_end(sweep, history, frame, reference)
    known = set(frame["trial"].tolist())
    rows = [
        (number, history.ended_at[number], volumes[number])
        for number in (_in_order(history) if volumes else ())
        if number in known
    ]
    columns = {"trial": "int64", "ended_at": "float64", "hypervolume": "float64"}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


@dataclass(frozen=True)
class Hypervolumes:
    """The hypervolume over the course of a sweep.

    Attributes:
        reference: see `reference_point`.
        course: see `hypervolume_history`.
    """

    reference: Mapping[str, float]
    course: pd.DataFrame


def hypervolumes(sweep: Sweep, history: History, frame: pd.DataFrame) -> Hypervolumes | None:
    """The hypervolume at the sweep's reference point; None for a sweep of one objective."""
    if len(sweep.objectives) == 1:
        return None
    reference = reference_point(sweep, history, frame)
    return Hypervolumes(reference, hypervolume_history(sweep, history, frame, reference))


def reference_text(reference: Mapping[str, float]) -> str:
    """The reference point as text, such as `val.a 0.5, val.b 12`."""
    return ", ".join(f"{metric} {value:.5g}" for metric, value in reference.items())
