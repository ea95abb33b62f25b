from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metrics.paired import FEWEST, crossed, is_dearer, nested


def test_one_seed_a_unit_is_a_paired_t_test():
    rng = np.random.default_rng(0)
    here, there = rng.normal(size=12), rng.normal(0.3, 1.0, size=12)
    found = nested([[d] for d in here - there])
    test = stats.ttest_rel(here, there)
    assert found.mean / found.error == pytest.approx(test.statistic)
    assert found.units == 12


@pytest.mark.parametrize("units", [1, FEWEST - 1])
def test_below_four_units_there_is_no_error_however_many_seeds(units):
    assert nested([[1.0, 2.0, 3.0]] * units).error is None
    assert crossed([[1.0] * units, [2.0] * units], [[0.0] * units]).error is None
    text = f"+2 (no error: {units} unit{'' if units == 1 else 's'})"
    assert str(nested([[1.0, 2.0, 3.0]] * units)) == text
    assert not nested([[1.0]] * units).tells


def test_the_nested_error_covers_the_spread_of_units_not_of_seeds():
    """Over 4,000 sweeps of 6 units with 5 seeds each: the true spread of the mean."""
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(4000):
        units = rng.normal(0.0, 1.0, size=(6, 1)) + rng.normal(0.0, 0.5, size=(6, 5))
        found = nested(units.tolist())
        means.append(found.mean)
        errors.append(found.error**2)
    assert math.sqrt(np.mean(errors)) == pytest.approx(np.std(means), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("draws", [(4, 1), (4, 3), (2, 6)])
def test_the_crossed_error_covers_units_and_the_seeds_of_both_sides(draws):
    """A side with one training has no seed noise here: nobody could know of it."""
    rng = np.random.default_rng(2)
    means, errors = [], []
    for _ in range(4000):
        hard = rng.normal(0.0, 3.0, size=8)
        sides = [
            hard + rng.normal(0.0, 1.0, size=(1, 8)) + (n > 1) * rng.normal(0.0, 0.7, size=(n, 1))
            for n in draws
        ]
        found = crossed(*(side.tolist() for side in sides))
        means.append(found.mean)
        errors.append(found.error**2)
    assert np.mean(means) == pytest.approx(0.0, abs=0.05)
    assert math.sqrt(np.mean(errors)) == pytest.approx(np.std(means), rel=0.03)


def test_unequal_numbers_of_trainings_are_compared_by_their_means():
    found = crossed([[0.1] * 5] * 3, [[0.1] * 5, [0.3] * 5])
    assert (found.mean, found.error) == (pytest.approx(0.1), pytest.approx(0.1))


def test_what_shows_is_two_errors_and_nothing_tells_without_a_spread():
    found = nested([[1.0], [2.0], [3.0], [4.0]])
    assert found.shows == 2 * found.error and found.tells
    assert not nested([[0.0]] * 5).tells and nested([[0.1]] * 5).tells
    assert str(found) == "+2.5 ± 0.65 (4 units)"


def test_what_spends_more_of_any_cost_is_dearer():
    other = {"rate": 0.5, "time": 2.0, "lost": None}
    assert is_dearer(["rate"], {"rate": 0.51}, other)
    assert is_dearer(["rate", "time"], {"rate": 0.1, "time": 2.5}, other)
    assert not is_dearer(["rate"], {"rate": 0.5, "time": 9.0}, other)
    assert not is_dearer(["rate", "lost", "none"], {"rate": None, "lost": 1.0}, other)
    assert not is_dearer([], {"rate": 9.0}, other)
