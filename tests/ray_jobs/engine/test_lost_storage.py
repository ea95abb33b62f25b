"""A trial whose node has lost the sweep's directory while the driver has it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ray_jobs.engine import nodes
from ray_jobs.engine import trial as segments
from ray_jobs.engine.driver import Driver
from ray_jobs.engine.trial import SweepContext
from results.store import EventLog
from search.objectives import Goal, Objective
from search.plan import Plan
from search_spaces.domains import Uniform
from search_spaces.space import Space
from trainables import run
from trainables.run import owner_check


class Unseen:
    """Stands where a mirror would."""

    def follow(self, event):
        pass


class Away(type(Path())):
    """A file on a network file system that is away. A stand-in: none can be mounted here."""

    def read_bytes(self):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))


@pytest.fixture
def driver(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(nodes, "note", lambda folder, segment: None)
    goal, place = Goal((Objective("val.x", "min"),)), str(tmp_path)
    length = {"steps": 10, "report_every": 5, "sampler": "random", "scheduler": "none"}
    space = Space("line", "toy", {"x": Uniform(0.0, 1.0)})
    return Driver(
        plan=Plan(space=space, goal=goal, trials=3, **length),
        context=SweepContext(
            "toy", {}, place, place, "s", ("val.x", "min"), ("val.x",), 1, 1.0, 0.0
        ),
        log=EventLog(tmp_path / "log.jsonl"),
        mirror=Unseen(),
        max_concurrent=1,
        preflight=lambda sampled: [],
    )


def attempt(driver, monkeypatch, fail):
    """One attempt of the next trial, which ends as `fail` does; how it was taken."""
    monkeypatch.setattr(segments, "_run", lambda payload, context, job: fail())
    job = driver.next("a")
    with pytest.raises((OSError, RuntimeError)):
        segments.run_segment({"job": {"trial": job.trial, "segment": job.segment}}, driver.context)
    driver.ended("a", failed=True)
    end = driver.log.read()[-1]
    return end["trial"], end["state"], end["reason"]


def test_it_is_preempted_and_not_failed_unless_it_comes_no_further(driver, monkeypatch, tmp_path):
    lock = Away(tmp_path / "lock")
    for _ in range(2):
        ended = attempt(driver, monkeypatch, owner_check(lock, "s"))
        assert ended == (0, "interrupted", "preempted: its node has lost the sweep's directory")
        assert driver.state.trials[0].failures == 0
    trial, state, reason = attempt(driver, monkeypatch, owner_check(lock, "s"))
    assert (trial, state) == (0, "failed")
    assert reason.startswith("its node has lost the sweep's directory: 3 in a row")
    said = (tmp_path / "trials/0000/error.txt").read_text()
    assert "Stale file handle" in said and "still mount the storage of --dir?" in said
    assert said.splitlines()[-1] == reason


def test_the_cause_of_a_failure_is_the_last_line_of_its_file(driver, monkeypatch, tmp_path):
    """One line, however many its message has; the log has the same."""

    def fail():
        raise RuntimeError("the tensors do not fit:\n  a: 3\n  b: 4")

    ended = attempt(driver, monkeypatch, fail)
    assert ended == (0, "failed", "RuntimeError: the tensors do not fit: a: 3 b: 4")
    lines = (tmp_path / "trials/0000/error.txt").read_text().splitlines()
    assert lines[0].startswith("Traceback") and lines[-1] == ended[2]
