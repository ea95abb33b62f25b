"""Constants for log ratios and worst ratios: the values of one trial of an earlier sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from settings.schema import SettingsError


def split_reference(text: str) -> tuple[Path, str]:
    """(directory, trial or point) of `DIR[:TRIAL|POINT]`; "" where no trial is named."""
    directory, colon, which = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return Path(text), ""
    return Path(directory), which


def reference_values(
    directory: str | Path, which: str, columns: Sequence[str]
) -> dict[str, float]:
    """The values of a trial at its last report, by column.

    Args:
        which: a trial's number, or the name of a documented point; "" for the sweep's documented
            point, the first one that was run.

    Raises:
        SweepError: not a sweep directory.
        SettingsError: no such trial, one that is not complete, or a column that is missing or not
            above 0; the message says what can be named instead.
    """
    from results.directory import read_sweep
    from results.frame import load_sweep
    from results.ranking import documented

    frame = load_sweep(directory)
    row = _named(frame, which) if which else documented(frame, read_sweep(directory))
    points = [name for name in frame["point"] if name]
    if row is None:
        raise SettingsError(
            f"--reference {directory}: there is no "
            f"{f'trial or documented point {which!r}' if which else 'documented point'} in it. "
            f"Name a trial by its number ({directory}:0)"
            + (f", or one of {', '.join(points)}." if points else ".")
        )
    name = f"trial {row['trial']} of {directory}"
    if row["state"] != "complete":
        raise SettingsError(
            f"--reference: {name} is {row['state']}, not complete; what it measured on the way "
            "compares with nothing. Name another."
        )
    return {column: _value(row, column, name) for column in columns}


def _named(frame: pd.DataFrame, which: str) -> pd.Series | None:
    is_it = frame["point"] == which
    if which.isdecimal():
        is_it |= frame["trial"] == int(which)
    rows = frame[is_it]
    return None if rows.empty else rows.iloc[0]


def _value(row: pd.Series, column: str, name: str) -> float:
    if f"last/{column}" not in row:
        columns = [key.removeprefix("last/") for key in row.index if key.startswith("last/val.")]
        raise SettingsError(
            f"--reference: {name} has no column {column}. It has: {', '.join(columns) or 'none'}."
        )
    value = float(row[f"last/{column}"])
    if not (math.isfinite(value) and value > 0.0):
        raise SettingsError(
            f"--reference: {name} has {column} {value:g}, and a ratio needs a number above 0. "
            f"Write a constant of your own ({column}=NUMBER), or leave the column out."
        )
    return value
