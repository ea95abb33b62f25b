"""Every scheduler: its rule against examples by hand."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.decider import Decider
from search.jobs import Done, Job, Wait
from search.objectives import Constraint, Goal, Objective
from search.options import SCHEDULERS
from search.rule import load_scheduler
from search.schedulers.pasha import overtaking_distances
from search.simulator import simulate
from search_spaces.space import Point
from settings.schema import SettingsError

METRIC = "val.error"
PROMOTING = ("asha_promotion", "pasha", "halving")
POINT = Point("document", {"x": 0.0, "y": 0.0})


def play(plan, value, workers=1):
    """(trial, stop_step) of every segment, in the order in which they are handed out."""

    def observe(job, step):
        seen = value(job.trial, step)
        return seen if isinstance(seen, dict) else {METRIC: seen}

    def draw(plan, state, trial, bracket):
        return {"x": 0.0, "y": 0.0}

    run = simulate(plan, observe, workers=workers, draw=draw)
    jobs = [event for event in run.events if event["event"] == "handed_out"]
    return [(job["trial"], job["stop_step"]) for job in jobs], run.state


def by_trial(values):
    return lambda trial, step: values[trial]


@pytest.fixture(scope="module")
def make(make_plan):
    """Levels 10, 20, 40, 80 unless options say otherwise."""

    def made(scheduler, **options):
        defaults = {"steps": 80, "grace": 10, "eta": 2}
        return make_plan(scheduler=scheduler, **(defaults | options))

    return made


def test_every_name_has_its_class(make):
    for name, spelled in SCHEDULERS.items():
        module, _, attribute = spelled.partition(":")
        made = load_scheduler(make(name, trials=8))
        assert (type(made).__module__, type(made).__name__) == (module, attribute)


@pytest.mark.parametrize("name", PROMOTING)
def test_who_promotes_needs_trials_that_may_wait(make, name):
    with pytest.raises(SettingsError, match=rf"{name} lets a trial wait.*asha, .*brackets"):
        load_scheduler(make(name, pausing=False))


# Asynchronous halving that promotes


def test_asha_promotes_the_best_of_a_rung(make):
    jobs, state = play(make("asha_promotion", trials=4), by_trial([4.0, 3.0, 2.0, 1.0]))
    assert jobs == [
        *[(0, 10), (1, 10), (1, 20)],  # one of two
        *[(2, 10), (2, 20), (2, 40)],  # the first of three at 10, of two at 20
        *[(3, 10), (3, 20), (3, 40), (3, 80)],  # one of two at 40
    ]
    assert [state.trials[n].status for n in range(4)] == ["paused"] * 3 + ["complete"]


def test_asha_keeps_the_places_of_those_that_have_gone_on(make):
    jobs, _ = play(make("asha_promotion", trials=5, grace=40), by_trial([2.0, 1.0, 4.0, 5.0, 3.0]))
    assert jobs == [(0, 40), (1, 40), (1, 80), (2, 40), (3, 40), (0, 80), (4, 40)]


def test_documented_points_take_places_and_run_to_their_end(make):
    plan = make("asha_promotion", trials=5, points=(POINT,), grace=40)
    jobs, state = play(plan, by_trial([0.0, 4.0, 3.0, 2.0, 1.0]))
    # the best of 2 and of 3 is the point; the best two of 4 are the point and trial 3, and so on
    assert jobs == [(0, 80), (1, 40), (2, 40), (3, 40), (3, 80), (4, 40), (4, 80)]
    assert state.trials[0].status == "complete"


@pytest.mark.parametrize("name", PROMOTING)
def test_the_best_is_trained_to_the_end_where_quotas_promote_none(make, name):
    plan = make(name, trials=3, eta=4)  # levels 10, 40, 80
    jobs, _ = play(plan, by_trial([3.0, 1.0, 2.0]))
    assert [job for job in jobs if job[1] == 80] == [(1, 80)]
    plan = make(name, trials=4, eta=4, points=(POINT,))
    jobs, _ = play(plan, by_trial([0.0, 3.0, 1.0, 2.0]))
    assert [job for job in jobs if job[1] == 80] == [(0, 80), (2, 80)]


@pytest.mark.parametrize("name", PROMOTING)
def test_the_next_best_follows_where_the_end_is_not_finite(make, name):
    def value(trial, step):
        return math.nan if (trial, step) == (0, 80) else float(trial)

    jobs, _ = play(make(name, trials=4, eta=4, grace=40), value)
    assert jobs[4:] == [(0, 80), (1, 80)]


@pytest.mark.parametrize(
    ("name", "options"), [("asha_promotion", {}), ("brackets", {"shares": (1.0, 0.0, 0.0, 0.0)})]
)
def test_the_highest_rung_is_served_first(make, name, options):
    decider = Decider(make(name, trials=6, **options), lambda event, **fields: None)
    new = [hand_out(decider) for _ in range(6)]
    end(decider, new[0], 10, 6.0)
    end(decider, new[1], 10, 5.0)
    second = hand_out(decider)
    end(decider, new[2], 10, 4.0)
    end(decider, new[3], 10, 3.0)
    fourth = hand_out(decider)
    assert [(job.trial, job.stop_step) for job in (second, fourth)] == [(1, 20), (3, 20)]
    for job, step, value in ((second, 20, 5.0), (fourth, 20, 3.0), (new[4], 10, 2.0)):
        end(decider, job, step, value)
    end(decider, new[5], 10, 1.0)
    both = [hand_out(decider) for _ in range(2)]
    assert [(job.trial, job.stop_step) for job in both] == [(3, 40), (5, 20)]


@pytest.mark.parametrize("name", ("asha_promotion", "halving", "brackets"))
def test_what_is_not_finite_is_never_promoted(make, name):
    values = [math.nan, math.inf, 5.0, -math.inf, math.nan, 6.0, math.nan, math.nan]
    shares = {"shares": (1.0, 0.0, 0.0, 0.0)} if name == "brackets" else {}
    jobs, _ = play(make(name, trials=8, **shares), by_trial(values))
    assert {trial for trial, stop in jobs if stop > 10} == {2, 5}
    jobs, _ = play(make(name, trials=8, **shares), by_trial([math.nan] * 8))
    assert jobs == [(trial, 10) for trial in range(8)]


def test_larger_is_better_where_the_mode_says_so(make):
    jobs, _ = play(make("halving", trials=8, mode="max"), by_trial([3, 8, 1, 7, 2, 6, 4, 5]))
    assert jobs[8:] == [(1, 20), (3, 20), (5, 20), (7, 20), (1, 40), (3, 40), (1, 80)]


def test_constraints_come_before_the_objective(make):
    goal = Goal((Objective(METRIC, "min"),), (Constraint.parse("val.size<=0.5"),))

    def value(trial, step):
        return {METRIC: [1.0, 2.0, 3.0, 4.0][trial], "val.size": [0.9, 0.6, 0.5, math.nan][trial]}

    jobs, _ = play(make("halving", trials=4, grace=20, goal=goal), value)
    # trial 2 keeps the bound, trial 1 misses it by less than trial 0, 3 has no value
    assert jobs[4:] == [(2, 40), (1, 40), (2, 80)]


@pytest.mark.parametrize("name", ("asha_promotion", "halving", "brackets"))
def test_what_is_not_finite_takes_no_place(make, name):
    """Although it keeps the constraint, which none of the others does."""
    goal = Goal((Objective(METRIC, "min"),), (Constraint.parse("val.size<=0.5"),))
    shares = {"shares": (1.0, 0.0)} if name == "brackets" else {}

    def value(trial, step):
        return {METRIC: float(trial) if trial else math.nan, "val.size": 0.9 if trial else 0.0}

    jobs, _ = play(make(name, trials=4, grace=40, goal=goal, **shares), value)
    assert {trial for trial, stop in jobs if stop == 80} == {1, 2}


def test_several_objectives_promote_the_front(make):
    goal = Goal((Objective("a", "min"), Objective("b", "max")))
    pairs = [(1, 1), (2, 5), (2, 1), (3, 5), (4, 9), (5, 5), (math.nan, 9), (5, 9)]

    def value(trial, step):
        return {"a": pairs[trial][0], "b": pairs[trial][1]}

    jobs, _ = play(make("halving", trials=8, goal=goal), value)
    # the front is 0, 1, 4; behind it 2, 3, 7 in which only the ends matter
    promoted = [trial for trial, stop in jobs if stop == 20]
    assert set(promoted[:3]) == {0, 1, 4}
    assert promoted[3] in (2, 7)


# Successive halving


def test_halving_takes_the_better_half_of_a_wave(make):
    jobs, state = play(make("halving", trials=8), by_trial([8, 1, 7, 2, 6, 3, 5, 4]))
    assert jobs[:8] == [(trial, 10) for trial in range(8)]
    assert jobs[8:] == [(1, 20), (3, 20), (5, 20), (7, 20), (1, 40), (3, 40), (1, 80)]
    assert len(state.with_status("paused")) == 7


@pytest.mark.parametrize(("trials", "waves"), [(7, [7]), (15, [15]), (17, [8, 9]), (24, [8] * 3)])
def test_waves_are_of_one_size_and_large_enough(make, trials, waves):
    plan = make("halving", trials=trials)
    assert np.diff(load_scheduler(plan).bounds).tolist() == waves
    points = make("halving", trials=trials + 1, points=(POINT,))
    assert load_scheduler(points).bounds == load_scheduler(plan).bounds


@pytest.mark.parametrize("workers", [1, 3, 5])
def test_a_wave_is_promoted_when_all_of_it_are_there(make, workers):
    plan = make("halving", trials=17)
    values = random.Random(4).sample(range(100), 17)
    jobs, state = play(plan, by_trial(values), workers=workers)
    for wave, quotas in ((range(8), (4, 2, 1)), (range(8, 17), (4, 2, 1))):
        ranked = sorted(wave, key=values.__getitem__)
        for quota, step in zip(quotas, (20, 40, 80), strict=True):
            assert {n for n, stop in jobs if stop == step and n in wave} == set(ranked[:quota])
    first = next(index for index, job in enumerate(jobs) if job[1] == 20)
    assert {trial for trial, _ in jobs[:first]} >= set(range(8))
    assert len(state.rungs[80]) == 2


def test_a_wave_does_not_wait_for_those_that_have_ended(make):
    plan = make("halving", trials=8, max_failures=0)
    decider = Decider(plan, lambda event, **fields: None)
    jobs = [hand_out(decider) for _ in range(8)]
    for job in jobs[:6]:
        end(decider, job, 10, float(job.trial))
    decider.ended(jobs[6], 0, {}, state="failed")
    assert decider.next() == Wait((7,))
    decider.ended(jobs[7], 5, {METRIC: -1.0}, reason="health: gradient_norm 73 > 50 at step 5")
    for trial, stop in [(0, 20), (1, 20), (2, 20), (3, 20)]:
        job = hand_out(decider)
        assert (job.trial, job.stop_step) == (trial, stop)


def hand_out(decider):
    job = decider.next()
    assert isinstance(job, Job)
    decider.hand_out(job)
    return job


def end(decider, job, step, value):
    reason = decider.reported(job, step, {METRIC: value})
    decider.ended(job, step, {METRIC: value}, reason=reason)
    return reason


def test_one_that_has_stopped_improving_keeps_its_place(make):
    plan = make("asha_promotion", trials=4, grace=40)
    decider = Decider(plan, lambda event, **fields: None)
    decider.ended(hand_out(decider), 10, {METRIC: 0.0}, reason="patience: 3 validations")
    end(decider, hand_out(decider), 40, 1.0)
    assert hand_out(decider).trial == 2  # one of two is the first, which keeps its value
    assert decider.state.rungs[40].keys() == {0, 1}


def test_one_that_has_stopped_improving_competes_on_in_its_wave(make):
    decider = Decider(make("halving", trials=4, grace=20), lambda event, **fields: None)
    jobs = [hand_out(decider) for _ in range(4)]
    decider.ended(jobs[0], 10, {METRIC: 0.0}, reason="patience: 3 validations")
    for job in jobs[1:]:
        end(decider, job, 20, float(job.trial))
    second = hand_out(decider)
    assert (second.trial, second.stop_step) == (1, 40)  # the other place is trial 0's
    end(decider, second, 40, 1.0)
    assert decider.next() == Done()  # of the two at 40 the first is trial 0


# PASHA


def test_pasha_stays_below_while_the_rungs_agree(make):
    values = random.Random(1).sample(range(100), 32)
    jobs, _ = play(make("pasha", trials=32), by_trial(values))
    assert {stop for _, stop in jobs[:-1]} == {10, 20}
    assert jobs[-1] == (values.index(min(values)), 80)


def test_pasha_opens_a_level_where_the_rungs_disagree(make):
    def value(trial, step):
        # of 4, 3, 2, 1, 0 at 10 the later two of those at 20 change their order there
        return 4.0 - trial if step == 10 or trial < 3 else 4.0 + trial

    jobs, _ = play(make("pasha", trials=4), value)
    # 1 and 2 agree at 20, so neither goes beyond; 3 was the best at 10 and is the worst at 20
    assert jobs[:6] == [(0, 10), (1, 10), (1, 20), (2, 10), (2, 20), (3, 10)]
    assert jobs[6:8] == [(3, 20), (2, 40)]
    agree, _ = play(make("pasha", trials=4), by_trial([4.0, 3.0, 2.0, 1.0]))
    assert agree[6:] == [(3, 20), (3, 80)]


@pytest.mark.parametrize(("noise", "opens"), [(0.5, False), (1.5, True)])
def test_pasha_has_no_order_within_epsilon(make, noise, opens):
    """Two documented points overtake each other at every level, 1 apart: epsilon is 1."""
    points = {0: {10: 100, 20: 101, 40: 100, 80: 101}, 1: {10: 101, 20: 100, 40: 101, 80: 100}}

    def value(trial, step):
        if trial in points:
            return points[trial][step]
        if trial == 3:
            return 2.0 + noise if step == 10 else 1.0
        return {2: 9.0, 4: 2.0, 5: 8.0}[trial]

    plan = make("pasha", trials=6, points=(POINT, POINT))
    state = play(plan, value)[1]
    assert set(state.rungs[20]) >= {0, 1, 3, 4}
    assert (load_scheduler(plan).highest(state) > 1) == opens


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(0, 12))
def test_overtaking_distances_against_pairs_one_by_one(seed, levels, rows):
    rng = random.Random(seed)
    table = [
        [rng.choice([0.0, 1.0, 2.0, 3.0, math.nan]) for _ in range(levels)] for _ in range(rows)
    ]
    expected = []
    for one, other in itertools.combinations(table, 2):
        pairs = [(a, b) for a, b in zip(one, other, strict=True) if not math.isnan(a + b)]
        order = [a < b for a, b in pairs if a != b]
        if sum(x != y for x, y in itertools.pairwise(order)) >= 2:
            expected.append(abs(pairs[-1][0] - pairs[-1][1]))
    found = overtaking_distances(np.array(table).reshape(rows, levels))
    assert sorted(found) == sorted(expected)


# The median rule


def test_the_median_rule_by_hand(make):
    # averages up to step 20: 2, 3, 4; up to 40: 2, 3
    curves = {0: [1, 3, 2], 1: [4, 2, 3], 2: [4, 4, 9], 3: [9, 3, 9], 4: [1, 9, 1], 5: [5, 4, 0]}

    def value(trial, step):
        return float(curves[trial][(10, 20, 40, 80).index(step)] if step < 80 else 0)

    jobs, state = play(make("median", trials=6), value)
    assert jobs == [(trial, 80) for trial in range(6)]
    ends = {n: (trial.status, trial.step) for n, trial in state.trials.items()}
    assert ends == {
        **dict.fromkeys((0, 1, 2), ("complete", 80)),  # fewer than three others
        3: ("stopped", 10),  # 9 is worse than 1, 4, 4
        4: ("complete", 80),  # its best, 1, is better than all averages at 20 (2, 3, 4)
        5: ("stopped", 10),  # 5 is worse than four of 1, 4, 4, 9, 1
    }
    assert state.trials[3].reason == "median: 3 of 3 were better on average up to step 10"


def test_the_median_rule_compares_its_best_with_averages(make):
    curves = [[1, 9], [1, 9], [1, 9], [4, 8], [4, 8]]
    plan = make("median", trials=5, rung_steps=(10, 20))

    def value(trial, step):
        return float(curves[trial][0 if step == 10 else 1])

    state = play(plan, value)[1]
    assert state.trials[3].step == 10  # at 10: 4 against 1, 1, 1
    even = [[1, 9], [1, 9], [5, 9], [3, 8], [3, 8]]
    curves[:] = even
    state = play(plan, value)[1]
    # at 10 two of three, then two of four are better; at 20 the averages are 5, 5, 7, its best 3
    assert [state.trials[n].step for n in (3, 4)] == [10, 80]
