"""Which rungs a sweep listens to: those whose ranks agree with longer trainings, by trials that
they did not choose.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from search.objectives import Goal, Objective
from search.rung_agreement import PAIRS, rank_correlation, trusted_from
from search.simulator import simulate

RUNGS = (10, 30, 90)


def told(executor, make_plan, values, brackets, **options):
    """A log in which trial i of bracket b has a value at every level up to the b-th."""
    plan = make_plan(scheduler="brackets", steps=270, rung_steps=RUNGS, trials=100, **options)
    run = executor(plan)
    for number, (bracket, curve) in enumerate(zip(brackets, values, strict=True)):
        known = {"trial": number, "segment": 0}
        run.write(
            "handed_out", **known, sampled={"x": 0.0, "y": 0.0}, seed=number, bracket=bracket
        )
        for step, value in zip(plan.levels, curve, strict=False):
            seen = value if isinstance(value, dict) else {"val.error": value}
            run.write("rung", **known, step=step, values=seen)
    return plan, run.state


@settings(max_examples=2 * settings.default.max_examples)
@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_correlation_is_spearmans(pairs):
    one, other = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert rank_correlation(one, other) == 1.0
    else:
        assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)


@pytest.mark.parametrize(("sign", "trusted"), [(1.0, 0), (-1.0, 2)])
def test_rungs_that_contradict_a_long_training_are_passed_over(executor, make_plan, sign, trusted):
    """Two rungs that agree with each other are no witnesses for each other."""
    curves = [(sign * i, sign * i, float(i), float(i)) for i in range(PAIRS)]
    plan, state = told(executor, make_plan, curves, [3] * PAIRS)
    assert trusted_from(plan, state) == trusted


def test_a_rung_at_which_all_had_diverged_says_nothing(executor, make_plan):
    """Also with several objectives: the order of their numbers is no rank."""
    goal = Goal((Objective("val.error", "min"), Objective("val.size", "min")))
    diverged = {"val.error": None, "val.size": 1.0}
    values = [{"val.error": -float(i), "val.size": -float(i)} for i in range(PAIRS)]
    curves = [(diverged, value, value, value) for value in values]
    plan, state = told(executor, make_plan, curves, [3] * PAIRS, goal=goal)
    assert trusted_from(plan, state) == 0


def test_too_few_pairs_say_nothing(executor, make_plan):
    curves = [(-float(i), -float(i), float(i), float(i)) for i in range(PAIRS - 1)]
    plan, state = told(executor, make_plan, curves, [3] * (PAIRS - 1))
    assert trusted_from(plan, state) == 0


def test_trials_that_a_rung_has_chosen_are_no_witnesses(executor, make_plan):
    """Promoted ones: all were good at the rung, so their ranks there are noise."""
    curves = [(-float(i), -float(i), float(i), float(i)) for i in range(20)]
    plan, state = told(executor, make_plan, curves, [0] * 20)
    assert trusted_from(plan, state) == 0


def test_a_rung_is_heard_again_once_it_agrees(executor, make_plan):
    wrong = [(-float(i), -float(i), float(i), float(i)) for i in range(PAIRS)]
    plan, state = told(executor, make_plan, wrong, [3] * PAIRS)
    assert trusted_from(plan, state) == 2
    right = [(float(i), float(i), float(i), float(i)) for i in range(-40, 40)]
    plan, state = told(executor, make_plan, wrong + right, [3] * (PAIRS + 80))
    assert trusted_from(plan, state) == 0


def test_misleading_rungs_stop_promoting_and_the_search_finds_the_way(make_plan):
    """At the lowest rungs the worst looks best. Deaf to that, most steps go to long trials."""

    def observe(job, step):
        true = (job.sampled["x"] - 0.3) ** 2 + (job.sampled["y"] + 0.2) ** 2
        noise = np.random.default_rng((job.seed, step)).normal() * 0.01
        return {"val.error": true + noise if step >= 90 else -true + noise}

    plan = make_plan(
        scheduler="brackets",
        sampler="tpe",
        steps=270,
        rung_steps=RUNGS,
        trials=10_000,
        budget=30.0,
    )
    simulation = simulate(plan, observe, workers=2)
    state = simulation.state
    assert trusted_from(plan, state) == 2
    assert state.steps[0] + state.steps[1] < sum(state.steps.values()) / 2
    assert all(t.bracket >= 2 for t in list(state.trials.values())[-20:])
    complete = [t.value for t in state.trials.values() if t.status == "complete"]
    assert min(complete) < 0.05
