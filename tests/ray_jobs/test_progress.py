"""What the progress of a sweep says: steps, the best, the order of the table."""

from __future__ import annotations

import pytest

from ray_jobs.engine.driver import Driver
from ray_jobs.engine.trial import SweepContext
from ray_jobs.progress import Progress
from results.store import EventLog
from search.forecast import forecast
from search.jobs import Job
from search.objectives import Constraint, Goal, Objective
from search.plan import Plan
from search_spaces.domains import Uniform
from search_spaces.space import Space

ERROR = Objective("val.error", "min")


class Unseen:
    """Stands where a mirror would."""

    def follow(self, event):
        pass


@pytest.fixture
def make_driver(tmp_path):
    def make(goal=None, **planned):
        goal = goal or Goal((ERROR,))
        options = {"trials": 3, "seed": 0, "steps": 10, "report_every": 5, "sampler": "random"}
        options |= {"goal": goal, "scheduler": "none"}
        space = Space("line", "toy", {"x": Uniform(0.0, 1.0)})
        place = str(tmp_path)
        objective = (goal.objectives[0].metric, goal.objectives[0].mode)
        return Driver(
            plan=Plan(space=space, **{**options, **planned}),
            context=SweepContext(
                "toy", {}, place, place, "s", objective, goal.columns, 1, 1.0, 0.0
            ),
            log=EventLog(tmp_path / "log.jsonl"),
            mirror=Unseen(),
            max_concurrent=2,
            preflight=lambda sampled: [],
        )

    return make


def report(driver, step, **values):
    """Of the segment that was handed out as `run`."""
    seen = {f"val.{name}": value for name, value in values.items()}
    driver.reported("run", step, seen, 1.0, 0.0)


def train(driver, **values):
    """The next trial from its beginning to its end."""
    assert isinstance(driver.next("run"), Job)
    report(driver, 10, **values)
    driver.ended("run", failed=False)


def shown(progress):
    """The trials of the table from above."""
    return [int(cell) for cell in progress._table().columns[0].cells]


def test_steps_are_counted_as_far_as_the_trials_have_come(make_driver):
    """Not as they are handed out: what has not reported yet has trained nothing."""
    driver = make_driver()
    progress = Progress(driver)
    driver.next("run")
    driver.next("other")
    assert progress._steps_done() == 0
    report(driver, 5, error=1.0)
    assert progress._steps_done() == 5
    report(driver, 10, error=1.0)
    driver.ended("run", failed=False)
    assert progress._steps_done() == 10


def test_repeats_are_steps_to_come_and_no_part_of_the_budget(make_driver):
    driver = make_driver(trials=2, budget=2.0, repeats=2, repeat_top=1)
    progress = Progress(driver)
    assert progress.steps_expected == forecast(driver.plan, 2).steps == 40
    for error in (0.1, 0.2, 0.3):
        train(driver, error=error)
    driver.next("run")
    assert driver.state.trials[3].repeat_of == 0
    report(driver, 5, error=0.2)
    assert progress._steps_done() == 35
    assert "2.0 of 2 trainings spent" in progress._line()
    assert " s left" in progress._line()
    report(driver, 10, error=0.2)
    driver.ended("run", failed=False)
    line = progress._line()
    assert line.startswith(
        "trials: 2 complete, 2.0 of 2 trainings spent, 2 repeats; best draw of "
    )
    assert "left" not in line


def test_what_has_failed_has_nothing_left(make_driver):
    """Nor does one whose patience ended it early."""
    driver = make_driver(trials=4)
    progress = Progress(driver)
    train(driver, error=0.1)
    assert " s left" in progress._line()
    for reason in ("", "patience: val.error"):
        assert isinstance(driver.next("run"), Job)
        driver.reported("run", 5, {"val.error": 0.5}, 1.0, 0.0, reason)
        driver.ended("run", failed=not reason)
    assert " s left" in progress._line()
    driver.next("run")
    driver.ended("run", failed=True)
    assert "left" not in progress._line()


def test_the_last_line_promises_nothing(make_driver, capsys):
    driver = make_driver(trials=4)
    progress = Progress(driver)
    train(driver, error=0.1)
    assert " s left" in progress._line()
    progress.close()
    assert "left" not in capsys.readouterr().out


def test_the_end_of_any_sweep_is_foreseen(make_driver):
    assert Progress(make_driver(trials=10**5)).steps_expected == 10**6


def test_what_breaks_a_constraint_is_not_on_top(make_driver):
    goal = Goal((ERROR,), (Constraint.parse("val.size<=1"),))
    driver = make_driver(goal, trials=5)
    progress = Progress(driver)
    train(driver, error=0.1, size=2.0)
    assert "; none keeps the constraints yet" in progress._line()
    for error, size in ((0.5, 1.0), (0.3, 0.5), (0.2, 3.0)):
        train(driver, error=error, size=size)
    assert "best val.error 0.3 (trial 2)" in progress._line()
    assert shown(progress) == [2, 1, 0, 3]
    driver.next("run")
    assert shown(progress) == [4, 2, 1, 0, 3]  # what runs comes first


def test_of_several_objectives_the_front_is_on_top(make_driver):
    goal = Goal((ERROR, Objective("val.cost", "min")))
    driver = make_driver(goal, trials=4)
    progress = Progress(driver)
    for error, cost in ((0.5, 0.5), (0.4, 0.4), (0.1, 0.9), (float("nan"), 0.1)):
        train(driver, error=error, cost=cost)
    assert shown(progress) == [1, 2, 0, 3]
    assert "best val.error 0.4 (trial 1)" in progress._line()


def test_the_order_is_made_anew_only_with_another_complete_trial(make_driver):
    driver = make_driver()
    progress = Progress(driver)
    train(driver, error=0.5)
    first = progress._ranked()
    driver.next("run")
    report(driver, 5, error=0.1)
    assert progress._ranked() is first == [0]
    report(driver, 10, error=0.1)
    driver.ended("run", failed=False)
    assert progress._ranked() == [1, 0]


def test_where_few_are_complete_the_best_of_the_others_follow(make_driver):
    driver = make_driver(trials=4, scheduler="asha_promotion", rung_steps=(5,), eta=4)
    progress = Progress(driver)
    for error in (0.3, 0.2, 0.1):
        driver.next("run")
        report(driver, 5, error=error)
        driver.ended("run", failed=False)
    driver.next("run")
    driver.reported("run", 5, {"val.error": 0.01}, 1.0, 0.0, "health: gradient_norm 73 > 50")
    driver.ended("run", failed=False)
    assert [driver.state.trials[n].status for n in range(4)] == ["paused"] * 3 + ["stopped"]
    assert shown(progress) == [2, 1, 0, 3]
