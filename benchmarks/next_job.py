"""How long the driver of a sweep of many stored trials takes to say what runs next: with three
keys, with the `full` space of every system as `ray_jobs.sweep` plans it, and with every sampler.

A row is the median of twenty asks, by the wall clock, each for a new trial. The stored trials were
drawn at random and went through the default scheduler.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.measuring.rows import Row, main, row
from search.decider import Decider
from search.jobs import Job
from search.log import Event, SweepState
from search.objectives import Goal, Objective, Values
from search.options import SAMPLERS
from search.optuna.distributions import from_unit
from search.plan import Plan
from search.samplers.ask import active_of
from search.simulator import simulate
from search_spaces.domains import LogUniform, Uniform
from search_spaces.space import Space, spaces_of
from settings.systems import SYSTEMS

STORED = int(os.environ.get("DRIVER_COST_STORED", "10000"))
ASKS, SLOTS = 20, 64
STEPS, RUNGS = 90, (10, 30)
COLUMNS = ("val.mse", "val.mae", "val.bias")
BOUND = "none: a bound of 50 ms"


def measure() -> Iterator[Row]:
    """A row of a sampler is of three keys and one objective, as the first is."""
    few = three_keys(STORED)
    stored = store(few)
    yield _row("", few, stored)
    three = three_keys(STORED, objectives=3)
    yield _row("_3_objectives", three, store(three))
    for system in SYSTEMS:
        if "full" in spaces_of(system):
            plan = full_plan(system)
            yield _row(f"/{system}/full", plan, store(plan))
    for sampler in (name for name in SAMPLERS if name != few.sampler):
        yield _row(f"/{sampler}", replace(few, sampler=sampler), stored, "none")


def three_keys(trials: int, objectives: int = 1) -> Plan:
    """A plan over three continuous keys."""
    unit = {key: Uniform(0.0, 1.0) for key in "xy"}
    return Plan(
        space=Space("bench", "none", {**unit, "lr": LogUniform(1e-4, 1.0)}),
        trials=trials,
        seed=0,
        goal=Goal(tuple(Objective(column, "min") for column in COLUMNS[:objectives])),
        steps=STEPS,
        report_every=1,
        rung_steps=RUNGS,
    )


def full_plan(system: str) -> Plan:
    """The plan of `ray_jobs.sweep SYSTEM --space full`, of as many trials, without points."""
    from ray_jobs.sweeping.options import SweepOptions
    from ray_jobs.sweeping.planning import new_setup

    setup = new_setup(SweepOptions(system=system, space="full", trials=STORED, seed=0))
    return replace(setup.plan, points=())


def store(plan: Plan) -> Sequence[Event]:
    """The log of a sweep of random trials. Each column is a distance from a place of its own, with
    noise that falls with the steps.
    """
    domains = plan.space.domains
    weights = random.Random(0)
    places = {column: [weights.random() for _ in domains] for column in plan.goal.columns}
    units: dict[int, list[float]] = {}

    def draw(plan: Plan, state: SweepState, trial: int, bracket: int) -> dict[str, Any]:
        generator = random.Random(trial)
        units[trial] = [generator.random() for _ in domains]
        pairs = zip(domains.items(), units[trial], strict=True)
        return active_of(plan, {key: from_unit(domain, unit) for (key, domain), unit in pairs})

    def observe(job: Job, step: int) -> Values:
        noise = random.Random(f"{job.trial} {step}").random() / step
        return {
            column: noise + sum((u - p) ** 2 for u, p in zip(units[job.trial], place, strict=True))
            for column, place in places.items()
        }

    events = simulate(plan, observe, workers=SLOTS, draw=draw).events
    return [event for event in events if event["event"] != "finished"]


def ask_ms(plan: Plan, stored: Sequence[Event]) -> list[float]:
    """Milliseconds of each ask for a trial beyond the stored ones."""
    more = replace(plan, trials=plan.trials + ASKS + 1)
    decider = Decider(more, _append_nothing, stored)
    asks = []
    for _ in range(ASKS + 1):
        began = time.perf_counter()
        job = decider.next()
        asks.append(1000.0 * (time.perf_counter() - began))
        if not isinstance(job, Job) or job.trial < plan.trials:
            raise RuntimeError(f"expected a new trial, not {job}")
        decider.hand_out(job)
    return asks[1:]  # the first imports Optuna


def _append_nothing(event: str, **fields: object) -> None:
    """The log of a sweep that is not stored."""


def _row(name: str, plan: Plan, stored: Sequence[Event], peer: str = BOUND) -> Row:
    asks = ask_ms(plan, stored)
    return row(f"driver/next_job_{STORED}_trials{name}", statistics.median(asks), "ms", peer, None)


if __name__ == "__main__":
    main(measure, __doc__)
