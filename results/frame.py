"""A sweep as two tidy frames: one row a trial, one row a report. Readable at any time, also while
it runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from results import parquet
from results.directory import read_history, read_sweep
from results.parquet import Sources
from results.reports import read_raw
from results.trials import trial_frame

PathLike = str | os.PathLike[str]

TRIALS_FILE = "analysis/trials.parquet"
REPORTS_FILE = "analysis/reports.parquet"


def load_sweep(path: PathLike, *, all_settings: bool = False) -> pd.DataFrame:
    """One row a trial, by number; `frame[frame.is_best]` is the winner.

    Columns:
        trial, state, stop_reason, point, seed: state is complete, stopped, failed, interrupted or
            running; point names the documented configuration, "" for a sampled one.
        value: the objective at the trial's *last* report, never the best it ever was.
        config/<key>: what was searched and what a point sets; every setting with `all_settings`.
        last/<metric>, best/<metric>: at the last report; at its best by the metric's own direction
            (NaN for a diagnostic). best_step: when the objective was at its best.
        steps, seconds, gpu_seconds: gpu_seconds is seconds times the GPUs of the trial.
        is_best, is_pareto: among the complete trials; equal values go to the lower number.
        checkpoint: the newest one's directory, "" for none.

    Raises:
        SweepError: not a sweep directory, or one of a newer format.
    """
    sweep = read_sweep(path)
    sources = Sources.of(sweep.path)
    history = read_history(sweep)
    held = history.held if history.has_open else None
    frame = None if all_settings else parquet.read_fresh(sweep.path / TRIALS_FILE, sources, held)
    if frame is None:
        frame = trial_frame(sweep, history, _reports(sweep.path, sources), all_settings)
    return _with_absolute_checkpoints(frame, sweep.path)


def load_reports(path: PathLike) -> pd.DataFrame:
    """One row a report: trial, step, segment, seconds, and every metric (float64, NaN where not
    finite).

    Raises:
        SweepError: not a sweep directory, or one of a newer format.
    """
    sweep = read_sweep(path)
    return _reports(sweep.path, Sources.of(sweep.path))


def compact(path: PathLike) -> tuple[Path, Path]:
    """Writes both frames as Parquet into the sweep's `analysis/`; the loaders use them while
    nothing is newer.

    Returns the two files, trials first. Other tools can read them; `checkpoint` is then relative
    to the directory.
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
    found = pd.Series(names, index=frame.index, dtype=frame["checkpoint"].dtype)
    return frame.assign(checkpoint=found).copy()  # one block: else a user's new column warns
