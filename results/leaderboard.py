"""The ranking of a sweep's trials as a table, with the documented points and the references in it
whatever their rank.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from results.directory import Sweep
from results.ranking import documented, ranked, score
from results.references import Measured, column_of, read_references

if TYPE_CHECKING:
    from rich.table import Table

POINT_MARK, REFERENCE_MARK = "*", "="
MAX_KEYS = 6
REASON = "stopped because"

_FIXED_COLUMNS, _KEY_COLUMNS = 90, 20  # widths: of what is always shown, and of one more column


def leaderboard_rows(
    frame: pd.DataFrame, sweep: Sweep, top: int = 10, max_keys: int = MAX_KEYS
) -> tuple[list[str], list[list[str]]]:
    """Headers and cells: the first `top` trials, every documented point below them, and the
    references.

    Of the searched keys, the first `max_keys` whose values differ between trials are shown.
    """
    ranking = ranked(frame, sweep)
    ranking = ranking.assign(_place=range(1, len(ranking) + 1))
    shown = ranking[(ranking["_place"] <= top) | (ranking["point"] != "")]
    keys = _varied_keys(frame, sweep)[:max_keys]
    measures = _measures(frame, sweep)
    headers = ["rank", "trial", "point", "state", *measures, "vs document", "steps", "seconds"]
    headers += [*keys, REASON]
    document = documented(frame, sweep)
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
    for name, measured in read_references(sweep).items():
        values = [_reference_value(sweep, measured, column) for column in measures.values()]
        vs = "" if document is None else _signed(values[0] - score(document))
        cells = ["", "", f"{REFERENCE_MARK} {name}", "reference", *map(number, values), vs]
        rows.append([*cells, *[""] * (len(headers) - len(cells))])
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
        style = {POINT_MARK: "cyan", REFERENCE_MARK: "dim"}.get(row[2][:1])
        table.add_row(*(_escaped(cells) for cells in row), style=style)
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


def _reference_value(sweep: Sweep, measured: Measured, column: str) -> float:
    """A column of the measures, of a reference; NaN for what only trials have."""
    name = sweep.objective.metric if column == "value" else column.removeprefix("last/")
    return column_of(sweep, measured, name)


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
    """The legend of the marks in the column of points; None where no row has one."""
    meanings = {POINT_MARK: "documented point", REFERENCE_MARK: "reference, which is not trained"}
    marks = {row[2][:1] for row in rows}
    shown = [f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in marks]
    return ", ".join(shown) or None


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
    return _signed(score(row) - score(document))


def _signed(difference: float) -> str:
    return f"{difference:+.3g}" if math.isfinite(difference) else "-"


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
