"""The order of a sweep's trials: the best first, each state by itself."""

from __future__ import annotations

import math

import pandas as pd

from results.directory import Sweep
from search_spaces.space import DOCUMENT

_STATES = ("complete", "running", "paused", "interrupted", "stopped", "failed")
_STATE_ORDER = {state: place for place, state in enumerate(_STATES)}


def ranked(frame: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The trials, best first: complete ones, then the others by state.

    Within a state feasible trials come first, led by the best one, then those of the front (with
    several objectives) or those that were repeated, then the others, each by the first objective.
    A trial that ended early is never ranked among complete ones: it was judged at another step.
    """
    sign = 1.0 if sweep.objective.mode == "min" else -1.0
    repeated = frame["repeats/n"] > 0 if "repeats/n" in frame else pd.Series(False, frame.index)
    order = frame.assign(
        _state=frame["state"].map(_STATE_ORDER).fillna(len(_STATE_ORDER)),
        _broken=~frame["feasible"],
        _violation=frame["violation"],
        _best=~frame["is_best"],
        _behind=~frame["is_pareto"] if len(sweep.objectives) > 1 else ~repeated,
        _score=scores(frame) * sign,
    ).sort_values(
        ["_state", "_broken", "_violation", "_best", "_behind", "_score", "trial"],
        na_position="last",
    )
    return frame.loc[order.index]


def scores(frame: pd.DataFrame) -> pd.Series:
    """The first objective: the mean over repeats where there are some, the one value elsewhere."""
    values = frame["value"].astype(float)
    return frame["repeats/mean"].fillna(values) if "repeats/mean" in frame else values


def judged(frame: pd.DataFrame, sweep: Sweep, metric: str) -> pd.Series:
    """An objective of each trial: the mean over repeats where there are some, else the value."""
    if metric == sweep.objective.metric:
        return scores(frame)
    values, mean = frame[f"last/{metric}"].astype(float), f"repeats/mean/{metric}"
    return frame[mean].fillna(values) if mean in frame else values


def score(row: pd.Series) -> float:
    """The first objective of one trial: the mean over repeats where there are some, else the
    value.
    """
    mean = float(row.get("repeats/mean", math.nan))
    return mean if math.isfinite(mean) else float(row["value"])


def leader(frame: pd.DataFrame, sweep: Sweep) -> pd.Series | None:
    """The best trial, or the one ahead where none is complete yet; None without any value."""
    with_value = frame[frame["value"].notna()]
    return None if with_value.empty else ranked(with_value, sweep).iloc[0]


def documented(frame: pd.DataFrame, sweep: Sweep) -> pd.Series | None:
    """The trial of the document's point, or else of the first documented point that was run."""
    for name in [DOCUMENT, *(point.name for point in sweep.points)]:
        rows = frame[frame["point"] == name]
        if not rows.empty:
            return rows.iloc[0]
    return None
