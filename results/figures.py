"""The figures of a sweep's page, made with plotly. Each returns None where there is nothing to
draw.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from results.directory import Sweep
from results.importance import Importance
from results.leaderboard import cell, number
from results.ranking import documented, leader, ranked, scores

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_CURVES = 100
"""Learning curves of the best trials on one figure; documented points are added to them."""

MAX_LINES = 2000
"""Trials in the parallel coordinates, the best ones."""

WINNER, DOCUMENT, OTHER = "#d62728", "#1f77b4", "rgba(120,120,120,0.35)"


def learning_curves(sweep: Sweep, frame: pd.DataFrame, reports: pd.DataFrame) -> Figure | None:
    """The objective over steps: the winner and the documented points in colour, the other trials
    in grey.
    """
    metric = sweep.objective.metric
    if metric not in reports or frame.empty:
        return None
    from plotly import graph_objects as go

    ranking = ranked(frame, sweep)
    best = leader(frame, sweep)
    shown = pd.concat([ranking.head(MAX_CURVES), ranking[ranking["point"] != ""]]).drop_duplicates(
        "trial"
    )
    by_trial = dict(iter(reports[reports["trial"].isin(shown["trial"])].groupby("trial")))
    figure = go.Figure()
    for _, row in shown.iloc[::-1].iterrows():  # the best last, so that they lie on top
        curve = by_trial.get(row["trial"])
        if curve is None:
            continue
        is_winner = best is not None and row["trial"] == best["trial"]
        name = f"trial {row['trial']}" + (f" ({row['point']})" if row["point"] else "")
        figure.add_scatter(
            x=curve["step"].tolist(),
            y=_gaps(curve[metric]),
            name=name,
            mode=_mode(curve[metric]),
            line={
                "color": WINNER if is_winner else DOCUMENT if row["point"] else OTHER,
                "width": 2.5 if is_winner or row["point"] else 1,
                "dash": "dash" if row["point"] else "solid",
            },
            showlegend=bool(is_winner or row["point"]),
        )
    if not figure.data:
        return None
    return finished(figure, "step", metric)


def parallel_coordinates(sweep: Sweep, frame: pd.DataFrame) -> Figure | None:
    """One line a trial through its searched values, coloured by the objective."""
    rows = ranked(frame[frame["value"].notna()], sweep).head(MAX_LINES)
    keys = [key for key in sweep.domains if f"config/{key}" in rows]
    if len(rows) < 2 or not keys:
        return None
    from plotly import graph_objects as go

    dimensions = [_dimension(key, sweep.domains[key], rows[f"config/{key}"]) for key in keys]
    values = scores(rows)
    dimensions.append({"label": sweep.objective.metric, "values": values.tolist()})
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={
                "color": values.tolist(),
                "colorscale": "Viridis",
                "reversescale": sweep.objective.mode == "min",
                "showscale": True,
            },
            labelangle=-20,
        )
    )
    figure.update_layout(
        template="plotly_white", height=480, margin={"t": 110, "l": 90, "r": 60, "b": 30}
    )
    return figure


def _dimension(key: str, domain: dict[str, Any] | Any, column: pd.Series) -> dict[str, Any]:
    """An axis of the parallel coordinates. Options are ticks, a logarithmic range is drawn as its
    exponent, and trials in which the key was not active lie below the others, at "-".
    """
    missing = column.map(lambda value: cell(value) == "-").to_numpy(dtype=bool)
    is_number = all(
        isinstance(value, (int, float)) and not isinstance(value, bool)
        for value in column[~missing]
    )
    if not is_number or domain.get("kind") == "choice":
        words = sorted({cell(value) for value in column[~missing]})
        texts = (["-"] if missing.any() else []) + words
        values = [texts.index(cell(value)) for value in column]
        return {
            "label": key,
            "values": values,
            "tickvals": list(range(len(texts))),
            "ticktext": texts,
        }
    numbers = column.astype("float64").to_numpy(na_value=np.nan) if len(column) else np.array([])
    is_log = (domain.get("kind") == "log_uniform" or bool(domain.get("log"))) and np.nanmin(
        numbers, initial=1
    ) > 0
    places = np.log10(numbers) if is_log else numbers
    drawn = places[~missing]
    if not len(drawn):
        return {"label": key, "values": [0] * len(column), "tickvals": [0], "ticktext": ["-"]}
    low, high = float(drawn.min()), float(drawn.max())
    bottom = low - 0.15 * ((high - low) or 1.0)
    ticks = np.linspace(low, high, 5) if high > low else np.array([low])
    texts = [f"{10**tick:.3g}" if is_log else f"{tick:.4g}" for tick in ticks]
    tickvals = ticks.tolist()
    if missing.any():
        tickvals, texts = [bottom, *tickvals], ["-", *texts]
    values = np.where(missing, bottom, places).tolist()
    return {"label": key, "values": values, "tickvals": tickvals, "ticktext": texts}


def term_curves(
    sweep: Sweep, frame: pd.DataFrame, reports: pd.DataFrame, part: str
) -> Figure | None:
    """The terms of the winner (solid) and of the document's point (dashed) over steps.

    `part` is "" for the unweighted term or ".share" for its part of the weighted sum.
    """
    columns = {term: f"train.loss.{term}{part}" for term in sweep.terms}
    columns = {
        term: name
        for term, name in columns.items()
        if name in reports and reports[name].notna().any()
    }
    runs = _compared(sweep, frame)
    if not columns or not runs:
        return None
    from plotly import colors
    from plotly import graph_objects as go

    palette = colors.qualitative.D3
    figure = go.Figure()
    for label, trial, dash in runs:
        curve = reports[reports["trial"] == trial]
        for index, (term, name) in enumerate(columns.items()):
            figure.add_scatter(
                x=curve["step"].tolist(),
                y=_gaps(curve[name]),
                name=f"{term}, {label}",
                legendgroup=term,
                mode=_mode(curve[name]),
                line={"color": palette[index % len(palette)], "dash": dash},
            )
    figure = finished(figure, "step", "share of the weighted sum" if part else "unweighted term")
    if not part and all((reports[name].dropna() > 0).all() for name in columns.values()):
        figure.update_yaxes(type="log")
    return figure


def _compared(sweep: Sweep, frame: pd.DataFrame) -> list[tuple[str, int, str]]:
    """(label, trial, dash) of the winner and of the document's point, once if they are one."""
    best, document = leader(frame, sweep), documented(frame, sweep)
    runs = [] if best is None else [(f"trial {best['trial']}", int(best["trial"]), "solid")]
    if document is not None and (best is None or document["trial"] != best["trial"]):
        runs.append(
            (f"{document['point']} (trial {document['trial']})", int(document["trial"]), "dash")
        )
    return runs


