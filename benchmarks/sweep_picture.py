"""The learning curves of a sweep as an SVG file, for pages that run no scripts.

    python -m benchmarks.sweep_picture sweeps/NAME docs/images/sweep.svg

The left panel has all trials, the right one the range of values that the sampler's trials cover.
Documented points are blue and dashed, the best trial is red, all others are grey. A trial that the
scheduler stopped ends in an open circle, at the rung where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from results.directory import Sweep, read_history, read_sweep
from results.frame import load_reports, load_sweep
from results.leaderboard import number
from results.ranking import leader, ranked

WIDTH, HEIGHT = 880, 400
TOP, BOTTOM = 52, 350
"""Of both panels. All lengths are in pixels."""

SPANS = ((40, 292), (474, 726))
"""Left and right edge of each panel; the names of the curves stand to the right of it."""

LABEL_HEIGHT = 16
TICK_GAP = 24
WINNER, DOCUMENT, OTHER = "#d62728", "#1f77b4", "#8a8a8a"
TICKS = (
    (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0),
    (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    (1.0, 2.0, 5.0),
    (1.0,),
)
"""Of each decade: the first of these that leaves TICK_GAP between neighbours is drawn."""


class Curve(NamedTuple):
    """One trial: its name ("" for none), its colour, its (step, value), and how it ended."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    is_stopped: bool

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points]


class Panel:
    """Curves over steps from 0 to `last`, on a logarithmic axis from `low` to `high`."""

    def __init__(self, span: tuple[int, int], curves: Sequence[Curve], last: float) -> None:
        self.left, self.right = span
        self.curves, self.last = curves, last
        values = [value for curve in curves for value in curve.values]
        margin = (max(values) / min(values)) ** 0.04
        self.low, self.high = min(values) / margin, max(values) * margin

    def x(self, step: float) -> float:
        return self.left + step / self.last * (self.right - self.left)

    def y(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return BOTTOM - share * (BOTTOM - TOP)

    @property
    def ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for ticks in TICKS:
            values = [tick * 10.0**decade for decade in decades for tick in ticks]
            shown = [value for value in values if self.low <= value <= self.high]
            gaps = [self.y(low) - self.y(high) for low, high in itertools.pairwise(shown)]
            if min(gaps, default=TICK_GAP) >= TICK_GAP:
                break
        return shown


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, metavar="DIR")
    parser.add_argument("output", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    sweep = read_sweep(arguments.sweep)
    curves = curves_of(sweep, load_sweep(sweep.path), load_reports(sweep.path))
    rungs = {step for trial in read_history(sweep).trials for step in trial.rungs}
    title = f"{sweep.objective.metric} by training step"
    arguments.output.write_text(picture(title, curves, sorted(rungs)), encoding="utf-8")


def curves_of(sweep: Sweep, frame: pd.DataFrame, reports: pd.DataFrame) -> list[Curve]:
    """The first objective of every trial that reported a positive one, the best trial last."""
    best, metric = leader(frame, sweep), sweep.objective.metric
    curves = []
    for _, row in ranked(frame, sweep).iloc[::-1].iterrows():
        rows = reports[(reports["trial"] == row["trial"]) & (reports[metric] > 0)]
        is_best = best is not None and row["trial"] == best["trial"]
        colour = WINNER if is_best else DOCUMENT if row["point"] else OTHER
        name = f"trial {row['trial']} (best)" if is_best else str(row["point"])
        points = list(zip(rows["step"].tolist(), rows[metric].tolist(), strict=True))
        if points:
            curves.append(Curve(name, colour, points, row["state"] == "stopped"))
    return curves


def picture(title: str, curves: Sequence[Curve], rungs: Sequence[int]) -> str:
    """The SVG document; values must be positive, for their axis is logarithmic."""
    last = max(step for curve in curves for step, _ in curve.points)
    sampled = [value for curve in curves if curve.colour != DOCUMENT for value in curve.values]
    near = [
        curve
        for curve in curves
        if min(sampled) <= min(curve.values) and max(curve.values) <= max(sampled)
    ]
    body = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    headings = title, "enlarged: the range of the sampled trials"
    for span, heading, part in zip(SPANS, headings, (curves, near), strict=True):
        panel = Panel(span, part, last)
        body += [_text(panel.left, 22, heading, "start", weight="bold"), *_grid(panel, rungs)]
        body += [mark for curve in part for mark in _drawn(curve, panel)]
        body += _labels(panel)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="12">\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _grid(panel: Panel, rungs: Sequence[int]) -> list[str]:
    marks = []
    for value in panel.ticks:
        y = panel.y(value)
        marks.append(_line(panel.left, y, panel.right, y, "#e8e8e8"))
        marks.append(_text(panel.left - 8, y + 4, f"{value:g}", "end"))
    for step in sorted({*rungs, int(panel.last)}):
        x, is_rung = panel.x(step), step < panel.last
        marks.append(_line(x, TOP, x, BOTTOM, "#b8b8b8" if is_rung else "#e8e8e8"))
        marks.append(_text(x, BOTTOM + 18, f"{step}", "middle"))
        if is_rung:
            marks.append(_text(x, TOP - 6, "rung", "middle", "#777777"))
    middle = (panel.left + panel.right) / 2
    return [*marks, _text(middle, BOTTOM + 38, "training step", "middle")]


def _drawn(curve: Curve, panel: Panel) -> list[str]:
    places = [(panel.x(step), panel.y(value)) for step, value in curve.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    width = 2.5 if curve.name else 1.2
    dash = ' stroke-dasharray="6 4"' if curve.colour == DOCUMENT else ""
    marks = [
        f'<polyline points="{path}" fill="none" stroke="{curve.colour}" '
        f'stroke-width="{width}"{dash}/>'
    ]
    if curve.is_stopped:
        x, y = places[-1]
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#ffffff" stroke="{curve.colour}" '
            'stroke-width="1.5"/>'
        )
    return marks


def _labels(panel: Panel) -> list[str]:
    """The names at the ends of their curves, moved upwards where they would overlap."""
    marks, limit = [], float(HEIGHT)
    named = [curve for curve in panel.curves if curve.name]
    for curve in sorted(named, key=lambda curve: curve.values[-1]):
        step, value = curve.points[-1]
        limit = min(panel.y(value), limit - LABEL_HEIGHT)
        label = f"{curve.name} {number(value)}"
        marks.append(_text(panel.x(step) + 8, limit + 4, label, "start", curve.colour))
    return marks


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(
    x: float, y: float, text: str, anchor: str, colour: str = "#333333", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )


if __name__ == "__main__":
    main()
