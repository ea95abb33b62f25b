"""The ranking of a sweep's trials, with the documented points in it whatever their rank."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from results.directory import Sweep
from search_spaces.space import DOCUMENT

if TYPE_CHECKING:
    from rich.table import Table

POINT_MARK = "*"
_STATES = ("complete", "running", "paused", "interrupted", "stopped", "failed")
_STATE_ORDER = {state: place for place, state in enumerate(_STATES)}
MAX_KEYS = 6
REASON = "stopped because"

_FIXED_COLUMNS, _KEY_COLUMNS = 90, 20  # widths: of what is always shown, and of one more column


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


def reference(frame: pd.DataFrame, sweep: Sweep) -> pd.Series | None:
    """The trial of the document's point, or else of the first documented point that was run."""
    for name in [DOCUMENT, *(point.name for point in sweep.points)]:
        rows = frame[frame["point"] == name]
        if not rows.empty:
            return rows.iloc[0]
    return None


def leaderboard_rows(
    frame: pd.DataFrame, sweep: Sweep, top: int = 10, max_keys: int = MAX_KEYS
) -> tuple[list[str], list[list[str]]]:
    """Headers and cells: the first `top` trials, and every documented point below them.

    Of the searched keys, the first `max_keys` whose values differ between trials are shown.
    """
    ranking = ranked(frame, sweep)
    ranking = ranking.assign(_place=range(1, len(ranking) + 1))
    shown = ranking[(ranking["_place"] <= top) | (ranking["point"] != "")]
    keys = _varied_keys(frame, sweep)[:max_keys]
    measures = _measures(frame, sweep)
    headers = ["rank", "trial", "point", "state", *measures, "vs document", "steps", "seconds"]
    headers += [*keys, REASON]
    document = reference(frame, sweep)
    rows = []
    for _, row in shown.iterrows():
        cells = [
            _rank(row, sweep),
            str(row["trial"]),
            f"{POINT_MARK} {row['point']}" if row["point"] else "",
            str(row["state"]),
            *(number(row[column]) for column in measures.values()),
            _difference(row, document),
            str(row["steps"]),
            f"{row['seconds']:.1f}",
        ]
        cells += [cell(row[f"config/{key}"]) for key in keys]
        rows.append([*cells, _short(str(row["stop_reason"]), 40)])
    if not any(row[-1] for row in rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return headers, rows


def leaderboard(frame: pd.DataFrame, sweep: Sweep, top: int = 10) -> Table:
    """The ranking as a table of rich, for the terminal's width; documented points are coloured."""
    from rich.table import Table

    more = len(_measures(frame, sweep)) - 1
    room = (shutil.get_terminal_size().columns - _FIXED_COLUMNS) // _KEY_COLUMNS - more
    headers, rows = leaderboard_rows(frame, sweep, top, max(0, min(MAX_KEYS, room)))
    title = f"{sweep.system}: {goal_text(sweep)}"
    table = Table(title=title, caption=legend_of(rows), title_justify="left")
    for header in headers:
        table.add_column(
            header, justify="left" if header in ("point", "state", REASON) else "right"
        )
    for row in rows:
        table.add_row(*(_escaped(cells) for cells in row), style="cyan" if row[2] else None)
    return table


def goal_text(sweep: Sweep) -> str:
    """Objectives with their directions, and constraints."""
    parts = [f"{o.metric} ({o.mode})" for o in sweep.objectives]
    bounds = f" subject to {', '.join(map(str, sweep.constraints))}" if sweep.constraints else ""
    return ", ".join(parts) + bounds


def _measures(frame: pd.DataFrame, sweep: Sweep) -> dict[str, str]:
    """The columns by which trials are judged, by their headers."""
    first, *others = sweep.objectives
    measures = {first.metric: "value"} | {o.metric: f"last/{o.metric}" for o in others}
    if "repeats/mean" in frame and frame["repeats/mean"].notna().any():
        measures |= {"mean": "repeats/mean", "± error": "repeats/se", "draws": "repeats/n"}
    return measures | ({"violation": "violation"} if sweep.constraints else {})


def _rank(row: pd.Series, sweep: Sweep) -> str:
    """The rank as text: by repeats, with ties, or else the place; with several objectives "front"
    or "knee". "-" for none.
    """
    if row["state"] != "complete" or not row["feasible"]:
        return "-"
    if len(sweep.objectives) > 1:
        return "knee" if row["is_knee"] else "front" if row["is_pareto"] else "-"
    tied = row.get("repeats/rank")
    return str(row["_place"]) if tied is None or tied is pd.NA else str(tied)


def legend_of(rows: Sequence[Sequence[str]]) -> str | None:
    """The legend of the mark in the column of points; None where no row has it."""
    return f"{POINT_MARK} documented point" if any(row[2] for row in rows) else None


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text without colours or borders, one line a row, for a job's log."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [headers, *rows]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _varied_keys(frame: pd.DataFrame, sweep: Sweep) -> list[str]:
    keys = [key for key in sweep.domains if f"config/{key}" in frame]
    return [key for key in keys if frame[f"config/{key}"].map(cell).nunique() > 1]


def number(value: float) -> str:
    """Five significant digits; "-" for no value."""
    return f"{value:.5g}" if math.isfinite(value) else "-"


def cell(value: object) -> str:
    """A setting as text: "-" where it is missing."""
    if isinstance(value, tuple):
        return ", ".join(cell(item) for item in value)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _difference(row: pd.Series, document: pd.Series | None) -> str:
    if (
        document is None
        or document["trial"] == row["trial"]
        or not math.isfinite(document["value"])
    ):
        return ""
    difference = score(row) - score(document)
    return f"{difference:+.3g}" if math.isfinite(difference) else "-"


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
