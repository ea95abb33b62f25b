"""The ranking of a sweep's trials, with the documented points in it whatever their rank."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from results.directory import Sweep

if TYPE_CHECKING:
    from rich.table import Table

DOCUMENT = "document"
"""The point that holds the document's own final recommendation."""

POINT_MARK = "*"
_STATE_ORDER = {"complete": 0, "running": 1, "interrupted": 2, "stopped": 3, "failed": 4}
MAX_KEYS = 6
REASON = "stopped because"

_FIXED_COLUMNS, _KEY_COLUMNS = 90, 20  # widths: of what is always shown, and of one key


def ranked(frame: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The trials, best first: complete ones by value, then the others by state.

    A trial that ended early is never ranked among the complete ones: it was judged at another
    step.
    """
    sign = 1.0 if sweep.objective.mode == "min" else -1.0
    order = frame.assign(
        _state=frame["state"].map(_STATE_ORDER).fillna(len(_STATE_ORDER)),
        _score=frame["value"].astype(float) * sign,
    ).sort_values(["_state", "_score", "trial"], na_position="last")
    return frame.loc[order.index]


def leader(frame: pd.DataFrame, sweep: Sweep) -> pd.Series | None:
    """The best trial; where none is complete yet, the one that is ahead. None without a value."""
    with_value = frame[frame["value"].notna()]
    return None if with_value.empty else ranked(with_value, sweep).iloc[0]


def reference(frame: pd.DataFrame, sweep: Sweep) -> pd.Series | None:
    """The trial of the document's point, or else of the first documented point that was run."""
    for name in [DOCUMENT, *(point.name for point in sweep.points)]:
        rows = frame[frame["point"] == name]
        if not rows.empty:
            return rows.iloc[0]
    return None


def headline(frame: pd.DataFrame, sweep: Sweep) -> str:
    """One sentence: which trial is best, and by how much it beats the document's point."""
    metric = sweep.objective.metric
    best = leader(frame, sweep)
    if best is None:
        return f"No trial has reported {metric} yet."
    verb = "is best" if best["state"] == "complete" else f"is ahead ({best['state']})"
    text = f"Trial {best['trial']} {verb}: {metric} {number(best['value'])}"
    document = reference(frame, sweep)
    if document is None:
        return text + "; no documented point was run."
    if document["trial"] == best["trial"]:
        return text + f"; it is the documented point {document['point']}."
    if not math.isfinite(document["value"]):
        return (
            text
            + f"; the documented point {document['point']} has no value ({document['state']})."
        )
    gain = (document["value"] - best["value"]) * (1 if sweep.objective.mode == "min" else -1)
    share = f" ({abs(gain / document['value']):.1%})" if document["value"] else ""
    side = "better" if gain >= 0 else "worse"
    caution = (
        "" if document["state"] == "complete" == best["state"] else ", of trials not both complete"
    )
    than = f"{side} than the documented point {document['point']}"
    return f"{text}; {than} by {number(abs(gain))}{share}{caution}."


def leaderboard_rows(
    frame: pd.DataFrame, sweep: Sweep, top: int = 10, max_keys: int = MAX_KEYS
) -> tuple[list[str], list[list[str]]]:
    """Headers and cells: the first `top` trials, and every documented point below them.

    Of the searched keys, the first `max_keys` whose values differ between trials are shown.
    """
    ranking = ranked(frame, sweep)
    ranks = range(1, len(ranking) + 1)
    ranking = ranking.assign(rank=list(ranks))
    shown = ranking[(ranking["rank"] <= top) | (ranking["point"] != "")]
    keys = _varied_keys(frame, sweep)[:max_keys]
    headers = [
        "rank",
        "trial",
        "point",
        "state",
        sweep.objective.metric,
        "vs document",
        "steps",
        "seconds",
    ]
    headers += [*keys, REASON]
    document = reference(frame, sweep)
    rows = []
    for _, row in shown.iterrows():
        cells = [
            str(row["rank"]) if row["state"] == "complete" else "-",
            str(row["trial"]),
            f"{POINT_MARK} {row['point']}" if row["point"] else "",
            str(row["state"]),
            number(row["value"]),
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

    room = (shutil.get_terminal_size().columns - _FIXED_COLUMNS) // _KEY_COLUMNS
    headers, rows = leaderboard_rows(frame, sweep, top, max(0, min(MAX_KEYS, room)))
    title = f"{sweep.system}: {sweep.objective.metric} ({sweep.objective.mode})"
    table = Table(title=title, caption=legend_of(rows), title_justify="left")
    for header in headers:
        table.add_column(
            header, justify="left" if header in ("point", "state", REASON) else "right"
        )
    for row in rows:
        table.add_row(*(_escaped(cells) for cells in row), style="cyan" if row[2] else None)
    return table


def legend_of(rows: Sequence[Sequence[str]]) -> str | None:
    """What the mark in the column of points means; None where no row has it."""
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


def number(value: Any) -> str:
    """Five significant digits; "-" for no value."""
    return f"{value:.5g}" if math.isfinite(value) else "-"


def cell(value: Any) -> str:
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
    difference = row["value"] - document["value"]
    return f"{difference:+.3g}" if math.isfinite(difference) else "-"


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
