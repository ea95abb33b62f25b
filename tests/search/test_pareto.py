from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from search.pareto import crowded_ranks, exclusive_volumes, hypervolume, knee, non_dominated


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


# The hypervolume


def by_inclusion_and_exclusion(costs, reference):
    """The volume of a union of boxes, one a row, from the volumes of their intersections."""
    boxes = [row for row in costs if all(c < r for c, r in zip(row, reference, strict=True))]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, size):
            sides = np.array(reference) - np.max(chosen, axis=0)
            total += (-1) ** (size + 1) * float(np.prod(sides))
    return total


# On a grid, so that equal rows, equal coordinates and dominated rows happen.
GRID = st.integers(0, 6).map(lambda value: value / 4)
TABLES = st.tuples(st.integers(0, 7), st.integers(1, 5)).flatmap(
    lambda shape: hnp.arrays(float, shape, elements=GRID)
)


@given(costs=TABLES)
def test_hypervolume_equals_inclusion_and_exclusion(costs):
    reference = [1.25] * costs.shape[1]
    expected = by_inclusion_and_exclusion(costs.tolist(), reference)
    assert hypervolume(costs, reference) == pytest.approx(expected, abs=1e-9)


@given(costs=TABLES, seed=st.integers(0, 99))
def test_hypervolume_forgets_orders_and_what_is_dominated(costs, seed):
    rng = np.random.default_rng(seed)
    reference = np.linspace(1.2, 1.6, costs.shape[1])
    expected = pytest.approx(hypervolume(costs, reference), abs=1e-9)
    axes = rng.permutation(costs.shape[1])
    assert hypervolume(rng.permutation(costs)[:, axes], reference[axes]) == expected
    worse = np.concatenate([costs, costs + 0.125, costs, [np.full(len(reference), np.inf)]])
    assert hypervolume(worse, reference) == expected


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_hypervolume_of_many_rows_equals_monte_carlo(k):
    rng = np.random.default_rng(k)
    costs = 1.0 - np.abs(rng.normal(size=(60, k)))
    count, reference = 200_000, np.full(k, 1.1)
    low = costs.min(axis=0)
    points = rng.uniform(low, reference, size=(count, k))
    hit, axes = np.zeros(count, dtype=bool), np.ascontiguousarray(points.T)
    for row in costs:
        hit |= (axes >= row[:, None]).all(axis=0)
    box, share = np.prod(reference - low), hit.mean()
    error = box * np.sqrt(share * (1 - share) / count)
    assert abs(hypervolume(costs, reference) - box * share) < 4 * error


def test_hypervolume_in_closed_form():
    n = 10  # a staircase: n + (n - 1) + ... + 1 unit squares
    stairs = [[i, n - 1 - i] for i in range(n)]
    assert hypervolume(stairs, [n, n]) == n * (n + 1) / 2
    for k in (1, 2, 3, 4):  # of two boxes that overlap in the middle
        rows = np.array([[0.0, *[0.5] * (k - 1)], [0.5, *[0.0] * (k - 1)]])
        expected = 1.0 if k == 1 else 0.5 ** (k - 1) + 0.5 - 0.5**k
        assert hypervolume(rows, [1.0] * k) == pytest.approx(expected)
    # Beyond the reference in one objective: nothing.
    assert hypervolume([[0.0, 2.0], [np.nan, 0.0]], [1.0, 1.0]) == 0.0
    assert hypervolume(np.empty((0, 3)), [1.0] * 3) == 0.0


@pytest.mark.parametrize("reference", [[1.0], [1.0, np.inf], 1.0])
def test_hypervolume_refuses_what_does_not_fit(reference):
    with pytest.raises(ValueError, match="finite reference"):
        hypervolume([[0.0, 0.0]], reference)


@given(costs=TABLES)
def test_exclusive_volumes_are_what_the_union_loses(costs):
    reference = [1.25] * costs.shape[1]
    found = exclusive_volumes(costs, reference)
    whole = hypervolume(costs, reference)
    for row in range(len(costs)):
        lost = whole - hypervolume(np.delete(costs, row, axis=0), reference)
        assert found[row] == pytest.approx(lost, abs=1e-9)


# Ranks


