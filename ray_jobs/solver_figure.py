"""The figure of the verb `solvers`: error against evaluations of the network, and against time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 560, 440
"""Of a panel, in pixels, as all lengths here."""

_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 30, 20, 46
_LEGEND, _LINE = 190, 16

_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2"),
    *("#7f7f7f", "#bcbd22", "#17becf", "#000000", "#aec7e8", "#98df8a", "#c49c94"),
)

_PANELS = (
    ("evaluations_per_sample", "evaluations of the network, a sample"),
    ("seconds_per_sample", "seconds a sample"),
)


def figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A Pillow image: the error of each solver over what it takes, both logarithmic. An error of 0
    has no place there, and is left out.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (len(_PANELS) * WIDTH + _LEGEND, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    shown = [row for row in rows if row["error"] > 0.0]
    names = list(dict.fromkeys(row["solver"] for row in rows))
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}
    for at, (column, title) in enumerate(_PANELS):
        panel = _Panel.around(shown, column, at * WIDTH)
        panel.draw_axes(draw, title)
        for name, colour in colours.items():
            points = [panel.place(row[column], row["error"]) for row in shown
                      if row["solver"] == name]  # fmt: skip
            draw.line(points, fill=colour, width=2)
            for x, y in points:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    for at, (name, colour) in enumerate(colours.items()):
        y = _TOP + at * _LINE
        left = len(_PANELS) * WIDTH + 8
        draw.line((left, y + 6, left + 18, y + 6), fill=colour, width=2)
        draw.text((left + 24, y), name, fill="black")
    return image


@dataclass(frozen=True)
class _Panel:
    """Decades of both axes, and the place of the panel."""

    across: tuple[int, int]
    up: tuple[int, int]
    left: int

    @classmethod
    def around(cls, rows: Sequence[Mapping[str, Any]], column: str, left: int) -> _Panel:
        return cls(
            _decades([row[column] for row in rows]), _decades([row["error"] for row in rows]), left
        )

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The pixel."""
        return self._x(math.log10(x)), self._y(math.log10(y))

    def draw_axes(self, draw: ImageDraw, title: str) -> None:
        """The frame with a line at each decade."""
        for decade in range(self.across[0], self.across[1] + 1):
            x = self._x(decade)
            draw.line((x, _TOP, x, HEIGHT - _BOTTOM), fill="#e0e0e0")
            draw.text((x - 12, HEIGHT - _BOTTOM + 6), f"1e{decade}", fill="black")
        for decade in range(self.up[0], self.up[1] + 1):
            y = self._y(decade)
            draw.line((self._x(self.across[0]), y, self._x(self.across[1]), y), fill="#e0e0e0")
            draw.text((self.left + 28, y - 6), f"1e{decade}", fill="black")
        right = self.left + WIDTH - _RIGHT
        draw.rectangle((self.left + _LEFT, _TOP, right, HEIGHT - _BOTTOM), outline="black")
        draw.text((self.left + _LEFT, 10), f"error over {title}", fill="black")

    def _x(self, decade: float) -> float:
        low, high = self.across
        return self.left + _LEFT + (decade - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def _y(self, decade: float) -> float:
        low, high = self.up
        return HEIGHT - _BOTTOM - (decade - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Whole decades around the values, one at least; 1 to 10 where there are none."""
    if not values:
        return 0, 1
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))
