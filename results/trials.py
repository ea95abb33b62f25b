"""The frame with one row a trial: log and `sweep.json`, joined with a summary of the reports."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.directory import History, Sweep
from results.front import hypervolume_column
from results.health import health_columns
from results.references import reference_columns
from results.reports import KEYS
from results.verdict_columns import verdict_columns
from search.log import PAUSED, TrialRecord
from settings.paths import SweepPaths

_CHECKPOINT = re.compile(r"step-(\d{8,})")


def trial_frame(
    sweep: Sweep, history: History, reports: pd.DataFrame, all_settings: bool = False
) -> pd.DataFrame:
    """The frame of `load_sweep` with every repeat in a row of its own. A trial without reports has
    a row, too.
    """
    trials = history.trials
    summary = _summary(sweep, reports).reindex([trial.number for trial in trials])
    steps = summary["steps"].to_numpy()
    silent = np.isnan(steps)
    measured = {
        column: _measured(column, column == sweep.objective.metric, summary, trials, silent)
        for column in sweep.goal.columns
    }
    seconds = _seconds(history, reports)
    columns: dict[str, Any] = {
        "trial": pd.array([trial.number for trial in trials], dtype="int64"),
        "state": _texts([trial.status for trial in trials]),
        "stop_reason": _texts([_reason(trial) for trial in trials]),
        "point": _texts([trial.point or "" for trial in trials]),
        "seed": pd.array([trial.seed for trial in trials], dtype="int64"),
        "repeat_of": pd.array([trial.repeat_of for trial in trials], dtype="Int64"),
        "value": measured[sweep.objective.metric],
    }
    columns.update(config_columns(sweep, trials, all_settings))
    for name in summary.columns:
        if name.startswith(("last/", "best/")):
            columns[name] = summary[name].to_numpy()
    columns |= {f"last/{name}": values for name, values in measured.items()}
    columns["best_step"] = summary["best_step"].to_numpy()
    columns["steps"] = np.where(silent, [trial.step for trial in trials], steps).astype("int64")
    columns["seconds"] = seconds
    columns["gpu_seconds"] = seconds * sweep.gpus
    columns.update(health_columns(list(columns["stop_reason"])))
    columns.update(verdict_columns(sweep, trials, measured))
    columns.update(reference_columns(sweep, measured[sweep.objective.metric]))
    if len(sweep.objectives) > 1:
        judged = ["trial", *(f"last/{name}" for name in measured)]
        columns["hypervolume"] = hypervolume_column(
            sweep, history, pd.DataFrame({name: columns[name] for name in judged})
        )
    columns["checkpoint"] = _texts(
        [_newest_checkpoint(sweep.path, trial.number) for trial in trials]
    )
    return pd.DataFrame(columns)


def folded(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with one row a configuration: without repeats, whose time is added to that of the
    configuration.
    """
    is_repeat = frame["repeat_of"].notna()
    rows = frame[~is_repeat].drop(columns="repeat_of").reset_index(drop=True)
    if is_repeat.any():
        for name in ("seconds", "gpu_seconds"):
            spent = frame[is_repeat].groupby("repeat_of")[name].sum()
            rows[name] += rows["trial"].map(spent).fillna(0.0).astype(float)
    return rows


def _measured(
    column: str,
    is_value: bool,
    summary: pd.DataFrame,
    trials: Sequence[TrialRecord],
    silent: np.ndarray,
) -> np.ndarray:
    """[n] a column at the last report, or from the log where the reports are missing."""
    values = summary[f"last/{column}"].to_numpy(copy=True)
    logged = [trial.values.get(column, trial.value if is_value else np.nan) for trial in trials]
    values[silent] = np.array(logged)[silent]
    return values


def _reason(trial: TrialRecord) -> str:
    return f"waits at step {trial.step}" if trial.status == PAUSED else trial.reason


def _texts(values: Sequence[str]) -> pd.Series:
    return pd.Series(list(values), dtype="str" if not values else None)


def _summary(sweep: Sweep, reports: pd.DataFrame) -> pd.DataFrame:
    """last/<metric>, best/<metric>, best_step and steps of each trial, from reports that ascend in
    trial and step.
    """
    declared = list(dict.fromkeys([*sweep.metrics, *sweep.goal.columns]))
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


def _seconds(history: History, reports: pd.DataFrame) -> np.ndarray:
    """[n] the time for which ended segments held their workers, up to their ends as the driver saw
    them; a segment that ended before its first report counts 0. For a trial with an open segment
    at least its training time at the last report (`seconds` counts over all segments).
    """
    seconds = np.array([trial.seconds for trial in history.trials], dtype=float)
    if len(reports) == 0 or not history.open:
        return seconds
    trained = reports.groupby("trial")["seconds"].last()
    for index, trial in enumerate(history.trials):
        if trial.number in history.open and trial.number in trained.index:
            seconds[index] = max(seconds[index], float(trained[trial.number]))
    return seconds


def config_columns(
    sweep: Sweep, trials: Sequence[TrialRecord], all_settings: bool
) -> dict[str, pd.Series]:
    """`config/<key>` for every searched key and every key that a documented point sets, or for all
    keys.

    A searched key that was not drawn because its condition did not hold is missing: the base value
    that it then has means nothing. A documented point has its own value of it, or else the base
    value.
    """
    keys = dict.fromkeys(sweep.domains)
    keys.update(dict.fromkeys(key for point in sweep.points for key in point.sampled))
    if all_settings:
        keys.update(dict.fromkeys(sweep.settings))
    set_by_point = {point.name: point.sampled for point in sweep.points}
    columns = {}
    for key in keys:
        base = sweep.settings.get(key)
        values = []
        for trial in trials:
            default = base if trial.point or key not in sweep.domains else None
            values.append(
                trial.sampled.get(key, set_by_point.get(trial.point or "", {}).get(key, default))
            )
        columns[f"config/{key}"] = _typed_column(values)
    return columns


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


def _newest_checkpoint(directory: Path, trial: int) -> str:
    """A trial's newest checkpoint, relative to the sweep's directory; "" where there is none."""
    folder = SweepPaths(Path()).trial(trial).checkpoints
    try:
        names = os.listdir(directory / folder)
    except OSError:
        return ""
    steps = [int(match[1]) for match in map(_CHECKPOINT.fullmatch, names) if match]
    return f"{folder}/step-{max(steps):08d}" if steps else ""
