"""Searches of a space of which a part fails, on a simulated clock.

`half/SCHEDULER/...`: two keys, and every trial above the middle of one of them fails (out of
memory, say), towards which trials get better. Of 60 trials, the failures among the last 40, and
the best value, where .5 is the lowest that a trial which does not fail can have. `most/...`:
twelve keys, six tenths of the space fail, 60 trials, the optimum in the failing part.
`quarter/failed`: five keys, a quarter of the space fails, until 20 trainings are spent; how many
trials fail. Means over ten seeds, one worker, the default sampler.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.measuring.rows import Row, main, row, standard_error
from search.jobs import Job
from search.log import FAILED
from search.objectives import Goal, Objective, Values
from search.plan import Plan
from search.simulator import Simulation, simulate
from search_spaces.domains import Uniform
from search_spaces.space import Space

COLUMN = "val.value"
SEEDS = 10
TRIALS, LAST = 60, 40


def measure() -> Iterator[Row]:
    for scheduler, bounds in (("none", ("a bound of 18", "a bound of 0.52")), ("brackets", ())):
        halves = [_half(seed, scheduler) for seed in range(SEEDS)]
        failed = [float(_failed(found, TRIALS - LAST)) for found in halves]
        best = [_best(found) for found in halves]
        name = f"failing/half/{scheduler}"
        peers = [f"none: {bound}" for bound in bounds] or ["none", "none"]
        yield from _with_error(f"{name}/failed_of_last_{LAST}", failed, "trials", peers[0])
        yield from _with_error(f"{name}/best", best, "value", peers[1])
    most = [_most(seed) for seed in range(SEEDS)]
    share = [_failed(found) / len(found.state.trials) for found in most]
    yield from _with_error("failing/most/brackets/failed_share", share, "of the trials", "none")
    best = [_best(found) for found in most]
    yield from _with_error("failing/most/brackets/best", best, "value", "none")
    quarter = [float(_failed(_quarter(seed))) for seed in range(SEEDS)]
    yield from _with_error("failing/quarter/failed", quarter, "trials", "none")


def _with_error(name: str, values: list[float], unit: str, bound: str) -> Iterator[Row]:
    yield row(name, statistics.fmean(values), unit, bound, None)
    yield row(f"{name}/standard_error", standard_error(values) or 0.0, unit, "none", None)


def _best(found: Simulation) -> float:
    return min(e["value"] for e in found.events if e.get("value") is not None)


def _failed(found: Simulation, first: int = 0) -> int:
    trials = found.state.trials.values()
    return sum(trial.status == FAILED for trial in trials if trial.number >= first)


def _half(seed: int, scheduler: str) -> Simulation:
    def observe(job: Job, step: int) -> Values:
        return {COLUMN: 1.0 - job.sampled["x"] + (job.sampled["y"] - 0.5) ** 2}

    plan = _plan(seed, 2, TRIALS, scheduler=scheduler)
    return simulate(plan, observe, fails=lambda job: job.sampled["x"] > 0.5)


def _most(seed: int) -> Simulation:
    def observe(job: Job, step: int) -> Values:
        return {COLUMN: sum((value - 0.5) ** 2 for value in job.sampled.values()) + 1.0 / step}

    plan = _plan(seed, 12, TRIALS, scheduler="brackets")
    return simulate(plan, observe, fails=lambda job: job.sampled["x"] > 0.4)


def _quarter(seed: int) -> Simulation:
    def observe(job: Job, step: int) -> Values:
        return {COLUMN: sum((value - 0.75) ** 2 for value in job.sampled.values()) + 1.0 / step}

    plan = _plan(seed, 5, 1_000_000, budget=20.0)
    return simulate(plan, observe, fails=lambda job: job.sampled["x"] > 0.75)


def _plan(seed: int, keys: int, trials: int, **options: Any) -> Plan:
    names = "xyabcdefghij"[:keys]
    return Plan(
        space=Space("failing", "benchmark", {name: Uniform(0.0, 1.0) for name in names}),
        trials=trials,
        seed=seed,
        goal=Goal((Objective(COLUMN, "min"),)),
        steps=90,
        report_every=10,
        max_failed_in_a_row=0,
        max_failed_share=1.0,
        **options,
    )


if __name__ == "__main__":
    main(measure, __doc__)
