"""A sweep as one static HTML page that needs no network: plotly's script is inside it."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pandas as pd

from results import figures, figures_front
from results.directory import History, Sweep
from results.front import Hypervolumes, hypervolumes, reference_text
from results.headline import headline
from results.importance import Importance, importance
from results.leaderboard import POINT_MARK, cell, goal_text, leaderboard_rows, number
from results.ranking import documented, leader
from results.references import column_of, read_references
from settings.atomic_file import atomic_file
from settings.paths import SweepPaths
from settings.words import counted

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PAGE_FILE = "analysis/index.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; color: #222;
       margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
tr.mark td { background: #eaf3fb; }
.wide { overflow-x: auto; }
.note { color: #666; }
"""


def write_page(
    sweep: Sweep, history: History, frame: pd.DataFrame, reports: pd.DataFrame, top: int = 20
) -> Path:
    """Writes the page into the sweep's `analysis/` and returns its path.

    `frame` with all settings shows every difference between the winner and the document's point.
    """
    path = sweep.path / PAGE_FILE
    with atomic_file(path) as scratch:
        scratch.write_text(render(sweep, history, frame, reports, top), encoding="utf-8")
    return path


def render(
    sweep: Sweep, history: History, frame: pd.DataFrame, reports: pd.DataFrame, top: int = 20
) -> str:
    """The page's HTML. It works for a sweep that runs or crashed, and for one trial or none."""
    shown = len(frame) if len(frame) <= figures.MAX_CURVES else figures.MAX_CURVES
    curves = (
        f"{shown} of {counted(len(frame), 'trial')}, the best ones and every documented point "
        "(dashed)."
    )
    terms = "The winner is solid, the documented point dashed."
    plots, volumes = _Plots(), hypervolumes(sweep, history, frame)
    body = [
        _summary(sweep, history, frame, volumes),
        _section("Leaderboard", _leaderboard(sweep, frame, top)),
        _section(
            "Learning curves",
            plots.add(figures.learning_curves(sweep, frame, reports), "no reports yet"),
            curves,
        ),
        *_front_sections(sweep, frame, volumes, plots),
        _section(
            "Parallel coordinates",
            plots.add(
                figures.parallel_coordinates(sweep, frame), "it takes two trials with a value"
            ),
            "One line a trial; drag along an axis to select. At “-” the key was not active.",
        ),
        _section(
            "Loss terms, unweighted",
            plots.add(figures.term_curves(sweep, frame, reports, ""), "no terms yet"),
            terms,
        ),
        _section(
            "Loss terms, share of the weighted sum",
            plots.add(figures.term_curves(sweep, frame, reports, ".share"), "no terms yet"),
            terms,
        ),
        _section("The winner against the documented point", _comparison(sweep, frame)),
        _section(
            "The winner against what is not trained",
            _against_references(sweep, frame),
            "Measured on the same validation samples, the best by the first objective first.",
        ),
        *_figure_sections(sweep, frame),
        *_importance_sections(sweep, history, frame, plots),
    ]
    title = html.escape(f"{sweep.system} sweep, {sweep.path.resolve().name}")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    content = f"<h1>{title}</h1>{''.join(body)}"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{content}</body></html>\n'


class _Plots:
    """Turns figures into HTML; the first one brings plotly's script, the others use it."""

    def __init__(self) -> None:
        self._has_script = False

    def add(self, figure: Figure | None, otherwise: str) -> str:
        if figure is None:
            return f'<p class="note">Nothing to draw: {html.escape(otherwise)}.</p>'
        text = figure.to_html(
            full_html=False, include_plotlyjs=not self._has_script, config={"displaylogo": False}
        )
        self._has_script = True
        return text


def _front_sections(
    sweep: Sweep, frame: pd.DataFrame, volumes: Hypervolumes | None, plots: _Plots
) -> list[str]:
    """The sections on the front and its hypervolume; none for a sweep of one objective."""
    if volumes is None:
        return []
    corner = volumes.reference
    note = f"Up to the fixed reference point {reference_text(corner)}." if corner else ""
    scatter = plots.add(figures_front.pareto_scatter(sweep, frame), "no complete trial")
    curve = plots.add(figures_front.hypervolume_curve(volumes.course), "no reference point yet")
    return [
        _section(
            "Pareto front", scatter, "Feasible trials that no other dominates, and the knee."
        ),
        _section("Hypervolume", curve, note),
    ]


def _importance_sections(
    sweep: Sweep, history: History, frame: pd.DataFrame, plots: _Plots
) -> list[str]:
    """A section for each objective: a key may decide one of them and not the other."""
    sections = []
    for position, objective in enumerate(sweep.objectives):
        try:
            weighed = importance(sweep, history, frame, objective.metric if position else None)
        except ValueError as error:  # a space that this version cannot read hides no results
            weighed = Importance(objective.metric, 0, note=str(error))
        several = len(sweep.objectives) > 1
        title = f"Importance for {objective.metric}" if several else "Importance"
        bars = plots.add(figures.importance_bars(weighed), "not computed")
        sections.append(_section(title, bars, weighed.note))
    return sections


