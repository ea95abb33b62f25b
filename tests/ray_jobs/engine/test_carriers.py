"""What the driver hears of a trial by way of Tune."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

TELLS = """
import json, sys, time, types
from pathlib import Path

now = time.time
time.time = lambda: now() + 3600.0
ray = types.ModuleType("ray")
ray.tune = types.SimpleNamespace(report=lambda part: print(json.dumps(part)))
sys.modules["ray"] = ray

from ray_jobs.engine.trial import SweepContext, _ReportTail
from trainables.run import TuneRun

directory = Path(sys.argv[1])
report = {"step": 5, "segment": 0, "seconds": 1.0, "val.x": 0.5}
if sys.argv[2] == "trial":
    run = TuneRun(directory, columns=("val.x",))
    time.sleep(0.2)
    run.tell(report)
else:
    context = SweepContext(
        system="toy", settings={}, directory=str(directory), cache="", session="s",
        objective=("val.x", "min"), columns=("val.x",), workers=2, cpus=1.0, gpus=0.0,
    )
    tail = _ReportTail(context, {"trial": 0, "segment": 0, "resume": False})
    (directory / "reports").mkdir()
    (directory / "reports" / "0000.jsonl").write_text(json.dumps(report) + chr(10))
    time.sleep(0.2)
    tail.pass_on()
"""
"""What Tune hears of a trial on a node whose clock is an hour ahead. The clock is emulated, and
Tune: it would take a cluster to hand one dict on."""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["trial", "group"])
def test_clocks_of_two_nodes_are_not_compared(tmp_path, part):
    """`seconds` of the segment is made of what the driver hears, and of its own clock."""
    from ray_jobs.engine.carriers import StopCarrier

    command = [sys.executable, "-c", TELLS, str(tmp_path), part]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    values = {f"values/{column}": value for column, value in told.pop("values").items()}
    heard = []
    driver = SimpleNamespace(reported=lambda *report: heard.append(report))
    trial = SimpleNamespace(trial_id="a")
    StopCarrier(lambda: driver).on_trial_result(None, trial, {**told, **values})
    ((*before, segment_seconds, reason),) = heard
    assert (before, reason) == (["a", 5, {"val.x": 0.5}, 1.0], "")
    assert 0.2 <= segment_seconds < 600.0
