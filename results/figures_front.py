"""The figures of a sweep with several objectives. Each returns None where there is nothing to
draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from results.directory import Sweep
from results.figures import DOCUMENT, OTHER, WINNER, finished
from results.ranking import judged

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def pareto_scatter(sweep: Sweep, frame: pd.DataFrame) -> Figure | None:
    """Complete trials over the first two objectives; a third one is the colour of the front, and
    the text of a point has all.
    """
    if len(sweep.objectives) < 2:
        return None
    values = pd.DataFrame({o.metric: judged(frame, sweep, o.metric) for o in sweep.objectives})
    shown = np.isfinite(values).all(axis=1) & frame["state"].eq("complete")
    if not shown.any():
        return None
    from plotly import graph_objects as go

    front, feasible = frame["is_pareto"], frame["feasible"]
    first, second = sweep.objectives[0].metric, sweep.objectives[1].metric
    texts = [
        f"trial {trial}<br>"
        + "<br>".join(f"{k} {v:.5g}" for k, v in zip(values, row, strict=True))
        for trial, row in zip(frame["trial"], values.to_numpy(), strict=True)
    ]
    figure = go.Figure()
    groups: list[tuple[str, pd.Series, dict[str, Any]]] = [
        ("misses the constraints", shown & ~feasible, {"color": OTHER, "symbol": "x"}),
        ("dominated", shown & feasible & ~front, {"color": OTHER, "size": 7}),
        ("front", shown & front, _front_marker(sweep, values[shown & front])),
        ("documented point", shown & frame["point"].ne(""), _ring(DOCUMENT, "diamond-open")),
        ("knee", shown & frame["is_knee"], _ring(WINNER, "star-open")),
    ]
    for name, chosen, marker in groups:
        if chosen.any():
            rows = values[chosen].sort_values(first)
            figure.add_scatter(
                x=rows[first].tolist(),
                y=rows[second].tolist(),
                text=[texts[frame.index.get_loc(row)] for row in rows.index],
                hoverinfo="text",
                mode="lines+markers"
                if name == "front" and len(values.columns) == 2
                else "markers",
                line={"shape": "hv" if _falls(sweep) else "linear", "width": 1, "color": WINNER},
                marker=marker,
                name=name,
            )
    return finished(figure, _axis(sweep, 0), _axis(sweep, 1))


def _front_marker(sweep: Sweep, front: pd.DataFrame) -> dict[str, Any]:
    if len(sweep.objectives) == 2 or front.empty:
        return {"color": WINNER, "size": 8}
    third = sweep.objectives[2].metric
    bar = {"title": third, "orientation": "h"}
    colours = front.sort_values(sweep.objectives[0].metric)[third].tolist()
    return {"color": colours, "colorscale": "Viridis", "colorbar": bar, "size": 9}


def _ring(color: str, symbol: str) -> dict[str, Any]:
    return {"color": color, "symbol": symbol, "size": 15, "line": {"width": 2}}


def _falls(sweep: Sweep) -> bool:
    """Whether smaller is better everywhere, so that a step line bounds what is dominated."""
    return all(objective.mode == "min" for objective in sweep.objectives)


def _axis(sweep: Sweep, index: int) -> str:
    objective = sweep.objectives[index]
    return f"{objective.metric} ({objective.mode})"


def hypervolume_curve(volumes: pd.DataFrame) -> Figure | None:
    """The hypervolume after each complete trial (`results.front.hypervolume_history`)."""
    if volumes.empty:
        return None
    from plotly import graph_objects as go

    line = go.Scatter(
        x=list(range(1, len(volumes) + 1)),
        y=volumes["hypervolume"].tolist(),
        text=[f"trial {trial}" for trial in volumes["trial"]],
        mode="lines+markers" if len(volumes) == 1 else "lines",
        line={"shape": "hv", "color": WINNER},
    )
    return finished(go.Figure(line), "complete trials", "hypervolume")
