"""A simulated executor: it runs jobs as a cluster would, in any order, and writes the log of a
sweep.
"""

from __future__ import annotations

import pytest

from search.jobs import Job, next_job
from search.log import SweepState
from search.plan import Plan
from search.stopping import should_stop
from search_spaces.domains import Uniform
from search_spaces.space import Space


def quadratic(sampled, step=None):
    return (sampled["x"] - 0.3) ** 2 + (sampled["y"] + 0.2) ** 2


class Executor:
    """Runs a plan. The log is its only memory, as after a crash."""

    def __init__(self, plan, objective=quadratic, log=()):
        self.plan, self.objective = plan, objective
        self.log, self.state = [], SweepState()
        self.running = {}  # trial -> (job, next step)
        for event in log:
            self.write(**event)

    def write(self, **event):
        self.log.append(event)
        self.state.apply(event)

    def resume(self):
        self.running = {}
        self.write(event="resumed")

    def hand_out(self):
        """Hands out the next job; returns what next_job said."""
        job = next_job(self.plan, self.state)
        if isinstance(job, Job):
            self.write(
                event="handed_out",
                trial=job.trial,
                segment=job.segment,
                point=job.point,
                outside=list(job.outside),
                sampled=dict(job.sampled),
                seed=job.seed,
                stop_step=job.stop_step,
            )
            self.running[job.trial] = (job, 0)
        return job

    def end(self, trial, state, step, value, reason=""):
        job, _ = self.running.pop(trial)
        self.write(
            event="ended",
            trial=trial,
            segment=job.segment,
            state=state,
            step=step,
            value=value,
            reason=reason,
        )

    def report(self, trial):
        """One more report of a running trial; it may end by it."""
        job, step = self.running[trial]
        step += self.plan.report_every
        value = self.objective(job.sampled, step)
        if step >= job.stop_step:
            self.end(trial, "complete", job.stop_step, value)
            return
        self.running[trial] = (job, step)
        if step in self.plan.rungs:
            reason = should_stop(self.plan, self.state, trial, step, value)
            self.write(event="rung", trial=trial, segment=job.segment, step=step, value=value)
            if reason:
                self.end(trial, "stopped", step, value, reason)

    def run(self, concurrent=1):
        """To the end: the job with the lowest number reports first."""
        while True:
            while len(self.running) < concurrent and isinstance(self.hand_out(), Job):
                pass
            if not self.running:
                return self
            self.report(min(self.running))


def plane(**options):
    space = Space("plane", "toy", {"x": Uniform(-1.0, 1.0), "y": Uniform(-1.0, 1.0)})
    defaults = {"trials": 12, "seed": 5, "metric": "val.error", "mode": "min", "steps": 90}
    defaults |= {"report_every": 10, "sampler": "random", "scheduler": "none", "max_failures": 1}
    return Plan(space=space, **(defaults | options))


@pytest.fixture(scope="session")
def make_plan():
    return plane


@pytest.fixture(scope="session")
def executor():
    return Executor
