"""Brackets with a quota: who goes on, what each bracket may spend, how a sweep ends."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.log import SweepState
from search.rule import load_scheduler
from search.rung_agreement import PAIRS
from search.simulator import simulate
from settings.schema import SettingsError

METRIC = "val.error"


def play(plan, value, workers=1):
    """The simulated sweep, and (trial, bracket, stop_step) of every segment in order."""

    def draw(plan, state, trial, bracket):
        return {"x": 0.0, "y": 0.0}

    def observe(job, step):
        return {METRIC: value(job.trial, step)}

    run = simulate(plan, observe, workers=workers, draw=draw)
    jobs = [event for event in run.events if event["event"] == "handed_out"]
    return run, [(job["trial"], job["bracket"], job["stop_step"]) for job in jobs]


def noisy(seed, share=0.5):
    """A quality of each trial, and noise at each rung."""

    def value(trial, step):
        own = random.Random(f"{seed} {trial}").random()
        return own + share * random.Random(f"{seed} {trial} {step}").random()

    return value


@pytest.fixture(scope="module")
def make(make_plan):
    """Levels 10, 30, 90, 270."""

    def made(**options):
        return make_plan(scheduler="brackets", **({"steps": 270, "grace": 10} | options))

    return made


FIRST_ALONE = (1.0, 0.0, 0.0, 0.0)


def test_one_bracket_by_hand(make):
    plan = make(trials=9, shares=FIRST_ALONE)
    _, jobs = play(plan, lambda trial, step: float(9 - trial))
    assert [(trial, stop) for trial, _, stop in jobs] == [
        *[(0, 10), (1, 10), (2, 10), (2, 30)],  # one of three
        *[(3, 10), (4, 10), (5, 10), (5, 30)],
        *[(6, 10), (7, 10), (8, 10), (8, 30), (8, 90)],  # top first: one of three at 30
        (8, 270),  # the last: no quota lets one of 1 at 90 go on
    ]


def test_a_better_trial_waits_while_the_quota_is_used(make):
    values = [3.0, 2.0, 1.0, 0.5, 0.4, 0.9]
    _, jobs = play(make(trials=6, shares=FIRST_ALONE), lambda trial, step: values[trial])
    ends = [(trial, stop) for trial, _, stop in jobs]
    assert ends.index((2, 30)) < ends.index((3, 10))
    assert ends.index((5, 10)) < ends.index((4, 30))  # 3, 4 are better than 2, whose place it was
    assert (3, 30) not in ends


@pytest.mark.parametrize(
    ("options", "first", "count"),
    [
        ({}, 1, PAIRS),  # eight to step 30 are less than one training of 270
        ({"steps": 720}, 2, PAIRS),  # eight to step 90 just as many as one of 720
        ({"rung_steps": (10, 40, 90), "grace": 0}, 0, 5),  # too dear; then the shares decide
        ({"shares": (0.5, 0.0, 0.5, 0.0)}, 0, 5),  # no bracket that may spend nothing
    ],
)
def test_the_first_trials_pass_the_lowest_rungs_unjudged(make, options, first, count):
    """Whether these tell anything is known from eight trials on that they did not choose."""
    _, jobs = play(make(trials=40, **options), noisy(0), workers=4)
    begun = {trial: bracket for trial, bracket, _ in reversed(jobs)}
    assert [begun[trial] for trial in range(count)] == [first] * count
    assert 0 in begun.values()


@given(seed=st.integers(0, 10**6), workers=st.integers(1, 8), trials=st.integers(1, 60))
def test_a_rung_promotes_no_more_than_its_quota(make, seed, workers, trials):
    plan = make(trials=trials)
    run, jobs = play(plan, noisy(seed), workers)
    state = SweepState()
    for event in run.events:
        state.apply(event)
        for key, promoted in state.promoted.items():
            last = any(state.trials[n].stop_step == plan.steps for n in promoted)
            assert len(promoted) <= len(state.ladders[key]) // plan.eta + last
    assert {trial for trial, _, _ in jobs} == set(range(trials))
    for rung, step in enumerate(plan.rungs):
        for bracket in range(len(plan.levels)):
            judged = set(state.ladders.get((bracket, step), ()))
            passing = {n for n in state.rungs.get(step, ()) if state.trials[n].bracket == bracket}
            assert judged == (passing if bracket <= rung else set())


@pytest.mark.parametrize("shares", [(), (0.25, 0.25, 0.25, 0.25), (0.0, 0.7, 0.3, 0.0)])
def test_every_bracket_has_its_share_of_the_steps(make, shares):
    plan = make(trials=400, shares=shares)
    state = play(plan, noisy(3, share=0.1), workers=4)[0].state
    total = sum(state.steps.values())
    expected = shares or (1 / 2, 1 / 6, 1 / 6, 1 / 6)
    for bracket, share in enumerate(expected):
        # A new trial of a bracket is promoted as far as the end; eta^rungs of it make one.
        assert abs(state.steps.get(bracket, 0) - share * total) < 4 * plan.steps
    assert total == sum(trial.step for trial in state.trials.values())


def test_the_highest_rung_is_served_first(make):
    plan = make(trials=200)
    run, _ = play(plan, noisy(5), workers=3)
    state = SweepState()
    for event in run.events:
        if event["event"] == "handed_out":
            known = state.trials.get(event["trial"])
            begin = known.step if known else 0
            for rung, step in enumerate(plan.rungs):
                for bracket in range(rung + 1):
                    judged = state.ladders.get((bracket, step), {})
                    waits = any(
                        state.trials[n].status == "paused" and state.trials[n].step == step
                        for n in judged
                    )
                    promoted = len(state.promoted.get((bracket, step), ()))
                    if waits and len(judged) // plan.eta > promoted:
                        assert begin >= step
        state.apply(event)


def test_where_trials_may_not_wait_they_are_stopped(make):
    plan = make(trials=12, shares=FIRST_ALONE, pausing=False)
    values = [5, 4, 6, 9, 3, 9, 1, 8, 7, 7.5, 0, 5]
    run, jobs = play(plan, lambda trial, step: float(values[trial]))
    assert all(stop == plan.steps for _, _, stop in jobs)
    assert len(jobs) == 12
    state = run.state
    passed = sorted(state.promoted[(0, 10)])
    # ceil(n / 3) may pass in all, each in the best ceil(n / 3) of the n: the first; of four the
    # last is the worst, of five the best; then of seven; of ten the last is the seventh.
    assert passed == [0, 4, 6, 10]
    assert state.trials[1].reason == (
        "brackets: place 1 of the last 2 at step 10, 1 of 1 have passed"
    )


@given(seed=st.integers(0, 10**6), workers=st.integers(1, 6), trials=st.integers(1, 40))
@settings(max_examples=min(20, settings.default.max_examples))
def test_stopped_trials_keep_the_quota_too(make, seed, workers, trials):
    plan = make(trials=trials, pausing=False)
    state = play(plan, noisy(seed), workers)[0].state
    for (bracket, step), judged in state.ladders.items():
        passed = state.promoted.get((bracket, step), set())
        assert 1 <= len(passed) <= -(-len(judged) // plan.eta)
    assert not state.with_status("paused")


@pytest.mark.parametrize("trials", [1, 2, 5, 9, 16])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_sweep_ends_with_its_best_trained_to_the_end(make, trials, workers):
    plan = make(trials=trials, shares=FIRST_ALONE)
    run, jobs = play(plan, noisy(trials), workers)
    state = run.state
    (best,) = state.rungs[plan.steps]
    *before, last = jobs
    assert last == (best, 0, plan.steps)
    highest = max(stop for _, _, stop in before)
    assert best == min(state.rungs[highest], key=lambda n: state.observed(n, highest)[METRIC])


def test_a_budget_ends_it_before(make):
    run, _ = play(make(trials=10**4, budget=6.0), noisy(1), workers=2)
    steps = sum(trial.step for trial in run.state.trials.values())
    assert 6 * 270 <= steps < 6 * 270 + 2 * 270


def test_shares_are_checked(make):
    for shares, word in [
        ((0.5, 0.5), "one share each"),
        ((0.5, 0.6, -0.1, 0.0), "sum to 1"),
        ((math.nan, 1.0, 0.0, 0.0), "sum to 1"),
    ]:
        with pytest.raises(SettingsError, match=word):
            load_scheduler(make(shares=shares))


def test_without_rungs_it_trains_everything_to_the_end(make):
    plan = make(trials=3, grace=0, last_change=265)
    assert plan.rungs == ()
    run, jobs = play(plan, noisy(0))
    assert [stop for _, _, stop in jobs] == [270] * 3
    assert len(run.state.with_status("complete")) == 3
