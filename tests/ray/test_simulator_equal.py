"""Ray and the simulator decide alike: a sweep that was run is simulated on its own reports."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from ray_jobs.sweeping.resume import stored_setup
from results.frame import load_reports
from search.jobs import Job, next_job
from search.log import SweepState
from search.simulator import simulate

ASKED = ("trial", "segment", "sampled", "seed", "stop_step", "bracket", "repeat_of", "point")


def logged_values(directory, plan):
    """What each trial reported, by trial and step; a column that is not finite is absent."""
    rows = load_reports(directory).to_dict("records")
    return {
        (row["trial"], row["step"]): {
            column: row[column] for column in plan.goal.columns if math.isfinite(row[column])
        }
        for row in rows
    }


def of_trials(events):
    """Without clocks, and without the marks of sessions."""
    return [
        {k: v for k, v in event.items() if k not in ("time", "seconds")}
        for event in events
        if "trial" in event
    ]


@pytest.mark.parametrize("undisturbed", ["sequential", "brackets"])
def test_a_sweep_one_at_a_time_is_its_simulation(request, kit, undisturbed):
    directory = request.getfixturevalue(undisturbed).directory
    plan = stored_setup(directory).plan
    values = logged_values(directory, plan)
    simulated = simulate(plan, lambda job, step: values[job.trial, step])
    assert of_trials(simulated.events) == of_trials(kit.events(directory))


@pytest.fixture(scope="module")
def two_at_once(shared_place, kit):
    """Ends come in an order of their own; brackets and TPE, repeats at the end."""
    directory = shared_place / "sweep"
    options = [o for o in kit.bracket_options(shared_place, directory) if o != "--max-concurrent"]
    options.remove(1)
    ran = shared_place.run(kit.TOY, *options, "--cpus", 0.5, "--max-concurrent", 2, "--repeats", 1)
    assert ran.status == 0, ran.text
    return SimpleNamespace(directory=directory)


def test_every_job_follows_from_the_log_before_it(two_at_once, kit):
    """Whoever reads the log up to any job would hand out the same one."""
    plan = stored_setup(two_at_once.directory).plan
    log, state, checked = kit.events(two_at_once.directory), SweepState(), 0
    for event in log:
        if event["event"] == "handed_out":
            job = next_job(plan, state)
            assert isinstance(job, Job)
            decided = {name: getattr(job, name) for name in ASKED}
            assert decided == {name: event[name] for name in ASKED}
            checked += 1
        state.apply(event)
    assert checked > plan.trials
    assert any(event.get("repeat_of") is not None for event in log)
    most = [len(SweepState(log[:n]).live) for n in range(len(log))]
    assert max(most) == 2
