"""A training that reaches its end without a value of the objective has failed, for good."""

from __future__ import annotations

import math
from random import Random

import pytest

from search.log import SweepState
from search.objectives import Constraint, Goal, Objective
from search.samplers.ask import rows_at
from search.simulator import simulate
from settings.stop_reasons import NO_OBJECTIVE, PATIENCE, HealthStop

OPTIONS = {"trials": 6, "max_failures": 3, "seed": 1}
BLIND = 2
"""The trial whose objective is never finite."""

ONE = {"val.error": 1.0, "val.rate": 1.0}


def without(*columns):
    """All values of all trials, but for these columns of one trial, which are not finite."""

    def observe(job, step):
        return {k: v for k, v in ONE.items() if job.trial != BLIND or k not in columns}

    return observe


def ending(step, reason):
    return lambda job: (step, reason) if job.trial == BLIND else None


def end_of(found):
    """The events that end the blind trial."""
    return [e for e in found.events if e["event"] == "ended" and e["trial"] == BLIND]


@pytest.mark.parametrize("value", [{}, {"val.error": math.nan}, {"val.error": math.inf}])
def test_it_has_failed_and_says_of_what_where_and_the_way_out(make_plan, value):
    plan = make_plan(**OPTIONS)
    found = simulate(plan, lambda job, step: value if job.trial == BLIND else ONE)
    (end,) = end_of(found)
    assert (end["state"], end["step"], end["value"], end["holds"]) == ("failed", 90, None, [])
    assert end["reason"] == (
        "no objective: no finite value of val.error at step 90, where the training ended, and the "
        "same settings and seed end there again. Its reports say since when: change what leads "
        "there (often a learning rate that is too high)"
    )
    states = [trial.status for trial in found.state.trials.values()]
    assert sorted(states) == ["complete"] * 5 + ["failed"]
    assert found.state.finished


def test_it_is_not_run_again_also_after_a_resume_that_allows_more_failures(make_plan):
    found = simulate(make_plan(**OPTIONS), without("val.error"))
    plan = make_plan(**{**OPTIONS, "max_failures": 9, "trials": 8})
    more = simulate(plan, lambda job, step: ONE, events=found.events)
    handed = [e["trial"] for e in more.events if e["event"] == "handed_out"]
    assert handed == list(range(8))
    trial = more.state.trials[BLIND]
    assert trial.has_failed(9) and trial.is_final(9) and trial.failures == 1


@pytest.mark.parametrize("max_failures", [0, 3])
@pytest.mark.parametrize("step", [7, 10, 25])
def test_patience_ends_no_better_and_it_is_charged_what_it_trained(make_plan, step, max_failures):
    """The first rung, which other failures cost at least, is 30."""
    options = {**OPTIONS, "trials": BLIND + 1, "max_failures": max_failures}
    plan = make_plan(scheduler="brackets", rung_steps=(30,), **options)
    reason = f"{PATIENCE}val.error has never had a value, 3 validations ago"
    found = simulate(plan, without("val.error"), ends=ending(step, reason))
    (end,) = end_of(found)
    assert end["state"] == "failed" and end["reason"].startswith(NO_OBJECTIVE)
    assert f"at step {step}, " in end["reason"]
    spent = sum(trial.step for trial in found.state.trials.values())
    assert sum(found.state.steps.values()) == spent


def test_who_was_ill_stays_stopped(make_plan):
    reason = str(HealthStop("gradient_norm_high", 73.2, 50.0, 90))
    found = simulate(make_plan(**OPTIONS), without("val.error"), ends=ending(90, reason))
    (end,) = end_of(found)
    assert (end["state"], end["reason"]) == ("stopped", reason)


def test_each_objective_counts_and_constraints_do_not(make_plan):
    """Without a constraint's value it is infeasible, and complete."""
    both = Goal((Objective("val.error", "min"), Objective("val.rate", "min")))
    found = simulate(make_plan(goal=both, **OPTIONS), without("val.rate"))
    (end,) = end_of(found)
    assert end["state"] == "failed" and "no finite value of val.rate at" in end["reason"]
    found = simulate(make_plan(goal=both, **OPTIONS), without(*ONE))
    assert "no finite value of val.error, val.rate at" in end_of(found)[0]["reason"]
    bound = Goal((Objective("val.error", "min"),), (Constraint("val.rate", "<=", 2.0),))
    found = simulate(make_plan(goal=bound, **OPTIONS), without("val.rate"))
    assert end_of(found)[0]["state"] == "complete"


def test_at_a_rung_it_may_lack_a_value(make_plan):
    """It ranks last there, and waits as any other."""
    plan = make_plan(scheduler="brackets", rung_steps=(10, 30), **OPTIONS)
    found = simulate(plan, without("val.error"))
    assert {end["state"] for end in end_of(found)} == {"paused"}


def test_samplers_are_told_that_it_was_ill(make_plan):
    plan = make_plan(scheduler="asha", rung_steps=(10,), **OPTIONS)
    late = simulate(plan, lambda job, step: {} if job.trial == BLIND and step > 10 else ONE)
    assert late.state.trials[BLIND].rungs == {10: {"val.error": 1.0}}, "good until then"
    for step in plan.levels:
        told = {row.number: row.values for row in rows_at(plan, late.state, step, Random(0))}
        assert told[BLIND] == {}


def test_a_sweep_of_nothing_else_ends(make_plan):
    plan = make_plan(trials=400, max_failed_share=0.5, seed=1)
    found = simulate(plan, lambda job, step: {})
    assert found.reason == "20 of 20 trials failed"


def test_the_log_of_the_version_before_reads_as_it_did(make_plan):
    """There it was complete, without a value."""
    events = simulate(make_plan(**OPTIONS), without("val.error")).events
    before = [
        {**e, "state": "complete", "reason": ""} if e["event"] == "ended" else e for e in events
    ]
    trial = SweepState(before).trials[BLIND]
    assert (trial.status, trial.failures) == ("complete", 0)
    assert math.isnan(trial.value) and trial.is_final(0) and not trial.has_failed(0)


def test_a_sweep_killed_before_its_end_is_written_says_the_same(make_plan):
    plan = make_plan(**OPTIONS)
    whole = simulate(plan, without("val.error"))
    cut = whole.events.index(end_of(whole)[0])
    rest = simulate(plan, without("val.error"), events=whole.events[:cut])
    ends = {n: (t.status, t.reason, t.step) for n, t in whole.state.trials.items()}
    assert {n: (t.status, t.reason, t.step) for n, t in rest.state.trials.items()} == ends
