"""Our own search on the problems of the benches, under the same clock as the peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.regret.peers import Curve, Report, end_of, regret_curve
from benchmarks.regret.problems import Problem
from search.jobs import Job
from search.objectives import Goal, Objective
from search.plan import Plan
from search.simulator import simulate
from search_spaces.space import Space

COLUMN = "val.value"
UNBOUNDED = 1_000_000


def plan_of(problem: Problem, budget: int, seed: int, **options: Any) -> Plan:
    """A plan that only the budget ends, on the problem's own rungs."""
    return Plan(
        space=Space(problem.name, "benchmark", problem.domains),
        trials=UNBOUNDED,
        budget=float(budget),
        seed=seed,
        goal=Goal((Objective(COLUMN, "min"),)),
        steps=problem.rungs[-1],
        report_every=problem.rungs[0],
        rung_steps=problem.rungs[:-1],
        **options,
    )


def observer(problem: Problem) -> Callable[[Job, int], dict[str, float]]:
    """What a job's trial reports."""
    return lambda job, step: {COLUMN: problem.value(job.sampled, step, job.seed)}


def ours(
    problem: Problem,
    workers: int,
    budget: int,
    seed: int,
    sampler: str = "tpe",
    scheduler: str = "brackets",
    **options: Any,
) -> Curve:
    """Regret of our incumbent at each share of the budget, as `peers.run` gives it."""
    plan = plan_of(problem, budget, seed, sampler=sampler, scheduler=scheduler, **options)
    simulation = simulate(plan, observer(problem), workers=workers)
    sampled = {
        event["trial"]: event["sampled"] for event in simulation.events if "sampled" in event
    }
    end = end_of(problem, workers, budget)
    reports = [
        Report(int(e["time"]), e["trial"], sampled[e["trial"]], e["step"], e["value"])
        for e in simulation.events
        if e["time"] <= end
        and (e["event"] == "rung" or (e["event"] == "ended" and e["state"] == "complete"))
    ]
    return regret_curve(problem, reports, workers, budget)
