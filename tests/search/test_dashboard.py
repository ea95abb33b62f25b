"""optuna-dashboard itself, on the journal of a sweep: what its API tells is what the log tells."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from search.optuna.mirror import Mirror
from search_spaces.domains import Choice, LogUniform
from search_spaces.space import Point, Space

pytestmark = pytest.mark.slow

# The installed command, found as pip's own script finds it.
COMMAND = (
    "from importlib.metadata import entry_points\n"
    "(command,) = entry_points(group='console_scripts', name='optuna-dashboard')\n"
    "command.load()()"
)
STATES = {"complete": "Complete", "stopped": "Pruned", "failed": "Fail"}
PATIENCE_SECONDS = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Dashboard:
    """The command on a journal, until `close`."""

    def __init__(self, journal, log):
        self.port, self.log = free_port(), log
        # The API answers on this machine only, past any proxy.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        arguments = ["--host", "127.0.0.1", "--port", str(self.port), str(journal)]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def get(self, path):
        url = f"http://127.0.0.1:{self.port}/api/{path}"
        with self.opener.open(url, timeout=30) as answer:
            return json.load(answer)

    def until(self, path, holds):
        """The answer once it holds: the dashboard keeps trials for some seconds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds(answer := self.get(path)) and time.monotonic() < deadline:
            time.sleep(0.5)
        return answer

    def wait(self):
        """Whether it answers; False where it ended, as when another process took the port."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self.get("studies")
                return True
            except urllib.error.URLError:
                time.sleep(0.2)
        return False

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def dashboard(tmp_path):
    """Starts a dashboard on a journal."""
    started = []

    def start(journal):
        for attempt in range(3):
            started.append(Dashboard(journal, tmp_path / f"dashboard-{attempt}.txt"))
            if started[-1].wait():
                return started[-1]
        pytest.fail(f"optuna-dashboard did not start: {started[-1].log.read_text()}")

    yield start
    for item in started:
        item.close()


@pytest.fixture
def sweep(make_plan, executor):
    """A finished sweep: a point, trials that were stopped, one that failed."""
    domains = {
        "model.kind": Choice(("wide", "deep")),
        "loss.weight": LogUniform(0.1, 10.0),
    }
    plan = make_plan(
        trials=7,
        points=(Point("document", {"model.kind": "deep", "loss.weight": 1.0}),),
        scheduler="asha",
        grace=10,
        max_failures=0,
    )
    plan = dataclasses.replace(plan, space=Space("two", "toy", domains))
    run = executor(plan, lambda sampled, step: sampled["loss.weight"] + 1.0 / step)
    run.hand_out()
    run.hand_out()
    run.end(1, "failed", 10, None, "out of memory")
    return run.run(concurrent=2)


def attributes(node):
    return {item["key"]: item["value"] for item in node["user_attrs"]}


def test_the_dashboard_shows_the_sweep_and_follows_it(sweep, dashboard, tmp_path):
    assert {record.status for record in sweep.state.trials.values()} == set(STATES)
    half = len(sweep.log) // 2
    journal = tmp_path / "journal.log"
    mirror = Mirror(journal, sweep.plan, "my_sweep", sweep.log[:half])
    mirror.open()
    shown = dashboard(journal)

    (study,) = shown.get("studies")["study_summaries"]
    assert study["study_name"] == "my_sweep"
    assert study["directions"] == ["minimize"]
    assert attributes(study) == {"objective": "val.error"}
    path = f"studies/{study['study_id']}"
    numbers = sorted({event["trial"] for event in sweep.log[:half] if "trial" in event})
    assert [trial["number"] for trial in shown.get(path)["trials"]] == numbers

    for event in sweep.log[half:]:
        mirror.follow(event)
    found = shown.until(path, lambda study: len(study["trials"]) == 7)
    assert [trial["number"] for trial in found["trials"]] == list(range(7))
    for trial in found["trials"]:
        record = sweep.state.trials[trial["number"]]
        assert trial["state"] == STATES[record.status]
        complete = record.status == "complete"
        assert trial.get("values") == ([record.value] if complete else None)
        params = {p["name"]: p["param_external_value"] for p in trial["params"]}
        assert params == {key: str(value) for key, value in record.sampled.items()}
        curve = {point["step"]: point["value"] for point in trial["intermediate_values"]}
        assert curve == {step: values["val.error"] for step, values in record.rungs.items()}
        assert attributes(trial).get("reason", "") == record.reason
    assert attributes(found["trials"][0])["point"] == "document"
    least = min(r.value for r in sweep.state.trials.values() if r.status == "complete")
    assert [trial["values"] for trial in found["best_trials"]] == [[least]]