def importance_bars(result: Importance) -> Figure | None:
    """A bar for the share of each key, the largest on top."""
    if not result.shares:
        return None
    from plotly import graph_objects as go

    keys, shares = list(result.shares)[::-1], list(result.shares.values())[::-1]
    bar = go.Bar(x=shares, y=keys, orientation="h", text=[number(share) for share in shares])
    figure = go.Figure(bar)
    figure.update_layout(height=120 + 26 * len(keys))
    return finished(figure, f"share of importance for {result.metric}", "")


def _gaps(values: pd.Series) -> list[float | None]:
    """The values, None for one that is not finite, so that the line breaks there."""
    return [float(value) if math.isfinite(value) else None for value in values]


def _mode(values: pd.Series) -> str:
    """Lines, with markers where a value stands between gaps: an examination need not run at every
    report.
    """
    there = np.isfinite(values.to_numpy(dtype=float))
    beside = np.zeros(len(there) + 2, bool)
    beside[1:-1] = there
    alone = there & ~beside[:-2] & ~beside[2:]
    return "lines+markers" if alone.any() else "lines"


def finished(figure: Figure, x: str, y: str) -> Figure:
    """The figure with named axes, in the common style."""
    figure.update_layout(
        template="plotly_white",
        xaxis_title=x,
        yaxis_title=y,
        margin={"t": 30, "l": 70, "r": 30, "b": 50},
    )
    return figure
