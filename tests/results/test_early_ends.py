"""Trials that ended by themselves, and health's columns, in the frames and on the page."""

from __future__ import annotations

import pandas as pd
import pytest

from results.directory import read_history, read_sweep
from results.frame import compact, load_reports, load_sweep
from results.leaderboard import leaderboard_rows
from results.page import render

REASON = "patience: val.mse was best with 0.3 at step 10, 2 validations ago"


@pytest.fixture
def ended(finished):
    """The finished sweep with a trial that ended by itself and warned of a weight."""
    finished.hand_out(6)
    for step, value in ((10, 0.3), (20, 0.35), (30, 0.45)):
        health = {"health.weight_collapse": 0.5 / step, "health.weight_collapse.warned": 0.0}
        if step > 10:
            health["health.weight_collapse.warned"] = 1.0
        reason = {"stop_reason": REASON} if step == 30 else {}
        finished.report(6, step, value, **health, **reason)
    finished.end(6, state="stopped", step=30, value=0.45, reason=REASON)
    return finished


def test_the_frame_tells_why_and_when(ended):
    row = load_sweep(ended.path).set_index("trial").loc[6]
    assert (row["state"], row["stop_reason"], row["steps"]) == ("stopped", REASON, 30)
    assert row["value"] == 0.45
    assert row["best/val.mse"] == 0.3
    assert row["last/health.weight_collapse"] == pytest.approx(0.5 / 30)
    assert row["last/health.weight_collapse.warned"] == 1.0
    others = load_sweep(ended.path).set_index("trial").drop(index=6)
    assert others["last/health.weight_collapse.warned"].isna().all()


def test_reports_are_numbers_only(ended):
    """The reason is a text beside numbers in the file; the log has it, and the other frame."""
    reports = load_reports(ended.path)
    assert "stop_reason" not in reports
    assert all(pd.api.types.is_numeric_dtype(kind) for kind in reports.dtypes)
    assert len(reports[reports["trial"] == 6]) == 3
    assert "last/stop_reason" not in load_sweep(ended.path)


def test_also_line_by_line_and_from_parquet(ended, capsys):
    before = load_sweep(ended.path), load_reports(ended.path)
    compact(ended.path)
    pd.testing.assert_frame_equal(load_sweep(ended.path), before[0])
    pd.testing.assert_frame_equal(load_reports(ended.path), before[1])
    ended.append_report(6, "no report\n")  # such a file is read line by line
    slowly = load_reports(ended.path)
    assert "is no report" in capsys.readouterr().err
    pd.testing.assert_frame_equal(slowly, before[1], check_like=True)


def test_a_reason_that_comes_late_in_much_text_is_read(make_sweep):
    """pyarrow guesses types from the first block of 1 MiB."""
    sweep = make_sweep("large")
    sweep.hand_out(0)
    extra = {f"val.filler_{number}": 1.0 / 3.0 for number in range(200)}
    for step in range(1, 401):
        sweep.report(0, step, 0.5, **extra, **({"stop_reason": REASON} if step == 400 else {}))
    sweep.end(0, state="stopped", step=400, value=0.5, reason=REASON)
    assert (sweep.path / "reports/0000.jsonl").stat().st_size > 2 << 20
    reports = load_reports(sweep.path)
    assert len(reports) == 400 and "stop_reason" not in reports


def test_leaderboard_and_page_show_the_reason(ended):
    sweep, frame = read_sweep(ended.path), load_sweep(ended.path, all_settings=True)
    headers, rows = leaderboard_rows(frame, sweep)
    (row,) = [row for row in rows if row[1] == "6"]
    assert row[headers.index("stopped because")].startswith("patience: val.mse")
    page = render(sweep, read_history(sweep), frame, load_reports(ended.path))
    assert "patience: val.mse" in page
