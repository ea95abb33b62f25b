"""Sweeps of several objectives: front, knee, hypervolume at a fixed reference point."""

from __future__ import annotations

import pandas as pd
import pytest

from ray_jobs import analyze
from results.directory import read_history, read_sweep
from results.figures_front import hypervolume_curve, pareto_scatter
from results.frame import compact, load_reports, load_sweep
from results.front import hypervolume_history, hypervolumes, reference_point
from results.headline import headline
from results.leaderboard import leaderboard_rows
from results.page import render
from results.ranking import leader, ranked
from results.store import SweepError

OBJECTIVE, SNR, DIAGNOSTIC = "val.mse", "val.snr_db", "val.diagnostic"


def everything(directory):
    sweep = read_sweep(directory.path)
    return sweep, read_history(sweep), load_sweep(directory.path)


def told(directory) -> str:
    sweep, history, frame = everything(directory)
    return headline(frame, sweep, hypervolumes(sweep, history, frame))


def test_front_knee_and_best(double):
    frame = load_sweep(double.path)
    assert frame.loc[frame["is_pareto"], "trial"].tolist() == [1, 2, 3]
    assert frame.loc[frame["is_knee"], "trial"].tolist() == [2]
    assert frame.loc[frame["is_best"], "trial"].tolist() == [1]
    compact(double.path)
    pd.testing.assert_frame_equal(load_sweep(double.path), frame)


def test_only_feasible_trials_make_the_front(double):
    double.write_document(constraints=[f"{DIAGNOSTIC}<=7"])
    double.several(6, 0.05, 31.0, diagnostic=9.0)
    frame = load_sweep(double.path)
    assert frame.loc[frame["is_pareto"], "trial"].tolist() == [1, 2, 3]
    double.write_document(constraints=[])
    frame = load_sweep(double.path)
    assert frame.loc[frame["is_pareto"], "trial"].tolist() == [6]


def test_repeated_configurations_count_with_their_means(double):
    for trial, snr in ((6, 25.0), (7, 27.0)):
        double.several(trial, 0.61, snr, repeat_of=2)
    frame = load_sweep(double.path)
    assert frame.loc[2, f"repeats/mean/{SNR}"] == 26.0
    # 0.61 and 26 dB: dominated by 4, which comes to the front.
    assert frame.loc[frame["is_pareto"], "trial"].tolist() == [1, 3, 4]
    assert frame.loc[frame["is_best"], "trial"].tolist() == [2]  # the only one repeated
    # Headline, leaderboard and page name that one, not the least of all draws.
    sweep = read_sweep(double.path)
    assert ranked(frame, sweep)["trial"].tolist() == [2, 1, 4, 3, 0, 5]
    assert leader(frame, sweep)["trial"] == 2
    assert f"Trial 2 is best by the first objective: {OBJECTIVE} 0.61" in told(double)


def test_of_equals_in_the_first_objective_the_best_is_on_the_front(sweep):
    """Not the lower number, which the other one dominates."""
    objectives = [{"metric": OBJECTIVE, "mode": "min"}, {"metric": DIAGNOSTIC, "mode": "min"}]
    sweep.write_document(objectives=objectives, points=[])
    for trial, diagnostic in enumerate((5.0, 3.0, 3.0)):
        sweep.several(trial, 1.0, 20.0, diagnostic=diagnostic)
    frame = load_sweep(sweep.path)
    assert frame.loc[frame["is_pareto"], "trial"].tolist() == [1, 2]
    assert frame.loc[frame["is_best"], "trial"].tolist() == [1]
    assert leader(frame, read_sweep(sweep.path))["trial"] == 1


def test_the_log_stands_in_for_reports_that_were_deleted(double):
    """In every column that is judged by: table, front, knee, hypervolume and page agree."""
    double.write_document(constraints=[f"{DIAGNOSTIC}<=7"])
    values = {OBJECTIVE: 0.15, SNR: 29.5, DIAGNOSTIC: 6.5}
    double.hand_out(6)
    double.report(6, 40, 0.15, **values)
    double.end(6, value=0.15, values=values)
    before = everything(double)
    volumes, text = hypervolumes(*before), told(double)
    (double.path / "reports" / "0006.jsonl").unlink()
    after = everything(double)
    row = after[2].set_index("trial").loc[6]
    assert {column: row[f"last/{column}"] for column in values} == values
    assert row["is_knee"] and "Knee: trial 6" in text
    assert told(double) == text
    pd.testing.assert_frame_equal(hypervolumes(*after).course, volumes.course)
    assert leaderboard_rows(after[2], after[0])[1] == leaderboard_rows(before[2], before[0])[1]
    compact(double.path)
    pd.testing.assert_frame_equal(load_sweep(double.path), after[2])


