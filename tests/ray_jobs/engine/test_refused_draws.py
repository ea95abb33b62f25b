"""Draws that are refused one after another, in the driver's own loop."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# Ctrl-C comes while draw after draw is refused, which no turn of Tune's loop interrupts.
REFUSED = """
import os, signal, sys, threading, time
from pathlib import Path

from ray_jobs.engine.driver import Driver
from ray_jobs.engine.execute import _stop_on_signals
from ray_jobs.engine.trial import SweepContext
from results.store import EventLog
from search.objectives import Goal, Objective
from search.plan import Plan
from search_spaces.domains import Uniform
from search_spaces.space import Space


def preflight(sampled):
    if not (folder / "begun").exists():
        (folder / "begun").touch()
    time.sleep(0.01)
    raise ValueError("x and y must agree")


class Nobody:
    def follow(self, event): ...


folder = Path(sys.argv[1])
plan = Plan(
    space=Space("line", "toy", {"x": Uniform(0.0, 1.0)}), trials=10**6, sampler="random",
    goal=Goal((Objective("val.x", "min"),)), steps=10, report_every=5, max_failed_in_a_row=0,
    max_failed_share=1.0,
)
context = SweepContext(
    system="toy", settings={}, directory=str(folder), cache=str(folder), session="s",
    objective=("val.x", "min"), columns=("val.x",), workers=1, cpus=1.0, gpus=0.0,
)
driver = Driver(plan, context, EventLog(folder / "log.jsonl"), Nobody(), 2, preflight)
with _stop_on_signals(driver):
    job = driver.next("first")
print(type(job).__name__, driver.stopping)
"""


@pytest.mark.slow
def test_ctrl_c_is_heard_while_draws_are_refused(tmp_path):
    """A real process and a real signal; without Ray, which has no part in this loop."""
    process = subprocess.Popen(
        [sys.executable, "-c", REFUSED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 50.0
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=40.0)
    finally:
        process.kill()
    assert (said, process.returncode) == ("Done Ctrl-C\n", 0)