def _figure_sections(sweep: Sweep, frame: pd.DataFrame) -> list[str]:
    """Links to the figures that the winner and the documented point drew, of the same samples;
    none where they drew none.
    """
    links: dict[str, list[str]] = {}
    rows = (leader(frame, sweep), documented(frame, sweep))
    for trial in dict.fromkeys(int(row["trial"]) for row in rows if row is not None):
        folder = SweepPaths(Path()).trial(trial).figures
        for path in sorted((sweep.path / folder).glob("*/*.png")):
            place = quote(f"../{folder.as_posix()}/{path.parent.name}/{path.name}")
            step = f'<a href="{place}">step {int(path.stem)}</a>'
            links.setdefault(f"trial {trial}, {path.parent.name}", []).append(step)
    if not links:
        return []
    items = (f"<li>{html.escape(name)}: {', '.join(steps)}</li>" for name, steps in links.items())
    return [_section("Figures", f"<ul>{''.join(items)}</ul>", "Files beside this page.")]


def _section(title: str, content: str, note: str = "") -> str:
    remark = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{remark}{content}</section>\n"


def _summary(
    sweep: Sweep, history: History, frame: pd.DataFrame, volumes: Hypervolumes | None
) -> str:
    counts = frame["state"].value_counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trial yet"
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(sweep.created))
    planned = f"{sweep.trials} planned"
    if sweep.budget is not None:
        planned = f"a budget of {sweep.budget:g} full trainings"
    hours = frame["seconds"].sum() / 3600, frame["gpu_seconds"].sum() / 3600
    lines = [
        headline(frame, sweep, volumes),
        f"Sweep {history.state}; {states}; {planned}. "
        f"Space {sweep.space or '-'}. Created {started}.",
        f"Objective: {goal_text(sweep)}. Trial time {hours[0]:.2f} h, GPU time {hours[1]:.2f} h.",
    ]
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _leaderboard(sweep: Sweep, frame: pd.DataFrame, top: int) -> str:
    headers, rows = leaderboard_rows(frame, sweep, top)
    return _table(headers, rows, marked=[row[2].startswith(POINT_MARK) for row in rows])


def _comparison(sweep: Sweep, frame: pd.DataFrame) -> str:
    best, document = leader(frame, sweep), documented(frame, sweep)
    if best is None or document is None:
        return '<p class="note">It takes a value and a documented point that was run.</p>'
    if best["trial"] == document["trial"]:
        name = html.escape(str(document["point"]))
        return f"<p>The documented point {name} is the best trial itself.</p>"
    names = [f"trial {best['trial']}", f"{document['point']} (trial {document['trial']})"]
    keys = [name.removeprefix("config/") for name in frame.columns if name.startswith("config/")]
    settings = []
    for key in keys:
        texts = [cell(best[f"config/{key}"]), cell(document[f"config/{key}"])]
        if texts[0] != texts[1]:
            settings.append([key, *texts])
    metrics = [_metric_row(sweep, metric, best, document) for metric in _metrics(sweep)]
    return (
        "<h3>Settings that differ</h3>"
        + _table(["key", *names], settings)
        + "<h3>Metrics at the last report</h3>"
        + _table(["metric", "unit", "better", *names, "difference", "winner is"], metrics)
    )


def _against_references(sweep: Sweep, frame: pd.DataFrame) -> str:
    """The metrics of the winner beside those of every reference."""
    best, references = leader(frame, sweep), read_references(sweep)
    if best is None or not references:
        return '<p class="note">It takes a value, and references that were measured.</p>'
    rows = []
    for metric in _metrics(sweep):
        unit = str((sweep.metrics.get(metric) or {}).get("unit") or "")
        values = [column_of(sweep, measured, metric) for measured in references.values()]
        cells = map(number, (float(best[f"last/{metric}"]), *values))
        rows.append([metric, unit, sweep.mode(metric) or "", *cells])
    about = "".join(
        f"<li>{html.escape(name)}: {html.escape(str(measured['about']))}</li>"
        for name, measured in references.items()
    )
    headers = ["metric", "unit", "better", f"trial {best['trial']}", *references]
    return _table(headers, rows) + f"<ul>{about}</ul>"


def _metrics(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys([*(item.metric for item in sweep.objectives), *sweep.metrics]))


def _metric_row(sweep: Sweep, metric: str, best: pd.Series, document: pd.Series) -> list[str]:
    pair = float(best[f"last/{metric}"]), float(document[f"last/{metric}"])
    mode = sweep.mode(metric)
    difference = pair[0] - pair[1]
    verdict = ""
    if mode and math.isfinite(difference) and difference != 0:
        verdict = "better" if (difference < 0) == (mode == "min") else "worse"
    unit = str((sweep.metrics.get(metric) or {}).get("unit") or "")
    sign = f"{difference:+.4g}" if math.isfinite(difference) else "-"
    return [metric, unit, mode or "", number(pair[0]), number(pair[1]), sign, verdict]


def _table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()
) -> str:
    head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
    lines = []
    for index, row in enumerate(rows):
        mark = ' class="mark"' if index < len(marked) and marked[index] else ""
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in row)
        lines.append(f"<tr{mark}>{cells}</tr>")
    inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table>{inner}</table></div>'
