"""The hypervolume over the course of a front, against that of each of its stages; and its column
in the frame.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs import analyze
from results.directory import read_history, read_sweep
from results.frame import compact, load_sweep
from results.front import hypervolume_history, hypervolumes, reference_point
from results.headline import headline
from results.hypervolume import running_hypervolumes
from search.pareto import hypervolume
from settings.schema import SettingsError

OBJECTIVE, SNR, DIAGNOSTIC = "val.mse", "val.snr_db", "val.diagnostic"
NAN = float("nan")

# Few values, so that rows are equal, lie on the corner or beyond it, or share a coordinate.
COST = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, float("nan"), float("inf")])


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@given(data=st.data())
def test_it_is_the_hypervolume_of_the_rows_so_far(objectives, data):
    rows = data.draw(st.lists(st.tuples(*[COST] * objectives), max_size=12))
    costs, corner = np.array(rows).reshape(-1, objectives), np.ones(objectives)
    expected = [hypervolume(costs[: count + 1], corner) for count in range(len(costs))]
    assert running_hypervolumes(costs, corner) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_it_never_falls_and_ends_where_all_rows_do(objectives):
    """Over many rows of which none dominates another, where rounding adds up."""
    costs = np.random.default_rng(0).exponential(size=(200, objectives))
    costs /= costs.sum(axis=1, keepdims=True)
    corner = costs.max(axis=0) + 0.1
    volumes = running_hypervolumes(costs, corner)
    assert (np.diff(volumes) >= 0.0).all()
    assert volumes[-1] == pytest.approx(hypervolume(costs, corner), rel=1e-12)

# The column


def everything(directory):
    sweep = read_sweep(directory.path)
    return sweep, read_history(sweep), load_sweep(directory.path)


def volumes_of(directory, **named):
    frame = load_sweep(directory.path, **named)
    return dict(zip(frame["trial"], frame["hypervolume"], strict=True))


def told_volumes(*values):
    return [pytest.approx(value, nan_ok=True) for value in values]


def test_every_trial_that_has_ended_has_the_hypervolume_of_then(double):
    """Trial 5 was stopped: it is on no front, and ended when the front was that of 1, 2 and 3."""
    whole = 0.6 * 8.0 + 0.1 * 1.0
    expected = told_volumes(0.0, 0.0, 4.8, whole, whole, whole)
    assert list(volumes_of(double).values()) == expected
    double.several(6, 0.0, 99.0, state="failed")
    double.several(7, 0.0, 99.0, state="paused")
    double.hold_lock()
    double.hand_out(8)
    assert list(volumes_of(double).values()) == [*expected, *told_volumes(whole, NAN, NAN)]
    double.write_document(constraints=[f"{DIAGNOSTIC}<=5"])
    infeasible = list(volumes_of(double).values())
    assert infeasible == [0.0] * 7 + told_volumes(NAN, NAN)


def test_the_order_is_that_of_the_log_and_not_of_the_clock(double):
    """The driver went on, on a machine whose clock is behind: what ended last is told last."""
    before = volumes_of(double)
    double.time -= 1000.0
    double.several(6, 0.3, 29.5)
    gained = 0.4 * 0.5
    assert volumes_of(double) == {**before, 6: pytest.approx(4.9 + gained)}
    history = hypervolume_history(*everything(double), {OBJECTIVE: 0.8, SNR: 21.0})
    assert history["trial"].tolist() == [0, 1, 2, 3, 4, 6]
    assert not history["ended_at"].is_monotonic_increasing


def test_a_trial_that_went_on_has_the_place_of_its_last_end(double):
    before = volumes_of(double)
    double.hand_out(6)
    double.end(6, 0, state="paused", step=10)
    double.several(7, 0.2, 29.0)
    double.hand_out(6, 1)
    double.report(6, 40, 0.3, segment=1, **{SNR: 29.5, DIAGNOSTIC: 6.0})
    double.end(6, 1)
    assert volumes_of(double) == {**before, 6: pytest.approx(5.1), 7: pytest.approx(4.9)}


def test_it_is_empty_before_the_reference_point_is_known(sweep):
    objectives = [{"metric": OBJECTIVE, "mode": "min"}, {"metric": SNR, "mode": "max"}]
    sweep.write_document(objectives=objectives, points=[])
    sweep.hold_lock()
    sweep.several(0, 0.5, 20.0)
    sweep.several(1, 0.4, 21.0)
    compact(sweep.path)
    assert list(volumes_of(sweep).values()) == told_volumes(NAN, NAN)
    # The lock tells, and it changes none of the files.
    (sweep.path / "lock").unlink()
    assert list(volumes_of(sweep).values()) == told_volumes(0.0, 0.1)


def test_repeats_have_it_and_change_none(double):
    before = volumes_of(double)
    double.several(6, 0.05, 40.0, repeat_of=1)
    assert volumes_of(double) == before
    assert volumes_of(double, repeats=True) == {**before, 6: pytest.approx(4.9)}


def test_a_sweep_of_one_objective_has_no_column_and_takes_no_reference_point(finished):
    assert "hypervolume" not in load_sweep(finished.path)
    with pytest.raises(SettingsError, match=f"several objectives.*there is one, {OBJECTIVE}"):
        load_sweep(finished.path, reference_point={OBJECTIVE: 1.0})


@pytest.mark.parametrize("stored", [False, True])
def test_a_named_reference_point_holds_for_this_reading(double, stored):
    """Also where the frame comes from the file, which keeps the sweep's own."""
    own = volumes_of(double)
    if stored:
        compact(double.path)
    wider = {SNR: 19.0, OBJECTIVE: 1.0}
    by_hand = [0.2 * 2.0, 0.2 * 2.0 + (0.9 - 0.2) * 1.0]  # the two share 0.2 x 1
    named = volumes_of(double, reference_point=wider)
    assert [named[0], named[1]] == pytest.approx(by_hand)
    assert volumes_of(double, reference_point=f"{OBJECTIVE}=1, {SNR}=19") == named
    assert volumes_of(double) == own
    assert all(named[trial] > own[trial] for trial in own)


