from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from search.pareto import non_dominated


def brute_force(values, modes):
    signs = [1 if mode == "min" else -1 for mode in modes]
    costs = [[sign * v for sign, v in zip(signs, row, strict=True)] for row in values]

    def dominates(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    return [
        not any(np.isnan(cost)) and not any(dominates(other, cost) for other in costs)
        for cost in costs
    ]


# few distinct values, so that ties and equal rows happen
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, np.inf, -np.inf, np.nan])
SHAPES = st.tuples(st.integers(0, 12), st.integers(1, 4))


@given(values=hnp.arrays(float, SHAPES, elements=VALUES), data=st.data())
def test_equals_the_definition(values, data):
    k = values.shape[1]
    modes = data.draw(st.lists(st.sampled_from(["min", "max"]), min_size=k, max_size=k))
    assert non_dominated(values, modes).tolist() == brute_force(values.tolist(), modes)


def test_two_objectives_of_many_trials_equal_the_general_case():
    rng = np.random.default_rng(0)
    pair = rng.normal(size=(20_000, 2))
    padded = np.concatenate([pair, np.zeros((len(pair), 1))], axis=1)
    front = non_dominated(pair, ["min", "max"])
    assert front.sum() > 3
    assert (front == non_dominated(padded, ["min", "max", "min"])).all()
    chosen = pair[front][np.argsort(pair[front][:, 0])]
    assert all(later[1] > earlier[1] for earlier, later in itertools.pairwise(chosen))


def test_one_objective_is_the_best_with_its_ties():
    assert non_dominated([[2.0], [1.0], [1.0]], ["min"]).tolist() == [False, True, True]
    assert non_dominated(np.zeros((0, 2)), ["min", "max"]).tolist() == []


@pytest.mark.parametrize(("values", "modes"), [([1.0, 2.0], ["min"]), ([[1.0]], ["lowest"])])
def test_refusals(values, modes):
    with pytest.raises(ValueError, match="min or max"):
        non_dominated(values, modes)
