"""One row a trial: what the log and `sweep.json` say, joined with a summary of the trial's
reports.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.directory import History, Sweep, Trial
from results.reports import KEYS

_CHECKPOINT = re.compile(r"step-(\d{8,})")


def trial_frame(
    sweep: Sweep, history: History, reports: pd.DataFrame, all_settings: bool = False
) -> pd.DataFrame:
    """The frame of `load_sweep`; columns as there. A trial without reports has its row."""
    trials = history.trials
    summary = _summary(sweep, reports).reindex([trial.trial for trial in trials])
    objective = f"last/{sweep.objective.metric}"
    values = summary[objective].to_numpy(copy=True)
    steps = summary["steps"].to_numpy()
    silent = np.isnan(steps)
    values[silent] = np.array([trial.value for trial in trials])[silent]
    seconds = _seconds(trials, reports)
    columns: dict[str, Any] = {
        "trial": pd.array([trial.trial for trial in trials], dtype="int64"),
        "state": _texts([trial.state for trial in trials]),
        "stop_reason": _texts([trial.stop_reason for trial in trials]),
        "point": _texts([trial.point for trial in trials]),
        "seed": pd.array([trial.seed for trial in trials], dtype="int64"),
        "value": values,
    }
    columns.update(config_columns(sweep, trials, all_settings))
    for name in summary.columns:
        if name.startswith(("last/", "best/")):
            columns[name] = summary[name].to_numpy()
    columns["best_step"] = summary["best_step"].to_numpy()
    columns["steps"] = np.where(silent, [trial.step for trial in trials], steps).astype("int64")
    columns["seconds"] = seconds
    columns["gpu_seconds"] = seconds * sweep.gpus
    frame = pd.DataFrame(columns)
    complete = frame["state"].eq("complete").to_numpy(dtype=bool)
    columns["is_best"] = _is_best(values, complete, sweep.objective.mode)
    columns["is_pareto"] = _is_pareto(sweep, summary, complete, columns["is_best"])
    columns["checkpoint"] = _texts(
        [_newest_checkpoint(sweep.path, trial.trial) for trial in trials]
    )
    return pd.DataFrame(columns)


def _texts(values: Sequence[str]) -> pd.Series:
    return pd.Series(list(values), dtype="str" if not values else None)


def _summary(sweep: Sweep, reports: pd.DataFrame) -> pd.DataFrame:
    """Per trial: last/<metric>, best/<metric>, best_step and steps. The rows ascend in trial and
    step.
    """
    declared = list(dict.fromkeys([*sweep.metrics, *(item.metric for item in sweep.objectives)]))
    reported = [name for name in reports.columns if name not in KEYS]
    metrics = list(dict.fromkeys([*declared, *reported]))
    numbers = reports["trial"].to_numpy()
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)) if len(numbers) else np.array([], int)
    ends = np.append(starts, len(numbers))[1:]
    columns: dict[str, Any] = {}
    missing = np.full(len(starts), np.nan)
    for name in metrics:
        columns[f"last/{name}"] = (
            reports[name].to_numpy()[ends - 1] if name in reported else missing
        )
    for name in declared:
        column = reports[name].to_numpy() if name in reported else None
        columns[f"best/{name}"] = (
            missing if column is None else _best(column, starts, sweep.mode(name))
        )
    columns["best_step"] = _best_step(sweep, reports, starts, ends, columns)
    columns["steps"] = reports["step"].to_numpy()[ends - 1].astype(float)
    return pd.DataFrame(columns, index=numbers[starts])


def _best(values: np.ndarray, starts: np.ndarray, mode: str | None) -> np.ndarray:
    if mode not in ("min", "max") or not len(starts):
        return np.full(len(starts), np.nan)
    return (np.fmin if mode == "min" else np.fmax).reduceat(values, starts)


def _best_step(
    sweep: Sweep,
    reports: pd.DataFrame,
    starts: np.ndarray,
    ends: np.ndarray,
    columns: Mapping[str, Any],
) -> np.ndarray:
    """The first step at which the objective was at its best; NaN where it never was finite."""
    name = sweep.objective.metric
    if name not in reports or not len(starts):
        return np.full(len(starts), np.nan)
    best = np.repeat(columns[f"best/{name}"], ends - starts)
    steps = np.where(reports[name].to_numpy() == best, reports["step"].to_numpy(), np.nan)
    return np.fmin.reduceat(steps, starts)


def _seconds(trials: Sequence[Trial], reports: pd.DataFrame) -> np.ndarray:
    """What the ended segments held their workers for; of a trial that has an open segment, at
    least its training time at the last report (`seconds` counts over all segments).
    """
    seconds = np.array([trial.seconds for trial in trials], dtype=float)
    if len(reports) == 0 or all(trial.open_segment is None for trial in trials):
        return seconds
    trained = reports.groupby("trial")["seconds"].last()
    for index, trial in enumerate(trials):
        if trial.open_segment is not None and trial.trial in trained.index:
            seconds[index] = max(seconds[index], float(trained[trial.trial]))
    return seconds


def config_columns(
    sweep: Sweep, trials: Sequence[Trial], all_settings: bool
) -> dict[str, pd.Series]:
    """`config/<key>` for every searched key and every key that a documented point sets, or for all
    keys.

    A searched key that was not drawn, because the condition on it did not hold, is missing: the
    base value it then has means nothing. In a documented point it is what the point, or else the
    base, says.
    """
    keys = dict.fromkeys(sweep.domains)
    keys.update(dict.fromkeys(key for point in sweep.points for key in point.settings))
    if all_settings:
        keys.update(dict.fromkeys(sweep.settings))
    set_by_point = {point.name: point.settings for point in sweep.points}
    columns = {}
    for key in keys:
        base = sweep.settings.get(key)
        values = []
        for trial in trials:
            default = base if trial.point or key not in sweep.domains else None
            values.append(
                trial.sampled.get(key, set_by_point.get(trial.point, {}).get(key, default))
            )
        columns[f"config/{key}"] = _typed_column([_hashable(value) for value in values])
    return columns


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


def _typed_column(values: list[Any]) -> pd.Series:
    """The narrowest dtype that holds the values; tuples and mixed kinds stay objects."""
    kinds = {type(value) for value in values if value is not None}
    has_missing = any(value is None for value in values)
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if has_missing else "bool")
    if kinds == {int}:
        return pd.Series(values, dtype="Int64" if has_missing else "int64")
    if kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    if kinds == {str}:
        return pd.Series(values)
    return pd.Series(values, dtype=object)


def _is_best(values: np.ndarray, complete: np.ndarray, mode: str) -> np.ndarray:
    """One True at most: the best value of a complete trial, the lower number among equals."""
    best = np.zeros(len(values), dtype=bool)
    score = np.where(complete & np.isfinite(values), values if mode == "min" else -values, np.inf)
    if len(score) and math.isfinite(score.min()):
        best[int(score.argmin())] = True
    return best


def _is_pareto(
    sweep: Sweep, summary: pd.DataFrame, complete: np.ndarray, is_best: np.ndarray
) -> np.ndarray:
    """Complete trials that no other complete one dominates; the best trial alone where there is
    one objective.
    """
    if len(sweep.objectives) == 1:
        return is_best.copy()
    from search.pareto import non_dominated

    values = np.column_stack(
        [summary[f"last/{item.metric}"].to_numpy() for item in sweep.objectives]
    )
    candidates = complete & np.isfinite(values).all(axis=1)
    front = np.zeros(len(values), dtype=bool)
    modes = [item.mode for item in sweep.objectives]
    front[candidates] = np.asarray(non_dominated(values[candidates], modes), dtype=bool)
    return front


def _newest_checkpoint(directory: Path, trial: int) -> str:
    """Relative to the sweep's directory; "" where there is none."""
    folder = f"trials/{trial:04d}/checkpoints"
    try:
        names = os.listdir(directory / folder)
    except OSError:
        return ""
    steps = [int(match[1]) for match in map(_CHECKPOINT.fullmatch, names) if match]
    return f"{folder}/step-{max(steps):08d}" if steps else ""
