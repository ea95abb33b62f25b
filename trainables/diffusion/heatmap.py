"""The error of what is predicted by time and region, as a figure of a report's columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrics.diffusion import REGIONS, TIME_BINS

ROWS = ("background", *(region for region in REGIONS if region.startswith("tumour")))
"""Regions from the top."""

CELL = (20, 46)
"""Height and width of a cell, pixels."""

_LABEL = 84
"""Width of the rows' labels, pixels."""

_EMPTY = (0.75, 0.75, 0.75)
_LOW, _HIGH = np.array([0.12, 0.10, 0.42]), np.array([1.00, 0.90, 0.35])
"""Colours of a cell without a value, of the least value and of the greatest."""


def values_of(report: Mapping[str, float | str | None]) -> NDArray[np.float64]:
    """[rows, time bins] of a report; NaN where nothing was measured."""
    errors = [
        [report.get(f"val.{region}_mse_t{place}") for place in range(TIME_BINS)]
        for region in ROWS
    ]
    return np.array(
        [[value if isinstance(value, float) else math.nan for value in row] for row in errors]
    )


def colours_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 3] in [0, 1]: from the least to the greatest value by their logarithms."""
    is_shown = np.isfinite(values) & (values > 0.0)
    logs = np.log(values, where=is_shown, out=np.zeros_like(values))
    share = np.ones_like(values)
    if is_shown.any() and logs[is_shown].max() > logs[is_shown].min():
        least, most = logs[is_shown].min(), logs[is_shown].max()
        share = (logs - least) / (most - least)
    share = np.where(values == 0.0, 0.0, share)
    colours = _LOW + share[..., None] * (_HIGH - _LOW)
    is_empty = ~np.isfinite(values)
    shown: NDArray[np.float64] = np.where(is_empty[..., None], _EMPTY, colours)
    return shown


def heatmap(report: Mapping[str, float | str | None]) -> Tensor:
    """[3, H, W] in [0, 1]: a column for each time bin, from the clean image to the noise, and a
    row for each of `ROWS`; every cell says its value. Grey is what was not measured.
    """
    values = values_of(report)
    height, width = CELL
    cells = colours_of(values).repeat(height, axis=0).repeat(width, axis=1)
    image = np.ones((height + cells.shape[0], _LABEL + cells.shape[1], 3))
    image[height:, _LABEL:] = cells
    texts = [(0, _LABEL + width * place, f"t {place / TIME_BINS:g}") for place in range(TIME_BINS)]
    texts += [(height * (row + 1), 0, name.replace("_", " ")) for row, name in enumerate(ROWS)]
    texts += [
        (height * (row + 1), _LABEL + width * place, f"{value:.2g}")
        for (row, place), value in np.ndenumerate(values)
        if math.isfinite(value)
    ]
    return torch.from_numpy(_written(image, texts)).permute(2, 0, 1)


def _written(
    image: NDArray[np.float64], texts: Sequence[tuple[int, int, str]]
) -> NDArray[np.float32]:
    """The image with texts at (top, left) of their cells, black on light and white on dark."""
    from PIL import Image, ImageDraw

    drawn = Image.fromarray((image * 255.0).round().astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    for top, left, text in texts:
        is_light = image[top + 1, left + 1].mean() > 0.5
        draw.text((left + 4, top + 4), text, fill=(0, 0, 0) if is_light else (255, 255, 255))
    return np.asarray(drawn, np.float32) / 255.0
