"""Examinations in the results: columns that not every report has measured, of no unit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from results import load_references, load_reports, load_sweep
from results.directory import read_history, read_sweep
from results.headline import headline
from results.page import render

UNITS = ["a", "b", "c", "d"]


def measured(value, **more):
    """What was measured beside a sweep: the objective is of no unit, another metric is."""
    return {
        "about": "",
        "unit": UNITS,
        "val.mse": value,
        "val.snr_db": 3.0,
        "units": {"val.snr_db": [1.0, 2.0, 3.0, 6.0]},
        **more,
    }


@pytest.fixture
def examined(sweep):
    """A sweep whose objective is measured at every second report."""
    sweep.trial(0, [None, 0.8, None, 0.6], point="document")
    sweep.trial(1, [None, 0.3, None, 0.4])
    sweep.event("finished")
    (sweep.path / "references.json").write_text(json.dumps({"mean": measured(0.5)}))
    trials = {str(i): measured(v, configuration=i, step=40) for i, v in enumerate((0.6, 0.4))}
    (sweep.path / "by_unit.json").write_text(json.dumps(trials))
    return sweep


def test_the_frames_skip_what_was_not_measured(examined):
    frame, reports = load_sweep(examined.path), load_reports(examined.path)
    assert list(reports["val.mse"].isna()) == [True, False] * 4
    assert list(frame["value"]) == [0.6, 0.4]
    assert list(frame["best/val.mse"]) == [0.6, 0.3]
    assert list(frame["best_step"]) == [40, 20]
    assert list(frame["vs_reference/mean"]) == pytest.approx([-0.1, 0.1])


def test_a_winner_is_compared_without_an_error(examined):
    sweep = read_sweep(examined.path)
    said = headline(load_sweep(examined.path), sweep, None)
    assert "any reference by two standard errors: mean +0.1 (no error: 0 units)" in said
    assert "better than the documented point document by 0.2 (33.3%)." in said
    frame = load_references(examined.path)
    assert list(frame["val.mse"].isna()) == [False, True, True, True, True]
    assert list(frame["val.snr_db"]) == [3.0, 1.0, 2.0, 3.0, 6.0]


def page_of(directory):
    sweep = read_sweep(directory.path)
    frame = load_sweep(directory.path, all_settings=True)
    return render(sweep, read_history(sweep), frame, load_reports(directory.path))


def test_a_point_between_gaps_is_seen(examined, sweep):
    curves = page_of(examined).partition("Learning curves")[2].partition("</section>")[0]
    assert curves.count('"mode":"lines+markers"') == 2


def test_the_page_links_the_figures(examined):
    assert "<h2>Figures</h2>" not in page_of(examined)
    for trial, steps in {0: (20,), 1: (20, 40)}.items():
        folder = examined.path / "trials" / f"{trial:04d}" / "figures" / "drawn.points"
        folder.mkdir(parents=True)
        for step in steps:
            (folder / f"{step:08d}.png").write_bytes(b"")
    section = page_of(examined).partition("<h2>Figures</h2>")[2].partition("</section>")[0]
    links = [
        f'<a href="../trials/{trial:04d}/figures/drawn.points/{step:08d}.png">step {step}</a>'
        for trial, step in ((1, 20), (1, 40), (0, 20))
    ]
    assert np.all([link in section for link in links]) and section.count("<a ") == 3
    assert "trial 1, drawn.points" in section
