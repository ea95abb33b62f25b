"""Hypervolume of a sweep with several objectives over its course, at a fixed reference point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.directory import History, Sweep
from results.verdict_columns import violations
from search.log import COMPLETE, INTERRUPTED, PAUSED, RUNNING, TrialRecord
from search.pareto import hypervolume, non_dominated

FIRST_TRIALS = 10
"""Number of complete trials, in the order of their ends, whose worst values are the reference
point if no documented point has values.
"""


def reference_point(sweep: Sweep, history: History, frame: pd.DataFrame) -> dict[str, float]:
    """The worst values that count for the hypervolume, by objective; empty where it is not known
    yet.

    They are the worst finite values of the complete documented points, or else of the first
    `FIRST_TRIALS` complete trials. Later trials never move the point: while the sweep runs, it is
    unknown until the trials that define it have ended.
    """
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
    """The complete trials that repeat no other, in the order of their ends."""
    complete = [
        trial.number
        for trial in history.trials
        if trial.status == COMPLETE and trial.repeat_of is None
    ]
    return sorted(complete, key=lambda number: (history.ended_at.get(number, 0.0), number))


def hypervolume_history(
    sweep: Sweep, history: History, frame: pd.DataFrame, reference: Mapping[str, float]
) -> pd.DataFrame:
    """The hypervolume after each complete trial, in the order of their ends: trial, ended_at (in
    seconds since the epoch), hypervolume.

    Only feasible trials count, each with its own values: the means of repeats come at the end of a
    sweep and would change earlier hypervolumes.

    Args:
        reference: see `reference_point`; empty makes an empty frame.
    """
    signs = np.array([1.0 if o.mode == "min" else -1.0 for o in sweep.objectives])
    costs = _last_values(sweep, frame).to_numpy() * signs
    corner = np.array([reference.get(o.metric, math.nan) for o in sweep.objectives]) * signs
    bounded = {c.metric: frame[f"last/{c.metric}"].to_numpy(float) for c in sweep.constraints}
    feasible = violations(sweep.goal, bounded, len(frame)) == 0.0
    counts = feasible & (costs < corner).all(axis=1)
    places = {number: place for place, number in enumerate(frame["trial"].tolist())}
    front = np.empty((0, len(signs)))
    volume, rows = 0.0, []
    for number in _in_order(history) if reference else ():
        place = places.get(number)
        if place is None:
            continue
        cost = costs[place]
        if counts[place] and not (front <= cost).all(axis=1).any():
            front = np.vstack([front, cost])
            front = front[non_dominated(front, ["min"] * len(signs))]
            volume = hypervolume(front, corner)
        rows.append((number, history.ended_at.get(number, math.nan), volume))
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
    """The hypervolume at the sweep's own reference point; None for a sweep of one objective."""
    if len(sweep.objectives) == 1:
        return None
    reference = reference_point(sweep, history, frame)
    return Hypervolumes(reference, hypervolume_history(sweep, history, frame, reference))


def reference_text(reference: Mapping[str, float]) -> str:
    """The reference point as text, such as `val.a 0.5, val.b 12`."""
    return ", ".join(f"{metric} {value:.5g}" for metric, value in reference.items())
