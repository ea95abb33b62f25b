"""What a sweep that is ended for its failures says of them."""

from __future__ import annotations

import pytest

from ray_jobs.engine.failures import common_failure
from search.log import SweepState
from search.objectives import Goal, Objective
from search.plan import Plan
from search_spaces.domains import LogUniform, Uniform
from search_spaces.space import Space


@pytest.fixture
def plan():
    space = Space("s", "toy", {"width": Uniform(0.0, 100.0), "lr": LogUniform(1e-4, 1.0)})
    goal = Goal((Objective("val.x", "min"),))
    return Plan(space=space, goal=goal, trials=9, steps=10, report_every=5, scheduler="none")


def trial(number, state, width, lr=0.01, **more):
    value = {"value": 1.0, "values": {"val.x": 1.0}} if state == "complete" else {"value": None}
    handed_out = {"event": "handed_out", "trial": number, "segment": 0, "seed": 0, "stop_step": 10}
    ended = {"event": "ended", "trial": number, "segment": 0, "state": state, "step": 0}
    return [{**handed_out, "sampled": {"width": width, "lr": lr}}, {**ended, **value, **more}]


def write_error(folder, number, text):
    (folder / f"trials/{number:04d}").mkdir(parents=True)
    (folder / f"trials/{number:04d}/error.txt").write_text(text)


def test_the_commonest_error_and_where_it_is(plan, tmp_path):
    memory = "OutOfMemoryError: CUDA out of memory. Tried to allocate {} GiB"
    write_error(tmp_path, 0, f"first line\n\nTraceback:\n{memory.format(2.5)}\n")
    write_error(tmp_path, 1, f"first line\n\nTraceback:\n{memory.format(14)}\n\n")
    write_error(tmp_path, 2, "RuntimeError: the disk of the data is gone\n")
    events = [*trial(0, "failed", 60.0), *trial(1, "failed", 90.0, lr=0.02)]
    events += [*trial(2, "failed", 1.0), *trial(3, "complete", 10.0), *trial(4, "complete", 20.0)]
    state = SweepState(events)
    assert common_failure(plan, state, tmp_path) == [
        f"2 of the 3 failed trials: {memory.format(14)}",
        "all of them have width from 60 to 90, 30% of its range; of the 2 trials with a value "
        "none lie there",
    ]


def test_without_a_file_the_log_tells_the_reason(plan, tmp_path):
    state = SweepState(trial(0, "failed", 60.0, reason="its node is gone"))
    assert common_failure(plan, state, tmp_path) == ["the one failed trial: its node is gone"]
    assert common_failure(plan, SweepState(), tmp_path) == []


def where(plan, tmp_path, widths, *others):
    """What is said of failures at some widths (of 0 to 100) beside other trials."""
    rates = (1e-4, 1.0)  # all of that range
    failed = [
        trial(n, "failed", width, lr=rates[n % 2], reason="x") for n, width in enumerate(widths)
    ]
    events = [event for one in (*failed, *others) for event in one]
    _, *told = common_failure(plan, SweepState(events), tmp_path)
    return told


def test_where_chance_would_put_them_is_no_part(plan, tmp_path):
    """Of n random draws the range is (n - 1) / (n + 1) of the whole on average."""
    assert where(plan, tmp_path, [40.0, 75.0]) == []
    assert where(plan, tmp_path, [10.0, 40.0, 55.0, 60.0, 90.0]) == []
    told = where(plan, tmp_path, [80.0, 83.0, 85.0, 86.0, 90.0])
    assert told == ["all of them have width from 80 to 90, 10% of its range"]
    inside = trial(9, "complete", 85.0)
    assert where(plan, tmp_path, [40.0, 90.0], inside) == [], "who lies there as well is sound"


def test_one_sound_trial_is_told_as_one(plan, tmp_path):
    told = where(plan, tmp_path, [60.0, 90.0], trial(9, "complete", 10.0))
    assert told[0].endswith("; the one trial with a value lies elsewhere")


def test_who_has_reported_and_failed_is_not_sound(plan, tmp_path):
    values = {"value": 1.0, "values": {"val.x": 1.0}}
    reported = trial(9, "failed", 10.0, reason="another one", **values)
    assert where(plan, tmp_path, [60.0, 90.0], reported) == []
