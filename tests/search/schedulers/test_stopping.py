"""Asynchronous halving that stops: one decision after the other, as the log grows."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.decider import Decider
from search.jobs import Job
from search_spaces.space import Point

METRIC = "val.error"


def feed(plan, values, step=10, points=0):
    """The decision on each value in turn; all trials are running."""
    decider = Decider(plan, lambda event, **fields: None)
    jobs, reasons = [], []
    for trial, value in enumerate(values):
        point = "document" if trial < points else None
        job = Job(
            trial, 0, {}, point, (), 0, plan.steps, False, len(plan.rungs) * (trial < points)
        )
        decider.hand_out(job)
        jobs.append(job)
        reasons.append(decider.reported(job, step, observed(value)))
    return decider, jobs, reasons


def observed(value):
    return {} if value is None else {METRIC: value}


def passed(reasons):
    return [not reason for reason in reasons]


@pytest.fixture(scope="module")
def asha(make_plan):
    return make_plan(scheduler="asha", eta=3, grace=10, steps=270)


def test_a_table_by_hand(asha):
    reasons = feed(asha, [5.0, 4.0, 6.0, 3.0, 7.0, 4.5, 2.0])[2]
    # n: 1, 2 always; 3..5: the best one passes; 6, 7: the best two
    assert passed(reasons) == [True, True, False, True, False, False, True]
    assert reasons[2] == "asha: place 3 of 3 at step 10, 1 pass"


def test_larger_is_better_where_the_mode_says_so(make_plan):
    plan = make_plan(scheduler="asha", eta=2, grace=10, mode="max")
    assert passed(feed(plan, [1.0, 2.0, 0.5, 3.0])[2]) == [True, True, False, True]


def test_ties_go_on_and_what_is_not_finite_is_worst(asha):
    assert feed(asha, [1.0, 1.0, 1.0, 1.0])[2] == [""] * 4
    reasons = feed(asha, [math.nan, 1.0, None, math.inf, 2.0, 0.5])[2]
    assert passed(reasons) == [True, True, False, False, False, True]


def test_only_rungs_below_the_end_decide(asha, make_plan):
    for step in (5, 20, 270, 810):
        assert feed(asha, [1.0, 2.0, 3.0, 4.0], step=step)[2] == [""] * 4
    assert asha.rungs == (10, 30, 90)
    none = make_plan(scheduler="none")
    assert feed(none, [1.0, 2.0, 3.0, 4.0])[2] == [""] * 4


def test_documented_points_run_to_the_end_but_are_competitors(asha):
    reasons = feed(asha, [9.0, 8.0, 7.0, 9.5, 1.0, 2.0], points=4)[2]
    assert reasons[:4] == [""] * 4
    assert reasons[4] == ""
    assert reasons[5] == ""  # second of six
    reasons = feed(asha, [1.0, 2.0, 3.0, 9.5], points=3)[2]
    assert reasons[3] != ""


def test_one_that_ill_health_has_stopped_counts_as_the_worst(asha):
    decider, jobs, _ = feed(asha, [1.0, 2.0])
    decider.ended(jobs[0], 15, observed(0.5), reason="health: gradient_norm 73 > 50 at step 15")
    new = Job(2, 0, {}, None, (), 0, asha.steps, False)
    decider.hand_out(new)
    assert decider.reported(new, 10, observed(1.5)) == ""  # the first of three


def test_a_rung_reported_again_is_answered_as_the_first_time(asha):
    values = [5.0, 4.0, 3.0, 2.0, 1.0]
    decider, jobs, reasons = feed(asha, values)
    again = [decider.reported(job, 10, observed(x)) for job, x in zip(jobs, values, strict=True)]
    assert again == reasons


@given(st.integers(2, 5), st.integers(0, 1000))
def test_about_one_in_eta_passes(make_plan, eta, seed):
    plan = make_plan(scheduler="asha", eta=eta, grace=10, steps=1000)
    rng = random.Random(seed)
    count = sum(passed(feed(plan, [rng.random() for _ in range(200)])[2]))
    # A trial of n passes with probability floor(n / eta) / n, independently; five standard errors.
    chance = [1.0 if n < eta else (n // eta) / n for n in range(1, 201)]
    spread = math.sqrt(sum(p * (1 - p) for p in chance))
    assert abs(count - sum(chance)) < 5 * spread
    assert abs(sum(chance) / 200 - 1 / eta) < 0.03


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