# The reference point


def test_the_reference_point_is_the_document(double):
    sweep, history, frame = everything(double)
    assert reference_point(sweep, history, frame) == {OBJECTIVE: 0.8, SNR: 21.0}


def test_the_reference_point_is_the_worst_of_the_documented_points(double):
    double.several(6, 0.4, 20.5, point="before")
    sweep, history, frame = everything(double)
    assert reference_point(sweep, history, frame) == {OBJECTIVE: 0.8, SNR: 20.5}


def plain(directory):
    objectives = [{"metric": OBJECTIVE, "mode": "min"}, {"metric": SNR, "mode": "max"}]
    directory.write_document(objectives=objectives, points=[])


def test_without_a_documented_point_the_first_ten_that_ended_hold_it(sweep):
    """In the order of their ends, and from the tenth on it never moves."""
    plain(sweep)
    sweep.hold_lock()
    sweep.hand_out(0)  # ends last
    for trial in range(1, 10):
        sweep.several(trial, 0.1 * trial, 20.0 + trial)
    assert reference_point(*everything(sweep)) == {}
    sweep.several(10, 0.05, 19.0)
    expected = {OBJECTIVE: pytest.approx(0.9), SNR: 19.0}
    assert reference_point(*everything(sweep)) == expected
    sweep.report(0, 40, 5.0, **{SNR: 1.0})
    sweep.end(0, value=5.0)
    assert reference_point(*everything(sweep)) == expected
    (sweep.path / "lock").unlink()
    sweep.event("finished")
    assert reference_point(*everything(sweep)) == expected


def test_a_short_sweep_has_a_reference_point_once_it_is_over(sweep):
    plain(sweep)
    sweep.hold_lock()
    sweep.several(0, 0.5, 20.0)
    assert reference_point(*everything(sweep)) == {}
    (sweep.path / "lock").unlink()
    assert reference_point(*everything(sweep)) == {OBJECTIVE: 0.5, SNR: 20.0}


def test_a_running_documented_point_is_waited_for(double):
    double.hold_lock()
    double.hand_out(6, point="before")
    assert reference_point(*everything(double)) == {}
    double.report(6, 40, 0.9, **{SNR: 22.0})
    double.end(6, value=0.9)
    assert reference_point(*everything(double)) == {OBJECTIVE: 0.9, SNR: 21.0}


def test_values_that_are_not_finite_hold_no_reference_point(sweep):
    plain(sweep)
    sweep.several(0, None, None)
    sweep.several(1, 0.5, None)
    assert reference_point(*everything(sweep)) == {}
    assert hypervolume_history(*everything(sweep), {}).empty
    assert told(sweep).startswith("No trial is complete and feasible yet")


# The hypervolume


def test_hypervolume_grows_in_the_order_of_the_ends(double):
    """Rectangles by hand, up to (0.8, 21)."""
    sweep, history, frame = everything(double)
    corner = reference_point(sweep, history, frame)
    volumes = hypervolume_history(sweep, history, frame, corner)
    assert volumes["trial"].tolist() == [0, 1, 2, 3, 4]
    only_two = 0.6 * 8.0
    expected = [0.0, 0.0, only_two, only_two + 0.1 * 1.0, only_two + 0.1 * 1.0]
    assert volumes["hypervolume"].tolist() == pytest.approx(expected)
    assert volumes["ended_at"].is_monotonic_increasing
    double.write_document(constraints=[f"{DIAGNOSTIC}<=5"])
    infeasible = hypervolume_history(*everything(double), corner)
    assert infeasible["hypervolume"].tolist() == [0.0] * 5


def test_repeats_do_not_change_the_history(double):
    before = hypervolume_history(*everything(double), {OBJECTIVE: 0.8, SNR: 21.0})
    double.several(6, 0.05, 40.0, repeat_of=1)
    after = hypervolume_history(*everything(double), {OBJECTIVE: 0.8, SNR: 21.0})
    pd.testing.assert_frame_equal(before, after)


# What is shown


def test_the_headline_names_front_hypervolume_and_knee(double):
    text = told(double)
    assert text.startswith("3 trials make the front. Hypervolume 4.9 up to")
    assert f"Knee: trial 2 ({OBJECTIVE} 0.2, {SNR} 29)." in text
    assert "2 of the front are at least as good as the documented point document in every" in text
    assert f"Trial 1 is best by the first objective: {OBJECTIVE} 0.1; " in text


