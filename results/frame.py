"""A sweep as two tidy frames, with one row a trial and one row a report. They can be loaded at any
time, also while the sweep runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from results import parquet
from results.directory import read_history, read_sweep, with_reference_point
from results.front import hypervolume_column
from results.parquet import Sources
from results.reports import read_raw
from results.trials import folded, trial_frame

PathLike = str | os.PathLike[str]

TRIALS_FILE = "analysis/trials.parquet"
REPORTS_FILE = "analysis/reports.parquet"


def load_sweep(
    path: PathLike,
    *,
    all_settings: bool = False,
    repeats: bool = False,
    reference_point: Mapping[str, float] | str | None = None,
) -> pd.DataFrame:
    """One row a configuration, by number; `frame[frame.is_best]` is the winner.

    Columns:
        trial, state, stop_reason, point, seed: state is complete, running, paused (it waits at a
            rung), interrupted, stopped or failed; point names the documented configuration, ""
            for a sampled one.
        value: the first objective at the trial's *last* report, never the best it ever was.
        config/<key>: what was searched and what a point sets; every setting with `all_settings`.
        last/<metric>, best/<metric>: at the last report; at its best by the metric's own direction
            (NaN for a diagnostic). best_step: the step at which the objective was best.
        steps, seconds, gpu_seconds: gpu_seconds is seconds times the GPUs of the trial; the time
            of a configuration's repeats is part of its own.
        repeats/n, repeats/mean, repeats/se, repeats/rank: in a sweep with repeats: number of
            complete repeats (the first training, by which the configuration was chosen, is none),
            mean and standard error of the first objective over them, and the rank by the mean.
            Means that differ by less than 2 standard errors of the difference share a rank. With
            several objectives also repeats/mean/<metric>.
        vs_reference/<name>: by how much `value` is better than that of each reference, in its
            unit; positive is better. There once the references are measured.
        violation, feasible: the sum of the amounts by which constraints are missed; whether it is
            0 and no health check has stopped the trial.
        is_best: among complete and feasible ones, by the first objective; equal values go to the
            better one by the next objective, then to the lower number. Where there are repeats, by
            their means, and nothing else can be best.
        is_pareto, is_knee: of several objectives, the complete and feasible ones that no other
            dominates, and the one of them that gives up least; with one objective is_pareto is
            is_best. Repeated configurations count with their means.
        hypervolume: of several objectives; of the front as it was when the trial ended, in the
            order of the log, up to the reference point (`results.front.reference_point`). NaN for
            a trial that has not ended, and for all before the reference point is known. The
            front is of complete and feasible trials with their own values, without repeats.
        checkpoint: the newest one's directory, "" for none.

    Args:
        repeats: whether each repeat has a row of its own, with `repeat_of`, the trial that it
            repeats.
        reference_point: of the hypervolume, in place of the sweep's own, so that sweeps compare: a
            number for each objective by its column, or `COLUMN=NUMBER,COLUMN=NUMBER`.

    Raises:
        SweepError: not a sweep directory, or one of a newer format.
        SettingsError: a reference point that does not fit the objectives.
    """
    sweep = read_sweep(path)
    if reference_point is not None:
        sweep = with_reference_point(sweep, reference_point)
    sources = Sources.of(sweep.path)
    history = read_history(sweep)
    # On the lock depend the states of open trials, and whether a reference point is known.
    held = history.held if history.open or len(sweep.objectives) > 1 else None
    frame = None if all_settings else parquet.read_fresh(sweep.path / TRIALS_FILE, sources, held)
    if frame is None:
        frame = trial_frame(sweep, history, _reports(sweep.path, sources), all_settings)
    elif reference_point is not None:  # the file has the sweep's own
        frame["hypervolume"] = hypervolume_column(sweep, history, frame)
    return _with_absolute_checkpoints(frame if repeats else folded(frame), sweep.path)


def load_reports(path: PathLike) -> pd.DataFrame:
    """One row a report: trial, step, segment, seconds, and every metric (float64, NaN where not
    finite).

    Raises:
        SweepError: not a sweep directory, or one of a newer format.
    """
    sweep = read_sweep(path)
    return _reports(sweep.path, Sources.of(sweep.path))


def compact(path: PathLike) -> tuple[Path, Path]:
    """Writes both frames as Parquet into the sweep's `analysis/`, repeats in rows of their own;
    the loaders use the files while no raw file is newer.

    Returns the two files, trials first. Other tools can read them; `checkpoint` is relative to the
    sweep's directory there.
    """
    sweep = read_sweep(path)
    # The sources first: a report that comes from here on makes the files old, not wrong.
    sources = Sources.of(sweep.path)
    history = read_history(sweep)
    reports = _reports(sweep.path, sources)
    files = sweep.path / TRIALS_FILE, sweep.path / REPORTS_FILE
    parquet.write(trial_frame(sweep, history, reports), files[0], sources, history.held)
    parquet.write(reports, files[1], sources, history.held)
    return files


def _reports(directory: Path, sources: Sources) -> pd.DataFrame:
    frame = parquet.read_fresh(directory / REPORTS_FILE, sources, held=None)
    return read_raw(directory) if frame is None else frame


def _with_absolute_checkpoints(frame: pd.DataFrame, directory: Path) -> pd.DataFrame:
    root = directory.resolve()
    names = [str(root / name) if name else "" for name in frame["checkpoint"]]
    absolute = pd.Series(names, index=frame.index, dtype=frame["checkpoint"].dtype)
    return frame.assign(checkpoint=absolute).copy()  # one block: else a user's new column warns
