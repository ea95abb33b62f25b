from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.log import SweepState
from search.stopping import should_stop
from search_spaces.space import Point


def feed(plan, values, step=10, points=0):
    """The decision on each value in turn, as the log grows."""
    state, reasons = SweepState(), []
    for trial, value in enumerate(values):
        point = "document" if trial < points else None
        state.apply(
            {"event": "handed_out", "trial": trial, "segment": 0, "sampled": {}, "seed": 0}
            | {"point": point}
        )
        reasons.append(should_stop(plan, state, trial, step, value))
        state.apply({"event": "rung", "trial": trial, "segment": 0, "step": step, "value": value})
        assert should_stop(plan, state, trial, step, value) == reasons[-1]
    return state, reasons


@pytest.fixture(scope="module")
def asha(make_plan):
    return make_plan(scheduler="asha", eta=3, grace=10, steps=270)


def test_a_table_by_hand(asha):
    _, reasons = feed(asha, [5.0, 4.0, 6.0, 3.0, 7.0, 4.5, 2.0])
    # n: 1, 2 always; 3..5: the best one passes; 6, 7: the best two
    assert [reason is None for reason in reasons] == [True, True, False, True, False, False, True]
    assert reasons[2] == "asha: place 3 of 3 at step 10, 1 pass"


def test_larger_is_better_where_the_mode_says_so(make_plan):
    plan = make_plan(scheduler="asha", eta=2, grace=10, mode="max")
    _, reasons = feed(plan, [1.0, 2.0, 0.5, 3.0])
    assert [reason is None for reason in reasons] == [True, True, False, True]


def test_ties_go_on_and_what_is_not_finite_is_worst(asha):
    _, reasons = feed(asha, [1.0, 1.0, 1.0, 1.0])
    assert reasons == [None] * 4
    _, reasons = feed(asha, [math.nan, 1.0, None, math.inf, 2.0, 0.5])
    assert [reason is None for reason in reasons] == [True, True, False, False, False, True]


def test_only_rungs_below_the_end_decide(asha, make_plan):
    for step in (5, 20, 270, 810):
        assert feed(asha, [1.0, 2.0, 3.0, 4.0], step=step)[1] == [None] * 4
    assert asha.rungs == (10, 30, 90)
    none = make_plan(scheduler="none")
    assert feed(none, [1.0, 2.0, 3.0, 4.0])[1] == [None] * 4


def test_documented_points_run_to_the_end_but_are_competitors(asha):
    _, reasons = feed(asha, [9.0, 8.0, 7.0, 9.5, 1.0, 2.0], points=4)
    assert reasons[:4] == [None] * 4
    assert reasons[4] is None
    assert reasons[5] is None  # second of six
    _, reasons = feed(asha, [1.0, 2.0, 3.0, 9.5], points=3)
    assert reasons[3] is not None


def test_a_rung_reported_again_is_answered_as_the_first_time(asha):
    state, reasons = feed(asha, [5.0, 4.0, 3.0, 2.0, 1.0])
    again = [
        should_stop(asha, state, trial, 10, value) for trial, value in enumerate([5, 4, 3, 2, 1])
    ]
    assert again == reasons


@given(st.integers(2, 5), st.integers(0, 1000))
def test_about_one_in_eta_passes(make_plan, eta, seed):
    plan = make_plan(scheduler="asha", eta=eta, grace=10, steps=1000)
    rng = random.Random(seed)
    _, reasons = feed(plan, [rng.random() for _ in range(400)])
    passed = sum(reason is None for reason in reasons)
    # A trial of n passes with probability floor(n / eta) / n, independently; five standard errors.
    chance = [1.0 if n < eta else (n // eta) / n for n in range(1, 401)]
    spread = math.sqrt(sum(p * (1 - p) for p in chance))
    assert abs(passed - sum(chance)) < 5 * spread
    assert abs(sum(chance) / 400 - 1 / eta) < 0.02


def test_a_sweep_stops_most_trials_early_and_keeps_the_best(make_plan, executor):
    def objective(sampled, step):
        return (sampled["x"] - 0.3) ** 2 + (sampled["y"] + 0.2) ** 2 + 1.0 / step

    plan = make_plan(trials=60, scheduler="asha", eta=3, grace=10, steps=90)
    state = executor(plan, objective).run(concurrent=4).state
    full = executor(make_plan(trials=60), objective).run().state
    steps = sum(record.step for record in state.trials.values())
    assert steps < 0.5 * 60 * 90
    best = min(full.trials.values(), key=lambda record: record.value)
    assert state.trials[best.number].status == "complete"


def test_a_documented_point_outside_the_space_is_compared_at_full_length(make_plan, executor):
    worst = Point("document", {"x": 5.0, "y": 5.0}, ("x", "y"))
    plan = make_plan(points=(worst,), scheduler="asha", eta=2, grace=10)
    state = executor(plan).run(concurrent=3).state
    assert state.trials[0].status == "complete"
    assert state.trials[0].step == plan.steps
