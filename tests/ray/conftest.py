"""Sweeps that every disturbed one must come to, and how two are compared; running.py runs them.

`make test` gives each class, and the functions of each file, to one test process (`--dist
loadscope`): tests that share a cluster or a sweep stand together, long ones apart. It begins with
what takes minutes, and ends with the classes and files that are marked `last`.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest

from results.frame import load_reports, load_sweep

TOY = "trainables.toy:Toy"


def load_running() -> ModuleType:
    """The module beside this file, which importlib mode keeps off the import path."""
    name = "running_of_ray_tests"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("running.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


running = load_running()
Place, Cluster = running.Place, running.Cluster

STOPPED_GROUPS = (
    *("--workers", 2, "--cpus", 1, "--trials", 2, "--max-concurrent", 1),
    *("--sampler", "random", "--seed", 6, "--eta", 2, "--grace", 10),
    *("train.steps=40", "train.report_every=10", "train.batch_size=4", "data.delay_seconds=0.02"),
)
"""Two trials, groups of two workers. The first is the best, so the second is stopped at step 10;
it is slow enough to be training still.
"""

TIMING = ["seconds", "gpu_seconds"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.slow)  # most take more than 10 s: a cluster each
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture
def place() -> Iterator[Place]:
    """For one test whose commands start clusters of their own."""
    with running.new_place() as made:
        yield made


@pytest.fixture(scope="module")
def shared_place() -> Iterator[Place]:
    with running.new_place() as made:
        yield made


@pytest.fixture(scope="session")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An undisturbed sweep, one trial at a time: what every disturbed one must come to."""
    return swept_once(tmp_path_factory, "sequential", sequential_options)


@pytest.fixture(scope="session")
def brackets(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same with the default scheduler and sampler: trials wait at rungs, some go on."""
    undisturbed = swept_once(tmp_path_factory, "brackets", bracket_options)
    assert "scheduler brackets" in undisturbed.text
    return undisturbed


def swept_once(
    factory: pytest.TempPathFactory, name: str, options: Callable[[Place, Path], list[object]]
) -> SimpleNamespace:
    """The sweep, run by the first test process that asks and read by all others; `left` is what
    outlived it of the cluster that it started.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    directory, said = root / name, root / f"{name}.json"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            with running.new_place() as place:
                ran = place.run(TOY, *options(place, directory))
                assert ran.status == 0, ran.text
                left = place.left()
            said.write_text(json.dumps({"text": ran.text, "left": left}))
    return SimpleNamespace(directory=directory, **json.loads(said.read_text()))


def sequential_options(place: Place, directory: Path, trials: int = 8) -> list[object]:
    """One trial at a time and a sampler without memory: what is decided hangs on no clock."""
    single = ("--max-concurrent", 1, "--sampler", "random", "--scheduler", "asha", "--seed", 3)
    return ["--space", place.space(), "--dir", directory, "--trials", trials, *single]


def bracket_options(place: Place, directory: Path) -> list[object]:
    """As many trials as it takes to be the default, one at a time; rungs at 2, 6 and 18."""
    length = ("train.steps=18", "train.report_every=2", "train.tensorboard=false")
    options = ("--max-concurrent", 1, "--seed", 3, *length)
    return ["--space", place.space(), "--dir", directory, "--trials", 22, *options]


def events(directory: Path, name: str = "") -> list[dict]:
    """The log so far, as any JSON reader sees it; a line that is being written is left out."""
    file = directory / "log.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [event for event in map(json.loads, lines) if not name or event["event"] == name]


def decisions(directory: Path) -> list[dict]:
    """The log without clocks and identities."""
    unequal = {"time", "seconds", "session", "pid", "host"}
    return [{k: v for k, v in e.items() if k not in unequal} for e in events(directory)]


def decided(directory: Path) -> list[tuple]:
    """What was decided, in its order: jobs, rungs and ends. A segment that was begun again, and
    what it said again, count once.
    """
    kept: dict[tuple, None] = {}
    unequal = {"segment", "notes", "start", "reason"}
    for event in decisions(directory):
        if "trial" in event and event.get("state") != "interrupted":
            plain = {k: v for k, v in event.items() if k not in unequal}
            kept[(event["event"], json.dumps(plain, sort_keys=True))] = None
    return list(kept)


def frame(directory: Path) -> pd.DataFrame:
    """The frame as it must be equal between two runs: no clocks, checkpoints by relative path."""
    found = load_sweep(directory).drop(columns=TIMING)
    names = [name.removeprefix(str(directory.resolve())) for name in found["checkpoint"]]
    return found.assign(checkpoint=names)


def reports(directory: Path) -> pd.DataFrame:
    """Every report without clocks and without the segment, which counts the interruptions."""
    return load_reports(directory).drop(columns=["seconds", "segment"])


def check_equal(directory: Path, undisturbed: Path) -> None:
    pd.testing.assert_frame_equal(frame(directory), frame(undisturbed))
    pd.testing.assert_frame_equal(reports(directory), reports(undisturbed))


def check_each_once(directory: Path, trials: int, report_every: int = 5) -> None:
    """No trial lost, none done twice: one row for each step, each trial ended for good once, and
    at no rung twice.
    """
    found = load_sweep(directory)
    assert found["trial"].tolist() == list(range(trials))
    assert set(found["state"]) <= {"complete", "stopped", "paused"}, found[["trial", "state"]]
    ended = [e for e in events(directory, "ended") if e["state"] != "interrupted"]
    assert {e["trial"] for e in ended} == set(range(trials))
    places = [(e["trial"], e["step"]) for e in ended]
    assert len(set(places)) == len(places)
    final = [e["trial"] for e in ended if e["state"] != "paused"]
    assert len(set(final)) == len(final)
    for trial, steps in found.set_index("trial")["steps"].items():
        lines = (directory / "reports" / f"{trial:04d}.jsonl").read_text().splitlines()
        written = [json.loads(line)["step"] for line in lines]
        assert written == list(range(report_every, steps + 1, report_every)), trial


def check_given_back(cluster: Cluster) -> None:
    """Nothing of a cluster of 2 CPUs is taken. Polled for some time, since a process takes its
    time to end.
    """
    whole = {"cpu": 2.0, "groups": 0, "nodes": 1}
    running.until(lambda: cluster.look() == whole, seconds=60, else_fail=False)
    assert cluster.look() == whole


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above, as one object (a conftest cannot be imported under importlib mode)."""
    helpers = (events, decisions, decided, frame, reports)
    checks = (check_equal, check_each_once, check_given_back)
    options = (sequential_options, bracket_options)
    started = (running.until, running.kill_group, running.new_cluster)
    named = {helper.__name__: helper for helper in (*helpers, *checks, *options, *started)}
    constants = {"TOY": TOY, "STOPPED_GROUPS": STOPPED_GROUPS}
    return SimpleNamespace(ROOT=running.ROOT, SPACE=running.SPACE, **constants, **named)