@pytest.mark.parametrize("k", [2, 3, 4])
def test_ranks_are_places_front_by_front(k):
    costs = np.random.default_rng(k).random((40, k))
    places = crowded_ranks(costs.tolist())
    assert sorted(places) == list(range(40))
    left = np.arange(40)
    while len(left):
        front = left[non_dominated(costs[left], ["min"] * k)]
        ahead = [places[row] for row in front]
        assert max(ahead) < min(
            [places[row] for row in left if row not in front], default=len(costs)
        )
        left = left[~np.isin(left, front)]


def test_within_a_front_the_ends_come_first_and_then_what_loses_most():
    costs = [[0, 10], [1, 5], [2, 4.5], [5, 4], [10, 0]]
    # Rectangles between neighbours: 1 -> 1 x 5, 2 -> 3 x 0.5, 3 -> 5 x 0.5.
    assert crowded_ranks(costs) == [0, 2, 4, 3, 1]
    assert crowded_ranks([[1, np.nan], [5, 5], [np.inf, 0]]) == [1, 0, 1]


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("enough", [0, 1, 7, 39, 50])
@pytest.mark.parametrize("kind", ["independent", "agree", "equals"])
def test_ranks_end_with_the_front_that_holds_enough(k, enough, kind):
    random = np.random.default_rng(k)
    costs = {
        "independent": random.random((40, k)),
        "agree": random.random((40, 1)) + 0.05 * random.random((40, k)),
        "equals": random.integers(0, 4, (40, k)).astype(float),
    }[kind]
    ranked, left = 0, costs
    while ranked < enough and len(left):
        first = non_dominated(left, ["min"] * k)
        ranked, left = ranked + int(first.sum()), left[~first]
    every = crowded_ranks(costs.tolist())
    assert crowded_ranks(costs.tolist(), enough) == [min(place, ranked) for place in every]


@given(seed=st.integers(0, 50), scale=st.floats(1e-3, 1e3))
def test_units_do_not_change_ranks(seed, scale):
    costs = np.random.default_rng(seed).random((12, 3))
    changed = costs * [1.0, scale, 1.0]
    assert crowded_ranks(changed.tolist()) == crowded_ranks(costs.tolist())


# The knee


def curve(power, n=41):
    """f1 + f2 is least in the middle for power < 1 and largest there for power > 1."""
    t = np.linspace(0, 1, n)
    return np.stack([t ** (1 / power), (1 - t) ** (1 / power)], axis=1)


def test_the_knee_of_a_known_curve():
    """On sqrt(x) + sqrt(y) = 1 the point farthest from the chord is (1/4, 1/4)."""
    front = curve(0.5)
    assert front[knee(front)] == pytest.approx([0.25, 0.25])
    stretched = front * [1e-3, 40.0] + [5.0, -2.0]  # units do not matter
    assert knee(stretched) == knee(front)
    hidden = np.concatenate([front + 1e-9, [[np.nan, -1.0]], front])
    assert knee(hidden) == knee(front) + len(front) + 1


@given(seed=st.integers(0, 200), n=st.integers(3, 12))
def test_the_knee_is_farthest_from_the_chord(seed, n):
    rng = np.random.default_rng(seed)
    costs = np.stack([np.sort(rng.random(n)), np.sort(rng.random(n))[::-1]], axis=1)
    scaled = (costs - costs.min(axis=0)) / (costs.max(axis=0) - costs.min(axis=0))
    one, other = scaled[0], scaled[-1]  # the two ends; positive where the origin lies
    across = other - one
    distances = [across[1] * (p - one)[0] - across[0] * (p - one)[1] for p in scaled]
    distances = np.array(distances) * np.sign(across[1] * -one[0] + across[0] * one[1])
    found = knee(costs)
    if found is None:
        assert distances.max() < 1e-9
    else:
        assert distances[found] == pytest.approx(distances.max())


def test_fronts_without_a_knee():
    assert knee(np.empty((0, 2))) is None
    assert knee([[0.0, 1.0], [1.0, 0.0]]) is None
    assert knee(curve(2.0)) is None  # bulges outward
    assert knee([[3.0, 4.0], [5.0, 4.0]]) == 0  # one row is all there is to choose
    assert knee([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.2, 0.2, 0.2], [0.3, 0.1, 0.3]]) == 3