def test_the_leaderboard_shows_every_objective_and_the_front_first(double):
    sweep, _, frame = everything(double)
    headers, rows = leaderboard_rows(frame, sweep)
    found = [dict(zip(headers, row, strict=True)) for row in rows]
    assert [(row["trial"], row["rank"]) for row in found] == [
        ("1", "front"),
        ("2", "knee"),
        ("3", "front"),
        ("4", "-"),
        ("0", "-"),
        ("5", "-"),
    ]
    assert [row[SNR] for row in found[:2]] == ["20", "29"]
    assert ranked(frame, sweep)["trial"].tolist() == [1, 2, 3, 4, 0, 5]


def test_the_page_has_the_front_and_the_hypervolume(double):
    sweep, history, frame = everything(double)
    frame = load_sweep(double.path, all_settings=True)
    page = render(sweep, history, frame, load_reports(double.path))
    for title in ("Pareto front", "Hypervolume", f"Importance for {SNR}"):
        assert f"<h2>{title}</h2>" in page
    figure = pareto_scatter(sweep, frame)
    groups = {trace.name: trace for trace in figure.data}
    assert list(groups["front"].x) == [0.1, 0.2, 0.7]
    assert list(groups["knee"].y) == [29.0]
    assert list(groups["documented point"].x) == [0.8]
    assert "misses the constraints" not in groups
    volumes = hypervolume_history(sweep, history, frame, reference_point(sweep, history, frame))
    assert list(hypervolume_curve(volumes).data[0].x) == [1, 2, 3, 4, 5]


def test_the_page_of_three_objectives_and_of_no_trial(sweep):
    objectives = [{"metric": OBJECTIVE, "mode": "min"}, {"metric": SNR, "mode": "max"}]
    sweep.write_document(objectives=[*objectives, {"metric": DIAGNOSTIC, "mode": "min"}])
    read, history, frame = everything(sweep)
    page = render(read, history, frame, load_reports(sweep.path))
    assert "Nothing to draw: no complete trial." in page
    assert "Nothing to draw: no reference point yet." in page
    for trial in range(4):
        sweep.several(trial, 0.1 * (trial + 1), 20.0 + trial, diagnostic=5.0 - trial)
    read, history, frame = everything(sweep)
    front = next(t for t in pareto_scatter(read, frame).data if t.name == "front")
    assert list(front.marker.color) == [5.0, 4.0, 3.0, 2.0]


def test_analyze_prints_the_hypervolume_by_quarters(double, capsys):
    assert analyze.main([str(double.path), "--no-page"]) == 0
    printed = capsys.readouterr().out
    assert "Hypervolume by complete trials: 0 after 2, 4.8 after 3, 4.9 after 4, 4.9 after 5." in (
        printed
    )
    assert f"Importance for {SNR}" in printed


def test_a_sweep_of_one_objective_has_none_of_it(finished, capsys):
    frame = load_sweep(finished.path)
    assert not frame["is_knee"].any()
    assert analyze.main([str(finished.path), "--no-page"]) == 0
    assert "Hypervolume" not in capsys.readouterr().out


def test_a_malformed_constraint_or_combination_is_named(sweep):
    sweep.write_document(constraints=["val.x<2"])
    with pytest.raises(SweepError, match=r"breaks format 1.*val\.x<2"):
        read_sweep(sweep.path)
    sweep.write_document(constraints=[], derived=[{"kind": "sum", "of": {"val.x": 1}}])
    with pytest.raises(SweepError, match="'sum'"):
        read_sweep(sweep.path)


def test_derived_objectives_are_read_like_any_other(sweep):
    node = {"kind": "worst_ratio", "of": {OBJECTIVE: 0.5}}
    objective = {"metric": "val.worst_ratio", "mode": "min"}
    sweep.write_document(format=2, objectives=[objective], derived=[node])
    sweep.hand_out(0)
    sweep.report(0, 40, 0.25, **{"val.worst_ratio": 0.5})
    sweep.end(0, value=0.5)
    (combined,) = read_sweep(sweep.path).derived
    assert combined.value({OBJECTIVE: 0.25}) == 0.5
    frame = load_sweep(sweep.path)
    assert frame.loc[0, "value"] == frame.loc[0, "best/val.worst_ratio"] == 0.5
