"""What a plan would cost, against sums by hand and against sweeps that were simulated."""

from __future__ import annotations

import pytest

from search.forecast import Forecast, Row, forecast
from search.objectives import Constraint, Goal, Objective
from search.options import SCHEDULERS
from search.simulator import simulate
from search_spaces.space import Point

POINTS = (Point("before", {"x": 0.0, "y": 0.0}), Point("document", {"x": 0.5, "y": 0.5}))


@pytest.fixture(scope="module")
def make(make_plan):
    """Levels 10, 30, 90, 270 where there are rungs."""

    def made(scheduler, **options):
        return make_plan(scheduler=scheduler, **({"steps": 270, "trials": 27} | options))

    return made


def test_without_rungs_it_is_a_product(make):
    assert forecast(make("none"), 4) == Forecast(
        (270,), (Row("trials", (27,), 27 * 270),), 7 * 270
    )


def test_successive_halving_by_hand(make):
    steps = 27 * 10 + 9 * 20 + 3 * 60 + 1 * 180
    one = forecast(make("halving"), 1)
    assert one == Forecast((10, 30, 90, 270), (Row("trials", (27, 9, 3, 1), steps),), steps)
    assert (one.steps, one.complete) == (steps, 1)
    assert one.trainings == pytest.approx(3.0)
    # 14 rounds of 10, 5 of 20, 2 of 60, 1 of 180: two at a time, and at each rung all of it
    assert forecast(make("halving"), 2).elapsed_steps == 14 * 10 + 5 * 20 + 2 * 60 + 180


def test_the_table_has_a_line_for_each_row_and_one_for_all(make):
    plan = make("brackets", trials=150, points=POINTS, repeats=2, repeat_top=1)
    found = forecast(plan, 4)
    assert [row.name for row in found.rows] == [
        "bracket 0: from step 10",
        "bracket 1: from step 30",
        "bracket 2: from step 90",
        "bracket 3: to the end",
        "documented points",
        "repeats",
    ]
    assert [row.reached[0] for row in found.rows[-2:]] == [2, 2 * 3]  # two draws of 1 + 2 points
    assert sum(row.reached[0] for row in found.rows[:-2]) == 148
    for row in found.rows:
        assert list(row.reached) == sorted(row.reached, reverse=True)
        assert row.steps >= 10 * row.reached[0]
    table = found.table()
    assert table[0] == ["", "step 10", "step 30", "step 90", "step 270", "steps", "trainings"]
    assert table[-1][0] == "all"
    for column in range(1, 6):
        assert sum(int(line[column]) for line in table[1:-1]) == int(table[-1][column])
    assert table[-1][-1] == f"{found.trainings:.1f}"


@pytest.mark.parametrize(
    ("name", "tolerance"), [("brackets", 3), ("halving", 0), ("asha", 14), ("asha_promotion", 14)]
)
def test_it_is_about_what_a_sweep_does(make, name, tolerance):
    """Another sweep, with values that have nothing to do with those of the forecast."""
    plan = make(name, trials=120)

    def observe(job, step):
        return {"val.error": (job.sampled["x"] - 0.3) ** 2 + job.sampled["y"] ** 2}

    state = simulate(plan, observe, workers=4).state
    found = forecast(plan, 4)
    for index, level in enumerate(found.levels):
        total = sum(row.reached[index] for row in found.rows)
        # Without a quota how many pass is random: of 120 with a chance of 1 / 3, 40 +- 5.
        assert abs(total - len(state.rungs[level])) <= tolerance


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_whatever_the_objective(make, name):
    goal = Goal((Objective("a", "min"), Objective("b", "max")), (Constraint.parse("c<=0"),))
    plan = make(name, trials=20)
    found = forecast(plan, 3)
    assert sum(row.reached[0] for row in found.rows) == 20
    assert forecast(make(name, trials=20, goal=goal), 3) == found


def test_beyond_some_trials_it_is_in_proportion(make, monkeypatch):
    monkeypatch.setattr("search.forecast.LARGEST", 102)
    small, large = (forecast(make("brackets", trials=n, points=POINTS), 4) for n in (102, 1002))
    assert small.rows[-1] == large.rows[-1]  # the documented points
    for one, many in zip(small.rows[:-1], large.rows[:-1], strict=True):
        assert many.reached == pytest.approx([10 * n for n in one.reached], abs=5)
        assert many.steps == pytest.approx(10 * one.steps, rel=0.02)
    budget = forecast(make("brackets", trials=10**6, budget=900.0), 4)
    assert budget.trainings == pytest.approx(900.0, rel=0.001)


def test_repeats_are_no_part_of_the_budget(make):
    """They are trained beside it, however many trials it pays for."""
    plan = make("brackets", trials=10**6, budget=900.0, points=POINTS, repeats=3)
    found = forecast(plan, 4)
    assert (found.rows[-1].name, found.rows[-1].steps) == ("repeats", 3 * (3 + 2) * 270)
    assert found.trainings == pytest.approx(900.0 + 15.0, rel=0.001)


def test_a_budget_ends_it(make):
    found = forecast(make("brackets", trials=10**6, budget=5.0), 2)
    assert 5.0 <= found.trainings < 5.0 + 2.0
