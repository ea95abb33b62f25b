"""Schedulers compared on logged curves: which curves count, and what comes out of them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from search.curves import Curve, Workload
from search.objectives import Constraint, Goal, Objective
from settings.schema import SettingsError
from settings.stop_reasons import HEALTH, PATIENCE

GOAL = Goal((Objective("val.error", "min"),))


def curve(trial, final, steps=90, step_seconds=1.0, ended=None):
    """Falls towards its final value; the order of any two is the same at every step."""
    reported = range(10, steps + 1, 10)
    values = {step: {"val.error": final + 90.0 * final / step} for step in reported}
    return Curve(trial, values, step_seconds, ended)


def workload(curves, goal=GOAL, **options):
    return Workload.of(curves, goal, 90, 10, **options)


@pytest.fixture
def curves():
    return [curve(trial, final=1.0 + (trial * 7) % 10) for trial in range(10)]


def test_trials_that_were_stopped_are_left_out_and_counted(curves):
    short = [curve(10, 0.1, steps=30), Curve(11, {}, 0.0)]
    made = workload([*curves, *short])
    assert ([c.trial for c in made.curves], made.left_out) == (list(range(10)), 2)
    with pytest.raises(
        SettingsError, match="none of the 2 logged trials has reports up to step 90"
    ):
        workload(short)


def test_a_trial_that_ended_by_itself_is_whole(curves):
    """Patience: its last value is its result. Ill health: it is none, however good it looked."""
    tired = curve(10, 0.2, steps=40, ended=(40, f"{PATIENCE}val.error"))
    ill = curve(11, 0.1, steps=40, ended=(40, f"{HEALTH}ill 2 > 1"))
    made = workload([*curves, tired, ill])
    assert made.left_out == 0
    assert made.best == tired.values[40]["val.error"]
    outcome = made.outcome(made.run(made.plan("none"), workers=1))
    assert (outcome.trials, outcome.complete, outcome.regret) == (12, 11, 0.0)
    assert outcome.spent == pytest.approx((10 * 90 + 2 * 40) / 90)


def test_all_trials_to_their_end(curves):
    made = workload(curves, start_seconds=5.0)
    outcome = made.outcome(made.run(made.plan("none"), workers=2))
    assert (outcome.trials, outcome.complete, outcome.spent, outcome.regret) == (10, 10, 10.0, 0.0)
    assert outcome.hours == pytest.approx(5 * 95.0 / 3600.0)


def test_a_budget_leaves_the_later_trials_out(curves):
    """The logged order; finals are 1, 8, 5, 2, 9, ...: of the first three, 1 is best."""
    made = workload(curves[1:])
    outcome = made.outcome(made.run(made.plan("none", budget=3.0), workers=1))
    assert (outcome.trials, outcome.spent) == (3, 3.0)
    least_of_three = min(c.values[90]["val.error"] for c in curves[1:4])
    assert outcome.regret == pytest.approx(least_of_three - made.best)


@pytest.mark.parametrize("scheduler", ["brackets", "asha", "asha_promotion", "median"])
def test_where_curves_never_cross_schedulers_save_and_find_the_best(curves, scheduler):
    many = [curve(n, 1.0 + (n * 17) % 40) for n in range(40)]
    made = workload(many)
    outcome = made.outcome(made.run(made.plan(scheduler), workers=1))
    assert outcome.spent < 30.0
    assert outcome.regret <= 2.0 * 2  # among the best three of forty


def test_the_order_is_drawn_and_repeatable(curves):
    made = workload(curves)
    plan = made.plan("none")
    orders = [
        [t.sampled["curve"] for t in made.run(plan, 1, order).state.trials.values()]
        for order in (0, 1, 1)
    ]
    assert orders[0] == list(range(10))
    values = [
        [t.value for t in made.run(plan, 1, order).state.trials.values()] for order in (0, 1, 1, 2)
    ]
    assert values[0] == [c.values[90]["val.error"] for c in curves]
    assert values[1] == values[2] != values[3]
    assert sorted(values[1]) == sorted(values[0])


def test_documented_points_come_first_and_run_to_their_end(curves):
    """Trial 5 is one, and the worst but one at every rung; a rule may stop any other."""
    made = workload([replace(c, point="document" if c.trial == 5 else "") for c in curves])
    assert [c.trial for c in made.curves] == [5, 0, 1, 2, 3, 4, 6, 7, 8, 9]
    for order in range(4):
        state = made.run(made.plan("asha"), workers=1, order=order).state
        first = state.trials[0]
        assert (first.point, first.status, first.step) == ("document", "complete", 90)
        assert first.value == made.curves[0].values[90]["val.error"]
        assert sorted(t.sampled["curve"] for t in state.trials.values()) == list(range(10))


def test_how_much_a_rung_tells_is_spearmans_correlation(curves):
    from scipy.stats import spearmanr

    draws = random.Random(0)
    early = {c.trial: draws.random() for c in curves}
    point = {3: "document"}
    noisy = [
        replace(
            c,
            values={**c.values, 30: {"val.error": early[c.trial]}},
            point=point.get(c.trial, ""),
        )
        for c in curves
    ]
    made = workload([*noisy, curve(10, 0.2, steps=40, ended=(40, f"{PATIENCE}val.error"))])
    late = [c.values[90]["val.error"] for c in curves if c.trial != 3]
    known = spearmanr([early[c.trial] for c in curves if c.trial != 3], late).statistic
    assert made.agreement(30) == pytest.approx(known)
    assert made.agreement(40) == pytest.approx(1.0)
    assert math.isnan(workload(curves[:2]).agreement(30))


def test_a_constraint_goes_before_the_value(curves):
    goal = Goal(GOAL.objectives, (Constraint("val.broken", "<=", 0.0),))
    broken = [
        Curve(
            c.trial,
            {s: {**v, "val.broken": float(c.trial == 0)} for s, v in c.values.items()},
            1.0,
        )
        for c in curves
    ]
    made = workload(broken, goal)
    second = sorted(c.values[90]["val.error"] for c in curves)[1]
    assert made.best == second


def test_a_spent_budget_still_takes_one_trial_to_its_end(curves):
    made = workload(curves)
    outcome = made.outcome(made.run(made.plan("asha_promotion", budget=0.2), workers=1))
    assert (outcome.trials, outcome.complete) == (2, 1)
    assert outcome.regret < math.inf


def test_without_a_complete_trial_the_regret_is_infinite(curves):
    ill = Curve(0, curves[0].values, 1.0, (10, f"{HEALTH}term_share 0.95 > 0.9 at step 10"))
    made = workload([ill, *curves[1:]])
    outcome = made.outcome(made.run(made.plan("none", budget=0.1), workers=1))
    assert outcome.complete == 0
    assert outcome.regret == math.inf
