"""Orders that are kept up to date say what looking at every trial again would say."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.hypervolume_shares import exclusive_in_three
from search.log import SweepState
from search.objectives import Constraint, Goal, Objective
from search.pareto import hypervolume, non_dominated
from search.rankings import Judged, Measured, Ranking, Recorded, View, Waiting, ranking
from search.samplers.ask import Told, rows_at
from search.schedulers.median import Averaged

LEVELS = (10, 30, 90)
GOALS = [
    Goal((Objective("a", "min"),)),
    Goal((Objective("a", "max"),), (Constraint.parse("b<=0.5"), Constraint.parse("c>=0.1"))),
    Goal((Objective("a", "min"), Objective("b", "max"))),
    Goal(tuple(Objective(name, "min") for name in "abc"), (Constraint.parse("b<=0.8"),)),
]
# Few values, so that many are equal; None is one that is not finite.
CELL = st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9, None])
VALUES = st.fixed_dictionaries(dict.fromkeys("abc", CELL)).map(
    lambda row: {name: value for name, value in row.items() if value is not None}
)


def best_by_looking(goal, seen, count, position=()):
    numbers = sorted(seen, key=(lambda number: position[number]) if position else None)
    keys = goal.badness([seen[number] for number in numbers])
    return [number for _, number in sorted(zip(keys, numbers, strict=True))][:count]


@given(
    goal=st.sampled_from(GOALS),
    puts=st.lists(st.tuples(st.integers(0, 20), st.none() | VALUES), max_size=60),
    count=st.integers(1, 25),
    own=VALUES,
)
def test_a_ranking_is_the_goal_s_order_after_every_change(goal, puts, count, own):
    kept, seen = Ranking(goal), {}
    for number, values in puts:
        kept.put(number, values)
        seen.pop(number, None)
        if values is not None:
            seen[number] = values
    assert kept.numbers == sorted(seen)
    assert kept.best(count) == best_by_looking(goal, seen, count)
    if len(goal.objectives) == 1:
        *others, place = goal.badness([*seen.values(), own])
        assert kept.better_than(own) == sum(other < place for other in others)
        for number in seen:
            ahead = best_by_looking(goal, seen, len(seen)).index(number)
            assert kept.better_than(seen[number], number) == ahead


class Anything:
    """Events of a sweep in any order that a log can have."""

    def __init__(self, seed):
        self.rng, self.state = random.Random(seed), SweepState()

    def happen(self):
        number = self.rng.randrange(12)
        trial = self.state.trials.get(number)
        if self.rng.random() < 0.02:
            event = {"event": "resumed"}
        elif trial is None or trial.status != "running":
            point = "document" if number == 3 else None
            segment = 0 if trial is None else trial.segment + 1
            event = {"event": "handed_out", "segment": segment, "seed": 0, "point": point}
            event |= {"sampled": {"x": number}, "bracket": number % 2, "stop_step": 90}
            event["outside"] = ["x"] if number == 5 else []
            event["repeat_of"] = 0 if number == 7 else None
        else:
            step = self.rng.choice(LEVELS)
            values = {name: self.rng.choice([0.0, 0.2, 0.5, 0.9, None]) for name in "abc"}
            event = {"segment": trial.segment, "step": step, "values": values, "value": 0.0}
            if self.rng.random() < 0.6:
                judged = step >= LEVELS[trial.bracket]
                event |= {"event": "rung", "judged": judged}
            else:
                status = self.rng.choice(["paused", "complete", "stopped", "failed"])
                holds = [90] if status == "complete" else []
                reason = self.rng.choice(["", "health: loss nan"])
                event |= {"event": "ended", "state": status, "holds": holds, "reason": reason}
        self.state.apply({"trial": number, **event})


KINDS = [
    (Told, (10,)),
    (Recorded, (30,)),
    (Measured, (10,)),
    (Averaged, (30,)),
    (Waiting, (10,)),
    (Judged, (30, 1)),
]


@pytest.mark.parametrize("goal", GOALS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=min(5, settings.default.max_examples))
def test_a_view_that_follows_says_what_a_look_at_every_trial_says(make_plan, goal, seed):
    plan, run = make_plan(goal=goal), Anything(seed)
    for _ in range(8):
        for _ in range(12):
            run.happen()
        for kind, where in KINDS:
            view: View = kind(plan, *where)
            found = {n: view.values(run.state, t) for n, t in run.state.trials.items()}
            found = {number: values for number, values in found.items() if values is not None}
            kept = ranking(plan, run.state, kind, *where)
            assert kept.numbers == sorted(found)
            assert [kept.values(number) for number in kept.numbers] == [
                found[number] for number in kept.numbers
            ]
            assert kept.best(1) == best_by_looking(goal, found, 1, kept.position)


def test_another_plan_has_an_order_of_its_own(make_plan, executor):
    plan = make_plan(trials=6)
    state = executor(plan).run().state
    upside_down = make_plan(trials=6, mode="max")
    order = ranking(plan, state, Recorded, 90).best(6)
    assert ranking(upside_down, state, Recorded, 90).best(6) == order[::-1]


@given(seed=st.integers(0, 1000), best=st.integers(0, 5), others=st.integers(0, 20))
@settings(max_examples=min(20, settings.default.max_examples))
def test_a_sample_of_the_others_is_the_one_of_a_list_of_them(ten, seed, best, others):
    plan, state = ten
    first = best_by_looking(plan.goal, {n: t.values for n, t in state.trials.items()}, best)
    rest = [number for number in sorted(state.trials) if number not in first]
    rows = rows_at(plan, state, 90, random.Random(seed), best, others)
    found = [row.number for row in rows]
    if best + others >= len(state.trials):
        assert found == sorted(state.trials)
    else:
        assert found == sorted(first + random.Random(seed).sample(rest, others))


@pytest.fixture(scope="module")
def ten(make_plan, executor):
    plan = make_plan(trials=10)
    return plan, executor(plan).run().state


@given(seed=st.integers(0, 10**6), is_coarse=st.booleans())
@settings(max_examples=min(15, settings.default.max_examples))
def test_what_a_row_of_three_objectives_dominates_alone(seed, is_coarse):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 5, (25, 3)) / 5.0 if is_coarse else rng.random((25, 3))
    front = np.unique(table[non_dominated(table, ["min"] * 3)], axis=0)
    found = exclusive_in_three(front, np.full(3, 1.1))
    whole = hypervolume(front, [1.1] * 3)
    for row in range(len(front)):
        lost = whole - hypervolume(np.delete(front, row, axis=0), [1.1] * 3)
        assert math.isclose(found[row], lost, abs_tol=1e-12)
