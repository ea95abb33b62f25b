"""Sweeps under a simulated clock: the clock, the decisions, and going on from any moment."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.jobs import Done, next_job
from search.simulator import simulate
from settings.stop_reasons import HEALTH, PATIENCE


def observe(job, step):
    """A quality that shows itself slowly."""
    return {"val.error": (job.sampled["x"] - 0.3) ** 2 + (job.trial % 7) / step}


def without_time(events):
    return [{k: v for k, v in event.items() if k not in ("time", "seconds")} for event in events]


def ended(simulation):
    return [event for event in simulation.events if event["event"] == "ended"]


class TestClock:
    def test_one_slot_takes_the_sum_of_all(self, make_plan):
        ran = simulate(
            make_plan(trials=5), observe, step_seconds=lambda job: 2.0, start_seconds=3.0
        )
        assert ran.seconds == 5 * (3.0 + 90 * 2.0)

    def test_slots_work_side_by_side(self, make_plan):
        """Six trials of 90, 180, ... seconds on three slots, each to the first that is free."""
        ran = simulate(
            make_plan(trials=6), observe, workers=3, step_seconds=lambda job: 1.0 + job.trial
        )
        ends = {event["trial"]: event["time"] for event in ended(ran)}
        assert ends == {0: 90.0, 1: 180.0, 2: 270.0, 3: 450.0, 4: 630.0, 5: 810.0}
        assert ran.seconds == 810.0

    def test_it_never_runs_backwards_and_slots_are_never_exceeded(self, make_plan):
        ran = simulate(make_plan(scheduler="brackets", trials=40), observe, workers=4)
        times = [event["time"] for event in ran.events]
        assert times == sorted(times)
        live, most = 0, 0
        for event in ran.events:
            live += {"handed_out": 1, "ended": -1}.get(event["event"], 0)
            most = max(most, live)
        assert (live, most) == (0, 4)

    def test_a_promotion_pays_for_its_start_and_the_steps_it_adds(self, make_plan):
        plan = make_plan(scheduler="brackets", trials=30)
        ran = simulate(plan, observe, step_seconds=lambda job: 0.5, start_seconds=4.0)
        segments = sum(event["event"] == "handed_out" for event in ran.events)
        assert segments > 30
        steps = sum(trial.step for trial in ran.state.trials.values())
        assert ran.seconds == pytest.approx(4.0 * segments + 0.5 * steps)
        assert sum(ran.state.steps.values()) == steps


class TestDecisions:
    def test_nothing_is_left_to_do(self, make_plan):
        plan = make_plan(scheduler="brackets", trials=30)
        ran = simulate(plan, observe, workers=3)
        assert ran.events[-1]["event"] == "finished"
        assert isinstance(next_job(plan, ran.state), Done)

    def test_a_budget_ends_it(self, make_plan):
        plan = make_plan(scheduler="brackets", trials=1000, budget=6.0)
        ran = simulate(plan, observe, workers=2)
        spent = sum(ran.state.steps.values()) / plan.steps
        assert 6.0 <= spent < 6.0 + 2  # what was running then is trained to its end

    @pytest.mark.parametrize(
        ("reason", "state"), [(f"{PATIENCE}slow", "complete"), (f"{HEALTH}ill 2 > 1", "stopped")]
    )
    def test_a_training_that_ends_by_itself(self, make_plan, reason, state):
        """At a step that is no rung. With patience its value holds where it did not come."""
        plan = make_plan(scheduler="asha", trials=8)
        own = {0: (25, reason)}
        ran = simulate(plan, observe, ends=lambda job: own.get(job.trial))
        (end,) = [event for event in ended(ran) if event["trial"] == 0]
        assert (end["state"], end["step"], end["reason"]) == (state, 25, reason)
        later = [rung for rung in plan.levels if rung > 25]
        held = [rung for rung in later if 0 in ran.state.rungs.get(rung, ())]
        assert held == (later if state == "complete" else [])

    def test_a_value_that_is_not_finite_is_the_worst(self, make_plan):
        plan = make_plan(scheduler="asha", trials=9)
        ran = simulate(plan, lambda job, step: {} if job.trial % 2 else {"val.error": 1.0})
        complete = [n for n, t in ran.state.trials.items() if t.status == "complete"]
        assert math.isnan(ran.state.trials[1].value)
        assert sum(number % 2 for number in complete) <= 1  # the first at a rung goes on always


@settings(max_examples=min(15, settings.default.max_examples))
@given(
    cut=st.integers(0, 10**6),
    scheduler=st.sampled_from(["brackets", "asha", "none"]),
    sampler=st.sampled_from(["random", "tpe"]),
)
def test_cut_anywhere_it_goes_on_to_the_same_end(make_plan, cut, scheduler, sampler):
    """One at a time. What ran at the cut is begun again; nothing is decided otherwise."""
    plan = make_plan(scheduler=scheduler, sampler=sampler, trials=12)
    whole = simulate(plan, observe)
    kept = whole.events[: 1 + cut % (len(whole.events) - 1)]
    again = simulate(plan, observe, events=kept)
    assert [t.sampled for t in again.state.trials.values()] == [
        t.sampled for t in whole.state.trials.values()
    ]
    facts = ("status", "step", "value", "rungs", "bracket", "seed")
    for number, trial in whole.state.trials.items():
        for fact in facts:
            assert getattr(again.state.trials[number], fact) == getattr(trial, fact)
    assert again.state.steps == whole.state.steps


def test_the_same_plan_gives_the_same_log(make_plan):
    plan = make_plan(scheduler="brackets", sampler="tpe", trials=25)
    first, second = (simulate(plan, observe, workers=3) for _ in range(2))
    assert without_time(first.events) == without_time(second.events)
