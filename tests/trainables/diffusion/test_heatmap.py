"""The figure of errors by time and region: each cell is the column that it stands for."""

from __future__ import annotations

import itertools

import numpy as np

from metrics.diffusion import diffusion_metrics
from trainables.diffusion.heatmap import CELL, ROWS, heatmap, values_of
from trainables.diffusion.settings import DiffusionSettings

BINS = 10


def report(value):
    """`value(row, bin)` of every cell."""
    cells = itertools.product(enumerate(ROWS), range(BINS))
    return {f"val.{name}_mse_t{place}": value(row, place) for (row, name), place in cells}


def cell(image, row, place):
    """The lower edge of a cell, where no text is: [3]."""
    height, width = CELL
    left = image.shape[2] - (BINS - place) * width
    return image[:, height * (row + 2) - 1, left + width // 2].numpy()


def test_every_cell_has_its_column():
    names = {f"val.{metric.name}" for metric in diffusion_metrics(DiffusionSettings())}
    assert set(report(lambda row, place: 1.0)) <= names
    values = values_of(report(lambda row, place: 100.0 * row + place))
    np.testing.assert_array_equal(values, 100.0 * np.arange(6)[:, None] + np.arange(BINS))


def test_colours_go_by_the_logarithm_of_the_error():
    """Three decades: the middle one is halfway between the ends."""
    image = heatmap(report(lambda row, place: 10.0 ** (place % 3)))
    low, middle, high = (cell(image, 3, place) for place in range(3))
    np.testing.assert_allclose(middle, (low + high) / 2.0, atol=0.01)
    assert high.mean() > low.mean() + 0.3


def test_what_was_not_measured_is_grey():
    given = report(lambda row, place: None if row == 2 else 1.0 + row + place)
    del given["val.background_mse_t4"]
    image = heatmap(given)
    for row, place in ((2, 0), (2, 9), (0, 4)):
        assert np.ptp(cell(image, row, place)) == 0.0
    assert np.ptp(cell(image, 0, 5)) > 0.1


def test_a_report_without_a_value_is_drawn():
    image = heatmap({})
    assert image.shape[0] == 3 and 0.0 <= float(image.min()) <= float(image.max()) <= 1.0
