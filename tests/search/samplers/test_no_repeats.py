"""A model never asks for a configuration twice while the space has another."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from search.log import SweepState
from search.samplers.ask import ask
from search_spaces.domains import Choice, Integer, Uniform
from search_spaces.space import Point, Space

GRID = {
    "kind": Choice(("flat", "steep", "none")),
    "rise": Integer(1, 5, when={"kind": ("flat", "steep")}),
    "scale": Uniform(0.5, 1.0, step=0.25, when={"kind": ("steep",)}),
}
CONFIGURATIONS = 5 + 5 * 3 + 1


def plan_of(make_plan, domains, **options):
    return dataclasses.replace(make_plan(**options), space=Space("s", "toy", domains))


def height(sampled, step=None):
    """The best configuration is one of the rare ones: a model wants it again and again."""
    return sampled.get("rise", 9) + (sampled["kind"] != "steep") + sampled.get("scale", 0.0)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "cmaes"])
def test_every_configuration_is_asked_for_once_before_any_twice(sampler, make_plan, executor):
    point = Point("document", {"kind": "flat", "rise": 3, "train.seed": 5})
    options = {"sampler": sampler, "trials": CONFIGURATIONS + 5, "points": (point,)}
    plan = plan_of(make_plan, GRID, **options)
    state = executor(plan, height).run(concurrent=2).state
    drawn = [
        tuple((key, trial.sampled[key]) for key in GRID if key in trial.sampled)
        for trial in state.trials.values()
    ]
    assert len(set(drawn[:CONFIGURATIONS])) == CONFIGURATIONS
    assert max(Counter(drawn).values()) > 1  # the space is used up: answers go on
    for trial in state.trials.values():
        keys = trial.sampled.keys() & GRID.keys()
        assert set(plan.space.active(trial.sampled)) == keys
        assert all(GRID[key].contains(trial.sampled[key]) for key in keys)


def test_an_answer_depends_on_the_log_alone(make_plan, executor):
    """What is kept between asks changes nothing: a state that is read anew answers the same."""
    plan = plan_of(make_plan, GRID, sampler="tpe", trials=CONFIGURATIONS)
    run = executor(plan, height).run()
    again = SweepState()
    for event in run.log:
        again.apply(event)
    number = len(run.state.trials)
    assert ask(plan, run.state, number) == ask(plan, again, number)


def test_random_answers_do_not_depend_on_the_log(make_plan, executor):
    plan = plan_of(make_plan, GRID, sampler="random", trials=40)
    state = executor(plan, height).run().state
    assert all(ask(plan, SweepState(), n) == t.sampled for n, t in state.trials.items())
