from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import spearmanr

from benchmarks.regret import functions
from benchmarks.regret.problems import PROBLEMS, RUNGS, Biased, draw, make_problem
from search_spaces.domains import Choice, Integer, LogUniform, Uniform

pytestmark = pytest.mark.slow

# Published optima (Surjanovic and Bingham, Virtual Library of Simulation Experiments), in the unit
# cube.
OPTIMA = {
    "hartmann3": [(0.114614, 0.555649, 0.852547)],
    "hartmann6": [(0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)],
    "branin": [
        ((first + 5) / 15, second / 15)
        for first, second in ((-math.pi, 12.275), (math.pi, 2.275), (9.42478, 2.475))
    ],
}
OPTIMA["misleading"] = OPTIMA["hartmann6"]
CUBES = sorted(OPTIMA)


def settings_of(point) -> dict[str, float]:
    return {f"x.{i}": float(x) for i, x in enumerate(point)}


def points_of(problem, count: int, seed: int = 0) -> list[dict]:
    random = np.random.default_rng(seed)
    return [draw(problem.domains, random) for _ in range(count)]


@pytest.mark.parametrize("name", CUBES)
def test_regret_is_nothing_at_the_published_optima(name):
    problem = make_problem(name)
    for point in OPTIMA[name]:
        assert problem.regret(settings_of(point)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", CUBES)
def test_the_optimum_is_what_a_descent_from_there_reaches(name):
    problem = make_problem(name)
    assert isinstance(problem, Biased)
    for point in OPTIMA[name]:
        found = minimize(
            lambda x: problem.function(x[None], 1.0)[0], point, tol=1e-14, method="Nelder-Mead"
        )
        assert problem.optimum == pytest.approx(found.fun, abs=1e-10)


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_regret_is_above_nothing_elsewhere(name):
    problem = make_problem(name)
    assert min(problem.regret(sampled) for sampled in points_of(problem, 200)) > 0


@pytest.mark.parametrize("name", CUBES)
def test_the_median_random_configuration_has_regret_one(name):
    problem = make_problem(name)
    regrets = [problem.regret(sampled) for sampled in points_of(problem, 4000, seed=1)]
    assert np.median(regrets) == pytest.approx(1, abs=0.05)


def test_branin_is_the_textbook_formula():
    random = np.random.default_rng(0)
    points = random.random((50, 2))
    a, b = 15 * points[:, 0] - 5, 15 * points[:, 1]
    plain = (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2
    plain = plain + 10 * (1 - 1 / (8 * math.pi)) * np.cos(a) + 10
    np.testing.assert_allclose(functions.branin(points, 1.0), plain)


@given(
    point=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    z=st.floats(0, 1),
)
def test_hartmann_with_a_fidelity_is_a_sum_over_four_bumps(point, z):
    for function, scales, centres in (
        (functions.hartmann3, functions._SCALES3, functions._CENTRES3),
        (functions.hartmann6, functions._SCALES6, functions._CENTRES6),
    ):
        expected = 0.0
        for alpha, scale, centre in zip((1.0, 1.2, 3.0, 3.2), scales, centres, strict=True):
            distance = sum(s * (x - c) ** 2 for s, x, c in zip(scale, point, centre, strict=False))
            expected -= (alpha - 0.1 * (1 - z)) * math.exp(-distance)
        dimensions = scales.shape[1]
        found = function(np.array([point[:dimensions]]), z)
        assert found[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["hartmann3", "hartmann6", "branin"])
def test_short_runs_are_biased_and_the_full_length_is_not(name):
    problem = make_problem(name)
    assert isinstance(problem, Biased)
    quiet = replace(problem, noise=0.0)
    points = points_of(problem, 300)
    full = np.array([problem.optimum + problem.scale * problem.regret(p) for p in points])
    errors = []
    for step in RUNGS:
        values = np.array([quiet.value(point, step, 0) for point in points])
        errors.append(np.abs(values - full).max())
    assert errors[-1] == pytest.approx(0, abs=1e-9)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_a_report_depends_on_its_arguments_alone(name):
    problem = make_problem(name)
    (sampled,) = points_of(problem, 1)
    for step in problem.rungs:
        assert problem.value(sampled, step, 5) == problem.value(sampled, step, 5)
        assert problem.value(sampled, step, 5) != problem.value(sampled, step, 6)


@pytest.mark.parametrize("name", CUBES)
def test_noise_has_its_spread_at_every_rung(name):
    problem = make_problem(name)
    assert isinstance(problem, Biased)
    (sampled,) = points_of(problem, 1)
    for step in (RUNGS[0], RUNGS[-1]):
        values = [problem.value(sampled, step, seed) for seed in range(2000)]
        assert np.std(values) == pytest.approx(problem.noise, rel=0.1)


def test_counting_ones_knows_its_best_and_worst():
    problem = make_problem("counting_ones")
    ones = dict.fromkeys(problem.domains, 1)
    zeros = dict.fromkeys(problem.domains, 0)
    assert (problem.regret(ones), problem.regret(zeros)) == (0, 1)
    assert (problem.value(ones, 9, 0), problem.value(zeros, 9, 0)) == (-1, 0)


def test_counting_ones_varies_like_one_over_the_budget():
    problem = make_problem("counting_ones")
    sampled = points_of(problem, 1)[0]
    shares = np.array([sampled[f"x.{i}"] for i in range(8)])
    for step in (9, 81, 729):
        values = 16 * np.array([problem.value(sampled, step, seed) for seed in range(2000)])
        assert values.var() == pytest.approx((shares * (1 - shares)).sum() / step, rel=0.12)
        assert values.mean() == pytest.approx(-16 * (1 - problem.regret(sampled)), abs=0.05)


def test_a_longer_rung_of_counting_ones_begins_with_the_shorter_one():
    """A mean over b draws that extend a draws moves by no more than the b - a new ones allow."""
    problem = make_problem("counting_ones")
    sampled = {**{f"c.{i}": 0 for i in range(8)}, **{f"x.{i}": 0.5 for i in range(8)}}
    for seed in range(50):
        sums = [-16 * step * problem.value(sampled, step, seed) for step in range(1, 40)]
        steps = np.diff(sums)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
        assert steps.min() >= -1e-9 and steps.max() <= 8 + 1e-9


def test_the_lowest_rungs_mislead_and_higher_ones_do_not():
    problem = make_problem("misleading")
    points = points_of(problem, 1500)
    full = [problem.regret(point) for point in points]

    def correlation(step: int) -> float:
        return spearmanr([problem.value(p, step, i) for i, p in enumerate(points)], full)[0]

    found = [correlation(step) for step in problem.rungs]
    assert max(abs(found[0]), abs(found[1])) < 0.1
    assert found[2] > 0.3
    assert found[2] < found[3] < found[4]


def test_the_decoy_of_the_misleading_problem_leads_elsewhere():
    problem = make_problem("misleading")
    best = OPTIMA["hartmann6"][0]
    decoy = settings_of(1 - x for x in reversed(best))
    assert problem.value(decoy, 9, 0) < problem.value(settings_of(best), 9, 0) - 1
    assert problem.regret(decoy) > 0.5


def test_random_settings_fill_their_domains():
    domains = {
        "choice": Choice(("a", "b")),
        "step": Integer(2, 10, step=4),
        "log_integer": Integer(1, 8, log=True),
        "log": LogUniform(1e-4, 1.0),
        "real": Uniform(-1.0, 1.0),
        "grid": Uniform(0.0, 1.0, step=0.25),
    }
    random = np.random.default_rng(0)
    drawn = [draw(domains, random) for _ in range(2000)]
    for key, domain in domains.items():
        assert all(domain.contains(one[key]) for one in drawn), key
    assert {one["choice"] for one in drawn} == {"a", "b"}
    assert {one["step"] for one in drawn} == {2, 6, 10}
    assert {one["log_integer"] for one in drawn} == set(range(1, 9))
    assert {one["grid"] for one in drawn} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert np.mean([one["log"] < 1e-2 for one in drawn]) == pytest.approx(0.5, abs=0.05)


def test_an_unknown_problem_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="counting_ones"):
        make_problem("counting_twos")
