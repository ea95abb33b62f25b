"""What counts as a result: constraints, ill health, repeats with fresh seeds, trials that wait."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.directory import read_history, read_sweep
from results.frame import compact, load_sweep
from results.headline import headline
from results.leaderboard import leaderboard_rows
from results.page import render
from results.ranking import ranked
from results.verdict_columns import _tied_ranks

OBJECTIVE = "val.mse"
DIAGNOSTIC = "val.diagnostic"


def told(directory) -> str:
    return headline(load_sweep(directory.path), read_sweep(directory.path), None)


def rows_of(directory):
    frame, sweep = load_sweep(directory.path), read_sweep(directory.path)
    headers, rows = leaderboard_rows(frame, sweep)
    return [dict(zip(headers, row, strict=True)) for row in rows]


def one(directory, trial, value, state="complete", reason="", **extra):
    """A trial of one report."""
    fields = {key: extra.pop(key) for key in list(extra) if not key.startswith("val.")}
    directory.hand_out(trial, **fields)
    directory.report(trial, 40, value, **extra)
    directory.end(trial, state=state, value=value, reason=reason)


# Constraints and health


@pytest.fixture
def bounded(sweep):
    """Trial 0 is best and breaks a bound, 1 and 2 keep both, 3 breaks both, 4 has no value."""
    sweep.write_document(constraints=[f"{DIAGNOSTIC}<=8", f"{DIAGNOSTIC}>=4.5"])
    for trial, (value, diagnostic) in enumerate([(0.1, 9.5), (0.3, 8.0), (0.2, 4.5), (0.05, 2.5)]):
        one(sweep, trial, value, **{DIAGNOSTIC: diagnostic})
    one(sweep, 4, 0.01, **{DIAGNOSTIC: None})
    return sweep


def test_only_what_keeps_the_constraints_is_best(bounded):
    frame = load_sweep(bounded.path)
    assert frame["feasible"].tolist() == [False, True, True, False, False]
    assert frame["violation"].tolist() == [1.5, 0.0, 0.0, 2.0, np.inf]
    assert frame.loc[frame["is_best"], "trial"].tolist() == [2]
    assert frame["is_pareto"].tolist() == frame["is_best"].tolist()


def test_the_leaderboard_has_feasible_ones_first_and_then_by_violation(bounded):
    frame, sweep = load_sweep(bounded.path), read_sweep(bounded.path)
    assert ranked(frame, sweep)["trial"].tolist() == [2, 1, 0, 3, 4]
    rows = rows_of(bounded)
    assert [row["rank"] for row in rows] == ["1", "2", "-", "-", "-"]
    assert [row["violation"] for row in rows] == ["0", "0", "1.5", "2", "-"]
    assert "Trial 2 is best" in told(bounded)


def test_no_trial_that_keeps_the_constraints_is_said(bounded):
    bounded.write_document(constraints=[f"{DIAGNOSTIC}<=1"])
    assert not load_sweep(bounded.path)["is_best"].any()
    assert told(bounded).startswith("No complete trial keeps the constraints yet; trial 3")


def test_what_ill_health_has_stopped_is_no_result(sweep):
    one(sweep, 0, 0.5)
    one(sweep, 1, 0.1, state="stopped", reason="health: gradient_norm_high 9 above 3 at step 40")
    one(sweep, 2, 0.2, state="stopped", reason="asha: place 3 of 4 at step 40, 1 pass")
    frame = load_sweep(sweep.path)
    assert frame["feasible"].tolist() == [True, False, True]
    assert frame.loc[frame["is_best"], "trial"].tolist() == [0]


ILL = "health: gradient_norm_high 9 > 3 at step 40"


def test_ill_health_is_not_told_as_a_missed_constraint(sweep):
    one(sweep, 0, 0.1, state="stopped", reason=ILL)
    expected = f"No trial is complete yet; trial 0 is no result: {ILL}."
    assert told(sweep) == expected
    sweep.write_document(constraints=[f"{DIAGNOSTIC}<=8"])  # which it keeps
    assert told(sweep) == expected
    sweep.write_document(constraints=[f"{DIAGNOSTIC}<=5.5"])
    assert "keeps the constraints yet; trial 0 (stopped) misses them by 0.5" in told(sweep)


@pytest.mark.parametrize(("state", "reason"), [("stopped", ILL), ("failed", "KeyError: 'x'")])
def test_a_documented_point_without_a_result_is_no_measure(sweep, state, reason):
    one(sweep, 0, 0.5, state=state, reason=reason, point="document")
    one(sweep, 1, 0.4)
    text = told(sweep)
    assert "the documented point document has no result" in text
    assert f"({state} at step " in text
    assert "better" not in text


def test_a_documented_point_may_miss_the_constraints(sweep):
    sweep.write_document(constraints=[f"{DIAGNOSTIC}<=8"])
    one(sweep, 0, 0.5, point="document", **{DIAGNOSTIC: 9.0})
    one(sweep, 1, 0.4)
    text = told(sweep)
    assert "better than the documented point document by 0.1" in text
    assert "misses the constraints" in text


def test_that_all_failed_is_said(sweep):
    one(sweep, 0, 0.5, state="failed", reason="KeyError: 'x'")
    said = "No trial is complete; trial 0 came to val.mse 0.5 before it failed."
    assert told(sweep) == said


def test_a_trial_that_waits_says_where(sweep):
    one(sweep, 0, 0.5)
    sweep.hand_out(1, stop_step=10)
    sweep.report(1, 10, 0.1)
    sweep.end(1, state="paused", step=10, value=0.1)
    one(sweep, 2, 0.4, state="stopped", reason="asha: no")
    sweep.hand_out(3)
    frame = load_sweep(sweep.path)
    assert frame["state"].tolist() == ["complete", "paused", "stopped", "interrupted"]
    assert frame.loc[1, "stop_reason"] == "waits at step 10"
    order = ranked(frame, read_sweep(sweep.path))["state"].tolist()
    assert order == ["complete", "paused", "interrupted", "stopped"]
    assert frame.loc[frame["is_best"], "trial"].tolist() == [0]


# Repeats


@pytest.fixture
def repeated(sweep):
    """Trial 0 was lucky, trial 1 is better on the mean, trial 2 was not repeated, and the
    documented point 3 was.
    """
    sweep.write_document(repeats={"draws": 3, "top": 2})
    for trial, value in enumerate((0.10, 0.20, 0.15)):
        one(sweep, trial, value)
    one(sweep, 3, 0.9, point="document")
    draws = [
        (0, 0.30),
        (1, 0.21),
        (3, 0.80),
        (0, 0.32),
        (1, 0.19),
        (3, 0.84),
        (0, 0.34),
        (1, 0.20),
    ]
    for trial, (original, value) in enumerate(draws, 4):
        one(sweep, trial, value, repeat_of=original, seed=900 + trial)
    return sweep


def test_a_configuration_is_one_row_with_the_statistics_of_its_repeats(repeated):
    frame = load_sweep(repeated.path)
    assert frame["trial"].tolist() == [0, 1, 2, 3]
    assert "repeat_of" not in frame
    assert frame["repeats/n"].tolist() == [3, 3, 0, 2]
    assert frame["repeats/mean"].tolist()[:2] == pytest.approx([0.32, 0.20])
    # Of three draws 0.02 (0.01) apart: s / sqrt(3); of two, half their distance.
    errors = [0.02 / 3**0.5, 0.01 / 3**0.5, np.nan, 0.02]
    assert frame["repeats/se"].tolist() == pytest.approx(errors, nan_ok=True)
    assert frame["repeats/rank"].tolist() == [2, 1, pd.NA, 3]
    assert frame["value"].tolist() == [0.10, 0.20, 0.15, 0.9]  # the draw that chose it


def test_the_mean_over_repeats_names_the_best_and_not_the_luckiest_draw(repeated):
    frame = load_sweep(repeated.path)
    assert frame.loc[frame["is_best"], "trial"].tolist() == [1]
    text = told(repeated)
    assert text.startswith(f"Trial 1 is best: {OBJECTIVE} 0.2 ± 0.0058; ")
    assert "better than the documented point document by 0.62 (75.6%)" in text
    assert "of 3 fresh seeds; no other configuration is within two standard errors" in text


def test_ties_are_said(repeated):
    one(repeated, 12, 0.19, repeat_of=2)
    one(repeated, 13, 0.22, repeat_of=2)
    frame = load_sweep(repeated.path)
    assert frame["repeats/rank"].tolist() == [3, 1, 1, 4]
    assert "trial 2 ties with it" in told(repeated)
    ranks = [(row["trial"], row["rank"]) for row in rows_of(repeated)]
    assert ranks == [("1", "1"), ("2", "1"), ("0", "3"), ("3", "4")]


def test_one_draw_each_decides_nothing(sweep):
    sweep.write_document(repeats={"draws": 1, "top": 2})
    for trial, value in enumerate((0.10, 0.20)):
        one(sweep, trial, value)
    one(sweep, 2, 0.30, repeat_of=0)
    assert "of 1 fresh seed; no other configuration was repeated." in told(sweep)
    one(sweep, 3, 0.21, repeat_of=1)
    text = told(sweep)
    assert text.startswith("Trial 1 is best")
    assert "one draw has no standard error" in text
    assert "within two" not in text


def test_repeats_can_be_seen_one_by_one(repeated):
    frame = load_sweep(repeated.path, repeats=True)
    assert frame["trial"].tolist() == list(range(12))
    assert frame["repeat_of"].tolist() == [pd.NA] * 4 + [0, 1, 3, 0, 1, 3, 0, 1]
    assert frame["value"].tolist()[4:6] == [0.30, 0.21]
    assert frame.loc[frame["is_best"], "trial"].tolist() == [1]
    folded = load_sweep(repeated.path)
    shared = [name for name in folded.columns if not name.endswith("seconds")]
    pd.testing.assert_frame_equal(folded[shared], frame.loc[:3, shared])
    # A configuration has cost what its repeats have cost; nothing is lost.
    assert folded["seconds"].tolist() == [8.0, 8.0, 2.0, 6.0]
    assert folded["gpu_seconds"].sum() == frame["gpu_seconds"].sum()


def test_both_views_come_from_parquet_alike(repeated):
    views = [load_sweep(repeated.path, repeats=each) for each in (False, True)]
    compact(repeated.path)
    for each, expected in zip((False, True), views, strict=True):
        pd.testing.assert_frame_equal(load_sweep(repeated.path, repeats=each), expected)


def test_failed_and_unfinished_repeats_do_not_count(repeated):
    one(repeated, 12, None, repeat_of=1)
    one(repeated, 13, 0.01, state="failed", repeat_of=1)
    repeated.hand_out(14, repeat_of=0)
    assert load_sweep(repeated.path)["repeats/n"].tolist() == [3, 3, 0, 2]


def test_constraints_are_judged_by_means_over_repeats(repeated):
    repeated.write_document(constraints=[f"{DIAGNOSTIC}<=6.5"])  # every draw so far has 6
    one(repeated, 12, 0.20, repeat_of=1, **{DIAGNOSTIC: 9.0})
    frame = load_sweep(repeated.path)
    assert frame["violation"].tolist() == pytest.approx([0, 0.25, 0, 0])
    assert frame.loc[frame["is_best"], "trial"].tolist() == [0]


def test_a_sweep_that_plans_repeats_has_their_columns_before_the_first(sweep):
    assert "repeats/n" not in load_sweep(sweep.path)
    sweep.write_document(repeats={"draws": 3, "top": 2})
    one(sweep, 0, 0.3)
    frame = load_sweep(sweep.path)
    assert frame["repeats/n"].tolist() == [0] and frame["repeats/rank"].isna().all()
    assert frame.loc[frame["is_best"], "trial"].tolist() == [0]
    assert "± error" not in rows_of(sweep)[0]


def test_leaderboard_and_page_show_means_and_errors(repeated):
    rows = {row["trial"]: row for row in rows_of(repeated)}
    assert (rows["1"]["mean"], rows["1"]["± error"], rows["1"]["draws"]) == (
        "0.2",
        "0.0057735",
        "3",
    )
    assert rows["2"]["mean"] == "-"
    assert rows["1"]["vs document"] == "-0.62"
    sweep, frame = read_sweep(repeated.path), load_sweep(repeated.path, all_settings=True)
    assert "<th>± error</th>" in render(sweep, read_history(sweep), frame, pd.DataFrame())


means = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 10.0]), min_size=1, max_size=6)


@given(means=means, error=st.sampled_from([0.0, 0.5, 1.0, np.nan]))
def test_ranks_with_ties(means, error):
    """Each rank counts those ahead of its group, whose members are close to its first."""
    count = len(means)
    costs, errors = np.array(means), np.full(count, error)
    ranks = _tied_ranks(costs, errors, np.ones(count, dtype=bool))
    limit = 2 * np.sqrt(2) * error
    for row in range(count):
        group = [other for other in range(count) if ranks[other] == ranks[row]]
        first = min(costs[other] for other in group)
        assert costs[row] == first or not costs[row] - first >= limit
        assert ranks[row] == 1 + sum(ranks[other] < ranks[row] for other in range(count))
        behind = [costs[other] for other in range(count) if ranks[other] > ranks[row]]
        assert all(cost > first and cost - first >= limit for cost in behind)
