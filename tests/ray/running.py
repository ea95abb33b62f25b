"""Commands and clusters of Ray, each in a place of its own, and nothing left behind."""

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
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 240.0
"""Limit of every wait for something that happens; no test passes or fails by being fast."""

ENDING_SECONDS = 180.0
"""Limit for what ends by itself: after a `kill -9` a worker may look for its lost cluster for a
minute (RAY_gcs_rpc_server_reconnect_timeout_s). What a command leaves that ended in its own way is
tested in test_leaving."""

HEALTH_CHECK_PERIOD = "1000"
"""In ms; 3000 by default. Ray counts a node as dead after five, which is still more than a sweep
waits for the loss of a node to show (NOTICE_SECONDS in ray_jobs/engine/nodes.py)."""

WITHOUT_EXTRAS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers ahead of the first task: seconds of CPU each, and a trial gets a process of its own.
    "RAY_prestart_worker_first_driver": "0",
}

SPACE = """
optimizer.lr: {log_uniform: [0.001, 1.0]}
loss.absolute.weight: {log_uniform: [0.01, 10.0]}
"""
"""Two keys over wide ranges, so that trials differ and asha has somebody to stop; the anchor is
loss.squared."""


@dataclass
class Place:
    """A short temporary directory, and the processes that were started for it.

    In memory where pytest's own directories are (tests/conftest.py), but not below them: Ray puts
    sockets below RAY_TMPDIR, a socket's path has 107 characters at most, and those are too deep.
    Every process of a cluster inherits RAY_TMPDIR, by which survivors are found.
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
        return {**inherited, **WITHOUT_EXTRAS, **own, "COLUMNS": "200", **self.environment}

    def start(self, *arguments: object, verb: str = "sweep") -> subprocess.Popen[str]:
        """Starts `python -m ray_jobs.VERB` as the leader of its own process group."""
        command = [sys.executable, "-m", f"ray_jobs.{verb}", *map(str, arguments)]
        return self.popen(command)

    def popen(
        self, command: list[str], stdin: int = subprocess.DEVNULL, **more: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.variables(), **more},
            stdin=stdin,
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
        out, err = process.communicate(timeout=3 * PATIENCE_SECONDS)
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

    def kill_survivors(self) -> None:
        for process in self.survivors():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def left(self) -> list[str]:
        """What is alive twenty seconds from now, which a busy machine may need: two of Ray's
        processes look for a cluster that is gone for a minute.
        """
        until(lambda: not self.survivors(), seconds=20, else_fail=False)
        return list(map(describe, self.survivors()))

    def check_nothing_is_left(self) -> None:
        left = self.left()
        assert not left, left

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
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT", "/tmp")
    place = Place(Path(tempfile.mkdtemp(prefix="wb-", dir=root)))
    try:
        yield place
    finally:
        place.close()


def until(condition: Callable[[], object], seconds: float = 0.0, else_fail: bool = True) -> object:
    """Polls until the condition holds, and returns what it gave."""
    end = time.monotonic() + (seconds or PATIENCE_SECONDS)
    while not (value := condition()):
        if time.monotonic() > end:
            assert not else_fail, f"never came: {condition}"
            return value
        time.sleep(0.05)
    return value


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


# What a cluster has, whenever a line is sent: CPUs that are free, placement groups, live nodes.
LOOK = """
import json, sys
import ray
from ray.util.placement_group import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
for _ in sys.stdin:
    groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    free = ray.available_resources().get("CPU", 0.0)
    nodes = sum(node["Alive"] for node in ray.nodes())
    print("look", json.dumps({"cpu": free, "groups": len(groups), "nodes": nodes}), flush=True)
"""


@dataclass
class Cluster:
    """A running cluster: its place, the address for drivers, the URL for jobs."""

    place: Place
    address: str
    url: str
    observer: subprocess.Popen[str] | None = None

    def look(self) -> dict[str, float]:
        """Free CPUs, placement groups and live nodes (the head is one), by a driver that stays
        connected.
        """
        if self.observer is None:
            command = [sys.executable, "-c", LOOK, self.address]
            self.observer = self.place.popen(command, stdin=subprocess.PIPE)
        asked, said = self.observer.stdin, self.observer.stdout
        assert asked is not None
        assert said is not None
        asked.write("\n")
        asked.flush()
        line = next(line for line in said if line.startswith("look "))  # Ray speaks in between
        return json.loads(line.removeprefix("look "))


def start_head(
    place: Place, cpus: int, api_server: bool, grows_to: int
) -> tuple[subprocess.Popen[str], str]:
    """The process of a head that has come up, and the URL of its API server."""
    import ray.util

    current, said = place / "ray" / "ray_current_cluster", list[str]()
    for _ in range(3):  # a port may be taken meanwhile, and a busy machine answers late
        options = {"port": 0, "num-cpus": cpus, "num-gpus": 0, "dashboard-port": free_port()}
        for service in ("dashboard-agent-listen", "ray-client-server"):
            options[f"{service}-port"] = free_port()  # two clusters on one host else share these
        options["include-dashboard"] = str(api_server).lower()
        options["include-log-monitor"] = "false"  # nobody reads what it would pass on
        without = () if grows_to else ("--no-monitor",)  # the autoscaler's, of a cluster as it is
        if grows_to:
            options["port"] = free_port()
            address = f"{ray.util.get_node_ip_address()}:{options['port']}"
            options["autoscaling-config"] = autoscaling_file(place, address, cpus, grows_to)
        url = f"http://127.0.0.1:{options['dashboard-port']}"
        given = [f"--{name}={value}" for name, value in options.items()]
        program = str(Path(sys.executable).with_name("ray"))
        fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"} if grows_to else {}
        head = place.popen(
            [program, "start", "--head", "--block", "--disable-usage-stats", *without, *given],
            **fake,
        )
        lines = place.drain(head)
        until(partial(exists_or_ended, current, head))
        if head.poll() is None:
            return head, url
        place.kill_survivors()
        current.unlink(missing_ok=True)
        assert head.stderr is not None
        said += [*lines, head.stderr.read()]
    raise AssertionError(said)


def exists_or_ended(file: Path, process: subprocess.Popen[str]) -> bool:
    return file.exists() or process.poll() is not None


@contextlib.contextmanager
def new_cluster(
    cpus: int, api_server: bool = True, grows_to: int = 0
) -> Iterator[Cluster]:
    """A cluster that outlives its drivers, as `ray start` makes it, with its own token and ports.

    Without the API server there is no dashboard, and nothing takes jobs. With `grows_to` Ray's
    autoscaler starts so many nodes of one CPU on demand, all of them on this machine.
    """
    with new_place() as place:
        token = place / "token"
        token.write_text("a" * 64)
        place.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_health_check_period_ms": HEALTH_CHECK_PERIOD,
        }
        head, url = start_head(place, cpus, api_server, grows_to)
        current = place / "ray" / "ray_current_cluster"
        try:
            address = str(until(lambda: current.read_text().strip()))
            yield Cluster(place, address, url)
        finally:
            until(lambda: not training_processes(place), seconds=120, else_fail=False)
            left = training_processes(place)
            place.kill_survivors()  # the cluster is ours; a gentle end takes it 30 s
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
