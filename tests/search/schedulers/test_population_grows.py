"""A population that a resume has grown: nobody is copied who has given the checkpoint up."""

from __future__ import annotations

import functools

import pytest

from search.log import COMPLETE, SweepState
from search.objectives import Goal, Objective
from search.options import Retention
from search.plan import Plan
from search.retention import kept_of
from search.schedulers.population import LENT
from search.simulator import simulate
from search_spaces.domains import LogUniform
from search_spaces.space import Space
from trainables.loop import CHECKPOINTS_LENT

RATE = Space("rate", "toy", {"rate": LogUniform(1e-4, 1.0)})


def make_plan(trials, scheduler="pbt"):
    goal = Goal((Objective("cost", "min"),))
    length = {"steps": 100, "report_every": 5, "sampler": "random", "seed": 1}
    return Plan(space=RATE, goal=goal, trials=trials, scheduler=scheduler, **length)


def observe(job, step):
    """The old members are the best everywhere, so that everyone would copy them."""
    return {"cost": job.trial + 1.0 / step}


def check_disk(events, plan, keep):
    """Every segment that begins from another member's checkpoint finds it until its end; what is
    on disk follows from the log, as `LocalRun.lends_checkpoints` and `--keep-checkpoints` have it.
    """
    disk, reads, copies, state = {}, {}, [], SweepState()
    for event in events:
        state.apply(event)
        trial = event.get("trial")
        if event["event"] == "handed_out" and event.get("from"):
            reads[trial] = tuple(event["from"])
            copies.append((trial, *reads[trial]))
            disk[trial] = []  # `begin.forget_others`
        if event["event"] == "ended":
            disk[trial] = [*disk.get(trial, []), event["step"]][-LENT:]
        for number, kept in kept_of(Retention.parse(keep), plan, state).items():
            if kept is None:
                disk[number] = []
        for source, step in reads.values():
            assert step in disk[source], (event, source, step)
        if event["event"] == "ended":
            reads.pop(trial, None)
    return copies


@functools.cache
def grown(scheduler, workers):
    """(plan, plan of twice as many, events under the first, what goes on from there)."""
    first, more = make_plan(8, scheduler), make_plan(16, scheduler)
    events = simulate(first, observe, workers=workers).events
    found = simulate(more, observe, workers=workers, events=list(events))
    return first, more, events, found


@pytest.mark.parametrize("keep", ["all", "best:1"])
@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
@pytest.mark.parametrize("workers", [1, 3])
def test_after_its_end(keep, scheduler, workers):
    first, more, events, found = grown(scheduler, workers)
    check_disk(events, first, keep)
    assert {trial.status for trial in found.state.trials.values()} == {COMPLETE}
    copies = check_disk(found.events, more, keep)
    new = {(trial, source) for trial, source, _ in copies if trial >= 8}
    assert new and all(source >= 8 for _, source in new), "the old ones may have none left"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_before_its_end(share):
    """Whoever is more than two intervals ahead has deleted the checkpoint."""
    events = simulate(make_plan(8), observe, workers=3).events
    events = events[: int(share * len(events))]
    more = make_plan(16)
    found = simulate(more, observe, workers=3, events=events)
    assert {trial.status for trial in found.state.trials.values()} == {COMPLETE}
    copies = check_disk(found.events, more, "best:1")
    assert any(trial >= 8 for trial, _, _ in copies)


def test_a_member_keeps_as_many_as_others_count_on():
    assert LENT == CHECKPOINTS_LENT