def test_a_reference_point_that_the_sweep_was_told_is_its_own(double):
    point = f"{OBJECTIVE}=1,{SNR}=19"
    expected = volumes_of(double, reference_point=point)
    double.write_document(format=3, options={"reference_point": point}, last_change=0)
    assert reference_point(*everything(double)) == {OBJECTIVE: 1.0, SNR: 19.0}
    assert volumes_of(double) == expected
    sweep, history, frame = everything(double)
    text = headline(frame, sweep, hypervolumes(sweep, history, frame))
    assert f"up to {OBJECTIVE} 1, {SNR} 19." in text


@pytest.mark.parametrize(
    "point",
    ["", OBJECTIVE, f"{OBJECTIVE}=1", f"{OBJECTIVE}=1,{SNR}=nan", f"{OBJECTIVE}=1,{SNR}=2,x=3"],
)
def test_a_reference_point_has_one_number_for_each_objective(double, point, capsys):
    with pytest.raises(SettingsError, match=f"Write {OBJECTIVE}=NUMBER,{SNR}=NUMBER"):
        load_sweep(double.path, reference_point=point)
    assert analyze.main([str(double.path), "--no-page", "--reference-point", point]) == 2
    assert f"Write {OBJECTIVE}=NUMBER,{SNR}=NUMBER" in capsys.readouterr().err


def test_analyze_takes_a_reference_point_and_the_files_keep_the_sweep_s_own(double, capsys):
    own = volumes_of(double)
    assert analyze.main([str(double.path), "--reference-point", f"{SNR}=19,{OBJECTIVE}=1"]) == 0
    last = volumes_of(double, reference_point={OBJECTIVE: 1.0, SNR: 19.0})[4]
    printed = capsys.readouterr().out
    assert f"Hypervolume {last:.5g} up to {OBJECTIVE} 1, {SNR} 19." in printed
    assert f"{last:.5g} after 5." in printed
    page = (double.path / "analysis" / "index.html").read_text()
    assert f"Up to the fixed reference point {OBJECTIVE} 1, {SNR} 19." in page
    stored = pd.read_parquet(double.path / "analysis" / "trials.parquet")
    assert dict(zip(stored["trial"], stored["hypervolume"], strict=True)) == own


@pytest.mark.parametrize("point", [[1.0, 2.0], 3.0])
def test_a_reference_point_is_told_by_name(double, point):
    with pytest.raises(SettingsError, match=r"it needs one finite number for each .* a dict"):
        load_sweep(double.path, reference_point=point)


def test_a_point_that_nobody_is_better_than_is_warned_of(double, capsys):
    for point, warned in ((f"{SNR}=19,{OBJECTIVE}=1", False), (f"{SNR}=90,{OBJECTIVE}=0", True)):
        assert analyze.main([str(double.path), "--no-page", "--reference-point", point]) == 0
        said = capsys.readouterr().err
        assert ("warning: the hypervolume is 0 throughout: no complete trial" in said) == warned
    assert f"than the reference point, {OBJECTIVE} 0, {SNR} 90. Name a worse one" in said
