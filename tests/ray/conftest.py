"""Real commands on real clusters: a place of their own for each, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest

from results.frame import load_reports, load_sweep

ROOT = Path(__file__).resolve().parents[2]
TOY = "trainables.toy:Toy"
PATIENCE_SECONDS = 120.0
"""Limit of every wait for something that happens; no test passes or fails by being fast."""

ENDING_SECONDS = 90.0
"""Limit for what ends by itself: after a `kill -9` a worker may look for its lost cluster for a
minute (RAY_gcs_rpc_server_reconnect_timeout_s). What a command leaves that ended in its own way is
tested in test_leaving."""

TIMING = ["seconds", "gpu_seconds"]

# Two keys over wide ranges, so that trials differ and asha has somebody to stop; the anchor is
# loss.squared.
SPACE = """
optimizer.lr: {log_uniform: [0.001, 1.0]}
loss.absolute.weight: {log_uniform: [0.01, 10.0]}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.slow)  # most take more than 10 s: a cluster each


@dataclass
class Place:
    """A short temporary directory, and the processes that were started for it.

    Ray puts sockets below RAY_TMPDIR, and a socket's path has 107 characters at most; pytest's
    own temporary directories are too deep. Every process of a cluster inherits RAY_TMPDIR, by
    which survivors are found.
    """

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def space(self, text: str = SPACE, name: str = "space") -> Path:
        file = self.path / f"{name}.yaml"
        file.write_text(text)
        return file

    def variables(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
        own = {"RAY_TMPDIR": str(self.path), "WEIGHBRIDGE_CACHE": str(self.path / "cache")}
        return {**inherited, **own, "COLUMNS": "200", **self.environment}

    def start(self, *arguments: object, verb: str = "sweep") -> subprocess.Popen[str]:
        """Starts `python -m ray_jobs.VERB` as the leader of its own process group."""
        command = [sys.executable, "-m", f"ray_jobs.{verb}", *map(str, arguments)]
        return self.popen(command)

    def popen(self, command: list[str], **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.variables(), **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def drain(self, process: subprocess.Popen[str]) -> list[str]:
        """Reads what a long process says, so that it never waits for a reader."""
        lines: list[str] = []

        def read() -> None:
            lines.extend(process.stdout or ())

        threading.Thread(target=read, daemon=True).start()
        return lines

    def run(self, *arguments: object, verb: str = "sweep") -> SimpleNamespace:
        return self.finish(self.start(*arguments, verb=verb))

    def finish(self, process: subprocess.Popen[str]) -> SimpleNamespace:
        out, err = process.communicate(timeout=4 * PATIENCE_SECONDS)
        return SimpleNamespace(status=process.returncode, out=out, err=err, text=out + err)

    def survivors(self) -> list[psutil.Process]:
        """Every process that was started, at any remove, with this place as its RAY_TMPDIR."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("RAY_TMPDIR") == str(self.path)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> None:
        """Waits for what is ending by itself, ends the rest, and says which that was."""
        until(lambda: not self.survivors(), seconds=ENDING_SECONDS, else_fail=False)
        left = [(process, describe(process)) for process in self.survivors()]
        for process, _ in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        for process in self.started:
            process.communicate()
        shutil.rmtree(self.path, ignore_errors=True)
        assert not left, f"processes that outlived their cluster: {[text for _, text in left]}"


def describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:160]}"
    return str(process.pid)


@contextlib.contextmanager
def new_place() -> Iterator[Place]:
    place = Place(Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp")))
    try:
        yield place
    finally:
        place.close()


@pytest.fixture
def place() -> Iterator[Place]:
    """For one test whose commands start clusters of their own."""
    with new_place() as made:
        yield made


@pytest.fixture(scope="module")
def shared_place() -> Iterator[Place]:
    with new_place() as made:
        yield made


@pytest.fixture(scope="session")
def sequential() -> Iterator[SimpleNamespace]:
    """An undisturbed sweep, one trial at a time: what every disturbed one must come to."""
    with new_place() as place:
        directory = place / "sweep"
        ran = place.run(TOY, *sequential_options(place, directory))
        assert ran.status == 0, ran.text
        yield SimpleNamespace(directory=directory, ran=ran)


@pytest.fixture(scope="session")
def brackets() -> Iterator[SimpleNamespace]:
    """The same with the default scheduler and sampler: trials wait at rungs, some go on."""
    with new_place() as place:
        directory = place / "sweep"
        ran = place.run(TOY, *bracket_options(place, directory))
        assert ran.status == 0, ran.text
        assert "scheduler brackets" in ran.out
        yield SimpleNamespace(directory=directory, ran=ran)


def sequential_options(place: Place, directory: Path, trials: int = 8) -> list[object]:
    """One trial at a time and a sampler without memory: what is decided hangs on no clock."""
    single = ("--max-concurrent", 1, "--sampler", "random", "--scheduler", "asha", "--seed", 3)
    return ["--space", place.space(), "--dir", directory, "--trials", trials, *single]


def bracket_options(place: Place, directory: Path) -> list[object]:
    """As many trials as it takes to be the default, one at a time; rungs at 2, 6 and 18."""
    length = ("train.steps=18", "train.report_every=2", "train.tensorboard=false")
    options = ("--max-concurrent", 1, "--seed", 3, *length)
    return ["--space", place.space(), "--dir", directory, "--trials", 22, *options]


def until(condition: Callable[[], object], seconds: float = 0.0, else_fail: bool = True) -> object:
    """Polls until the condition holds, and returns what it gave."""
    end = time.monotonic() + (seconds or PATIENCE_SECONDS)
    while not (value := condition()):
        if time.monotonic() > end:
            assert not else_fail, f"never came: {condition}"
            return value
        time.sleep(0.05)
    return value


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


def kill_group(process: subprocess.Popen[str]) -> None:
    """What the end of a node does: no process of the group has a last word."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def training_processes(place: Place) -> list[str]:
    """What belongs to a trial: Tune's actor, the controller of a group, and its workers."""
    names = ("ray::ImplicitFunc", "ray::TrainController", "ray::RayTrainWorker")
    return [text for text in map(describe, place.survivors()) if any(n in text for n in names)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def new_cluster(
    cpus: int, api_server: bool = True, grows_to: int = 0
) -> Iterator[SimpleNamespace]:
    """A cluster that outlives its drivers, as `ray start` makes it, with its own token and ports.

    Without the API server there is no dashboard, and nothing takes jobs. With `grows_to` Ray's
    autoscaler starts so many nodes of one CPU on demand, all of them on this machine.
    """
    import ray.util

    with new_place() as place:
        token = place / "token"
        token.write_text("a" * 64)
        place.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        options = {"port": 0, "num-cpus": cpus, "num-gpus": 0, "dashboard-port": free_port()}
        for service in ("dashboard-agent-listen", "ray-client-server"):
            options[f"{service}-port"] = free_port()  # two clusters on one host else share these
        options["include-dashboard"] = str(api_server).lower()
        if grows_to:
            options["port"] = free_port()
            address = f"{ray.util.get_node_ip_address()}:{options['port']}"
            options["autoscaling-config"] = autoscaling_file(place, address, cpus, grows_to)
        url = f"http://127.0.0.1:{options['dashboard-port']}"
        given = [f"--{name}={value}" for name, value in options.items()]
        program = str(Path(sys.executable).with_name("ray"))
        fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"} if grows_to else {}
        head = place.popen(
            [program, "start", "--head", "--block", "--disable-usage-stats", *given], **fake
        )
        drained = place.drain(head)
        current = place / "ray" / "ray_current_cluster"
        try:
            until(lambda: current.exists() or head.poll() is not None)
            assert head.poll() is None, drained
            address = str(until(lambda: current.read_text().strip()))
            yield SimpleNamespace(place=place, address=address, url=url, api_server=api_server)
        finally:
            until(lambda: not training_processes(place), seconds=30, else_fail=False)
            left = training_processes(place)
            for process in place.survivors():  # the cluster is ours; a gentle end takes it 30 s
                with contextlib.suppress(psutil.Error):
                    process.kill()
            head.wait(timeout=PATIENCE_SECONDS)
            assert not left, f"processes that outlived their sweep: {left}"


def autoscaling_file(place: Place, address: str, head_cpus: int, nodes: int) -> Path:
    """What Ray's own example says; its wheel lacks it."""
    provider = {
        "type": "fake_multinode",
        "gcs_address": address,
        "use_node_id_as_ip": True,  # or all nodes share one address
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    head = {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0}
    worker = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": nodes}
    commands = ("setup", "start_ray")
    content = {
        "cluster_name": "fake",
        "max_workers": nodes,
        "provider": provider,
        "auth": {"ssh_user": "none"},
        "available_node_types": {"ray.head.default": head, "worker": worker},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 10,
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{who}_{what}_commands": [] for who in ("head", "worker") for what in commands},
    }
    file = place / "autoscaling.yaml"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above, as one object (a conftest cannot be imported under importlib mode)."""
    helpers = (
        until,
        events,
        decisions,
        decided,
        frame,
        reports,
        check_equal,
        check_each_once,
        kill_group,
    )
    makers = (sequential_options, bracket_options, new_place, new_cluster)
    named = {helper.__name__: helper for helper in (*helpers, *makers)}
    return SimpleNamespace(TOY=TOY, ROOT=ROOT, SPACE=SPACE, **named)
