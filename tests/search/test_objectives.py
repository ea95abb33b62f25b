"""The order of trials: what comes first, what counts as the worst."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.objectives import Constraint, Goal, Objective
from search.pareto import non_dominated

TWO = (Objective("a", "min"), Objective("b", "max"))
BOUND = Constraint("c", "<=", 0.0)

VALUES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf, -math.inf])),
)
OBSERVED = st.lists(VALUES, min_size=1, max_size=25)


def costs_of(values):
    return [objective.cost(values) for objective in TWO]


def test_of_several_objectives_what_is_not_finite_is_the_worst_and_alike():
    goal = Goal(TWO)
    diverged = [{"b": 9.0}, {"a": math.nan, "b": 9.0}, {"a": -math.inf, "b": 9.0}, {}]
    first, *others, last = goal.badness([{"a": 1.0, "b": 2.0}, *diverged, {"a": 2.0, "b": 1.0}])
    assert (first, last) == ((0.0, 0.0), (0.0, 1.0))
    assert others == [(0.0, math.inf)] * 4


@pytest.mark.parametrize("constraints", [(), (BOUND,)])
@given(observed=OBSERVED)
def test_places_are_those_of_the_fronts(constraints, observed):
    """Feasible and finite ones front by front, each with a place of its own; then violations."""
    goal = Goal(TWO, constraints)
    keys = goal.badness(observed)
    left = [
        index
        for index, values in enumerate(observed)
        if goal.violation(values) == 0.0 and math.inf not in costs_of(values)
    ]
    for index, values in enumerate(observed):
        if index not in left:
            assert keys[index] == (goal.violation(values), math.inf)
    assert sorted(keys[index] for index in left) == [(0.0, place) for place in range(len(left))]
    while left:
        front = non_dominated([costs_of(observed[index]) for index in left], ["min", "min"])
        first = {index for index, kept in zip(left, front, strict=True) if kept}
        assert first == set(sorted(left, key=keys.__getitem__)[: len(first)])
        left = [index for index in left if index not in first]


@pytest.mark.parametrize("objectives", [TWO[:1], TWO])
@given(observed=OBSERVED, enough=st.integers(0, 30))
def test_as_many_as_are_enough_are_told_apart_as_ever(objectives, observed, enough):
    goal = Goal(objectives, (BOUND,))
    every, some = goal.badness(observed), goal.badness(observed, enough)
    order = sorted(range(len(observed)), key=every.__getitem__)
    assert sorted(range(len(observed)), key=some.__getitem__)[:enough] == order[:enough]
    best = {some[index] for index in order[:enough]}
    for index in order[enough:]:  # nobody behind them is taken for one of them
        assert some[index] not in best or every[index] in {every[i] for i in order[:enough]}


@given(values=VALUES)
def test_measured_is_what_has_every_column(values):
    goal = Goal(TWO, (BOUND,))
    finite = {name for name, value in values.items() if math.isfinite(value)}
    assert goal.is_measured(values) == (finite == {"a", "b", "c"})


@pytest.mark.parametrize("objectives", [TWO[:1], TWO])
@pytest.mark.parametrize("constraints", [(), (BOUND,)])
@given(observed=OBSERVED, count=st.integers(1, 40))
def test_the_best_are_the_first_in_the_order(objectives, constraints, observed, count):
    goal = Goal(objectives, constraints)
    keys = goal.badness(observed)
    assert goal.best(observed, count) == sorted(range(len(keys)), key=keys.__getitem__)[:count]
