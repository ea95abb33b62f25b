"""A simulated executor: it runs jobs as a cluster would, in any order, and writes the log of a
sweep.
"""

from __future__ import annotations

import pytest

from search.decider import Decider
from search.jobs import Job
from search.objectives import Goal, Objective
from search.plan import Plan
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Space

CONDITIONAL = Space(
    "conditional",
    "toy",
    {
        "mode": Choice(("absolute", "learnable")),
        "cap": Uniform(4.0, 22.0, when={"mode": ("absolute",)}),
        "start": Uniform(2.0, 16.0, step=0.5, when={"mode": ("learnable",)}),
        "rgb": Choice((True, False), when={"mode": ("learnable",)}),
        "weight": LogUniform(0.1, 10.0),
        "width": Integer(8, 32, step=8),
        "widths": Choice(((1, 2), (1, 2, 3), (4,))),
    },
)


def quadratic(sampled, step=None):
    return (sampled["x"] - 0.3) ** 2 + (sampled["y"] + 0.2) ** 2


class Executor:
    """Runs a plan. The log is its only memory, as after a crash."""

    def __init__(self, plan, objective=quadratic, log=()):
        self.plan, self.objective = plan, objective
        self.log = [dict(event) for event in log]
        self.decider = Decider(plan, self.append, self.log)
        self.running = {}  # trial -> (job, last step)

    @property
    def state(self):
        return self.decider.state

    def append(self, event, **fields):
        self.log.append({"event": event, **fields})

    def write(self, event, **fields):
        self.decider.record(event, **fields)

    def resume(self):
        self.running = {}
        self.write("resumed")

    def hand_out(self):
        """Hands out the next job; returns what next_job said."""
        job = self.decider.next()
        if isinstance(job, Job):
            known = self.state.trials.get(job.trial)
            step = known.step if known and known.status == "paused" else 0
            self.decider.hand_out(job)
            self.running[job.trial] = (job, step)
        return job

    def values(self, value):
        return {} if value is None else {self.plan.metric: value}

    def end(self, trial, state, step, value, reason=""):
        job, _ = self.running.pop(trial)
        self.decider.ended(job, step, self.values(value), state=state, reason=reason)

    def report(self, trial):
        """One more report of a running trial; it may end by it."""
        job, step = self.running[trial]
        step = min(step + self.plan.report_every, job.stop_step)
        value = self.objective(job.sampled, step)
        self.running[trial] = (job, step)
        reason = self.decider.reported(job, step, self.values(value))
        if reason or step >= job.stop_step:
            self.end(trial, "", step, value, reason)

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
    goal = Goal((Objective("val.error", options.pop("mode", "min")),))
    defaults = {"trials": 12, "seed": 5, "goal": goal, "steps": 90, "report_every": 10}
    defaults |= {"sampler": "random", "scheduler": "none", "max_failures": 1}
    return Plan(space=space, **(defaults | options))


@pytest.fixture(scope="session")
def make_plan():
    return plane


@pytest.fixture(scope="session")
def executor():
    return Executor


@pytest.fixture(scope="session")
def conditional_space():
    return CONDITIONAL
