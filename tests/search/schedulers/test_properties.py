"""Every scheduler, whatever happens to its trials: reports in any order, crashes, failures, ill
health.
"""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.decider import Decider
from search.jobs import Done, Job, next_job
from search.log import SweepState
from search.rule import load_scheduler
from search_spaces.space import Point

METRIC = "val.error"
PROMOTING = ("asha_promotion", "pasha", "halving")


@pytest.fixture(scope="module")
def make(make_plan):
    return lambda name, **options: make_plan(scheduler=name, steps=80, grace=10, **options)


class Chaos:
    """Runs a plan as a bad cluster would: reports in any order, crashes, failures, ill health."""

    def __init__(self, plan, seed, trouble=True):
        self.plan, self.rng, self.log = plan, random.Random(seed), []
        self.trouble, self.decisions, self.promotions, self.running = trouble, [], [], {}
        self.decider = Decider(plan, self.append)

    def append(self, event, **fields):
        self.log.append({"event": event, **fields})

    def hand_out(self):
        job = self.decider.next()
        self.decisions.append((len(self.log), job))
        if isinstance(job, Job):
            known = self.decider.state.trials.get(job.trial)
            paused = known is not None and known.status == "paused"
            done = known.step if paused else 0
            if paused:
                self.promotions.append((job.trial, done, job.stop_step))
            self.decider.hand_out(job)
            self.running[job.trial] = (job, done)
        return isinstance(job, Job)

    def value(self, trial, step):
        quality = random.Random(f"{trial}").random()
        noisy = quality + random.Random(f"{trial} {step}").random()
        return math.nan if quality < 0.1 else noisy

    def report(self, trial):
        job, step = self.running[trial]
        step = min(step + self.plan.report_every, job.stop_step)
        values = {METRIC: self.value(trial, step)}
        chance = self.rng.random() if self.trouble else 1.0
        if chance < 0.03:
            del self.running[trial]
            self.decider.ended(job, step, {}, state="failed")
            return
        reason = self.decider.reported(job, step, values)
        if chance < 0.05:
            reason = "health: gradient_norm 73 > 50"
        self.running[trial] = (job, step)
        if reason or step >= job.stop_step:
            del self.running[trial]
            self.decider.ended(job, step, values, reason=reason)

    def run(self):
        workers = self.rng.randint(1, 5)
        while True:
            while len(self.running) < workers and self.hand_out():
                pass
            if not self.running:
                return self.decider.state
            if self.trouble and self.rng.random() < 0.01:
                self.running = {}
                self.decider.record("resumed")
                continue
            self.report(self.rng.choice(sorted(self.running)))


ALL = [
    ("none", {}),
    ("asha", {}),
    ("median", {}),
    ("brackets", {}),
    ("brackets", {"pausing": False}),
    *[(name, {}) for name in PROMOTING],
]


@pytest.mark.parametrize(("name", "options"), ALL)
@given(seed=st.integers(0, 10**6), trials=st.integers(1, 14), eta=st.integers(2, 3))
@settings(max_examples=min(15, settings.default.max_examples))
def test_nothing_is_lost_or_run_twice_and_the_log_decides(make, name, options, seed, trials, eta):
    plan = make(
        name, trials=trials, eta=eta, points=(Point("document", {"x": 0.0, "y": 0.0}),), **options
    )
    chaos = Chaos(plan, seed)
    state = chaos.run()
    assert isinstance(chaos.decisions[-1][1], Done)
    assert sorted(state.trials) == list(range(trials))
    for trial in state.trials.values():
        assert trial.status == "paused" or trial.is_final(plan.max_failures)
        assert trial.status != "complete" or trial.step == plan.steps
    last = {}
    for event in chaos.log:
        if event["event"] == "handed_out":
            assert event["segment"] == last.get(event["trial"], -1) + 1
            last[event["trial"]] = event["segment"]
    for length, job in random.Random(seed).sample(chaos.decisions, min(len(chaos.decisions), 12)):
        assert next_job(plan, SweepState(chaos.log[:length])) == job
    again = [index for index, event in enumerate(chaos.log) if event["event"] == "rung"]
    for index in random.Random(seed).sample(again, min(len(again), 12)):
        event, before = chaos.log[index], SweepState(chaos.log[:index])
        values = {key: x for key, x in event["values"].items() if x is not None}
        trial = before.trials[event["trial"]]
        verdict = load_scheduler(plan).verdict(before, trial, event["step"], values)
        assert event["passed"] == (verdict.passed or trial.point is not None)


@pytest.mark.parametrize("name", [*PROMOTING, "brackets"])
@given(seed=st.integers(0, 10**6), trials=st.integers(1, 14))
@settings(max_examples=min(15, settings.default.max_examples))
def test_a_sweep_ends_with_its_answer_trained_to_the_end(make, name, seed, trials):
    plan = make(name, trials=trials)
    state = Chaos(plan, seed).run()
    complete = [n for n in state.with_status("complete") if math.isfinite(state.trials[n].value)]
    waiting = [n for n in state.with_status("paused") if math.isfinite(state.trials[n].value)]
    assert complete or not waiting


@given(seed=st.integers(0, 10**6), trials=st.integers(1, 30), eta=st.integers(2, 4))
def test_who_is_promoted_by_asha_is_in_the_top(make, seed, trials, eta):
    plan = make("asha_promotion", trials=trials, eta=eta)
    chaos = Chaos(plan, seed)
    chaos.run()
    for length, job in chaos.decisions:
        before = SweepState(chaos.log[:length])
        known = before.trials.get(job.trial) if isinstance(job, Job) else None
        if known is None or known.status != "paused" or job.stop_step == plan.steps:
            continue
        seen = before.rungs[known.step]
        values = [before.observed(n, known.step).get(METRIC, math.inf) for n in seen]
        own = known.rungs[known.step][METRIC]
        assert sum(value < own for value in values) < len(seen) // eta


@given(seed=st.integers(0, 10**6), trials=st.integers(1, 40), eta=st.integers(2, 3))
def test_no_wave_promotes_more_than_its_places(make, seed, trials, eta):
    plan = make("halving", trials=trials, eta=eta)
    chaos = Chaos(plan, seed)
    chaos.run()
    for first, after in itertools.pairwise(load_scheduler(plan).bounds):
        for rung, step in enumerate(
            plan.rungs[:-1]
        ):  # from the highest, others may go as the last
            promotion = (step, plan.rungs[rung + 1])
            wave = [trial for trial, *seen in chaos.promotions if tuple(seen) == promotion]
            count = sum(first <= trial < after for trial in wave)
            assert count <= max((after - first) // eta ** (rung + 1), 1)
