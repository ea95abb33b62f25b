"""Trials that die: by an error of their own, for want of memory, or with their node."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psutil
import pytest

from results.frame import load_sweep

# Fails once for each file `token-*` beside it, at the 41st sample that a segment draws: in its
# sixth step, after the report at the fifth.
FAILING = """
import resource
from pathlib import Path

from trainables.toy import Line, Toy
from trainables.system import Loaders

HERE = Path(__file__).parent


def fail(kind):
    if kind == "error":
        raise RuntimeError("the disk of the data is gone")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28, limits[1]))
    try:
        bytearray(2**32)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class Tokens(Line):
    drawn = 0

    def __getitem__(self, key):
        self.drawn += 1
        tokens = sorted(HERE.glob("token-*"))
        if self.drawn == 41 and tokens:
            kind = tokens[0].read_text()
            tokens[0].unlink()
            fail(kind)
        return super().__getitem__(key)


class Failing(Toy):
    name = "failing:Failing"

    def loaders(self, settings, prepared):
        plain = super().loaders(settings, prepared)
        return Loaders(Tokens(settings.data, 1, settings.data.samples), plain.validation)
"""


@pytest.fixture
def failing(place):
    """Makes the next so many attempts fail."""
    (place / "failing.py").write_text(FAILING)
    place.environment = {"PYTHONPATH": str(place.path)}

    def make(kind, times):
        for number in range(times):
            (place / f"token-{number}").write_text(kind)

    return make


@pytest.mark.parametrize(
    ("kind", "message"),
    [("error", "RuntimeError: the disk of the data is gone"), ("memory", "MemoryError: ")],
)
def test_an_error_is_tried_again_from_the_last_checkpoint(
    place, kit, sequential, failing, kind, message
):
    """Twice, in one trial, and nothing is left of it in the result."""
    directory = place / "sweep"
    failing(kind, times=2)
    options = kit.sequential_options(place, directory)
    ran = place.run("failing:Failing", *options, "--max-failures", 2)
    assert ran.status == 0, ran.text
    failed = [e for e in kit.events(directory, "ended") if e["state"] == "failed"]
    assert [e["trial"] for e in failed] == [0, 0]
    assert [e["reason"] for e in failed] == [message, message]
    assert [e["step"] for e in failed] == [5, 10]  # the second attempt went on from the fifth
    assert not (directory / "trials/0000/error.txt").exists()
    kit.check_equal(directory, sequential.directory)


def test_what_fails_too_often_is_recorded_with_its_error(place, kit, failing):
    directory = place / "sweep"
    failing("error", times=2)
    options = kit.sequential_options(place, directory, trials=3)
    ran = place.run("failing:Failing", *options, "--max-failures", 1)
    assert ran.status == 3, ran.text
    found = load_sweep(directory).set_index("trial")
    assert found.loc[0, "state"] == "failed"
    assert found.loc[0, "stop_reason"] == "RuntimeError: the disk of the data is gone"
    assert set(found.loc[[1, 2], "state"]) <= {"complete", "stopped"}
    assert "Traceback" in (directory / "trials/0000/error.txt").read_text()


@pytest.fixture(scope="module")
def cluster(kit):
    """Its trials run on nodes that come and go; its head has no CPU."""
    with kit.new_cluster(cpus=0, api_server=False) as made:
        yield made


@pytest.fixture
def add_node(cluster, kit):
    """Starts a node with one CPU, and waits until it has joined."""
    ray = str(Path(sys.executable).with_name("ray"))
    started = []

    def add():
        address = f"--address={cluster.address}"
        options = ["--num-cpus=1", "--num-gpus=0", "--block", "--disable-usage-stats"]
        node = cluster.place.popen([ray, "start", address, *options])
        lines = cluster.place.drain(node)
        kit.until(lambda: any("Ray runtime started" in line for line in lines))
        started.append(node)
        return node

    yield add
    for node in started:
        take_away(node)
    kit.until(lambda: nodes_alive(cluster) == 1)  # or the next test is placed on what is gone


def check_preempted(kit, directory, trial):
    """One segment was cut short, and the next one is of the same trial."""
    (cut,) = [e for e in kit.events(directory, "ended") if e["state"] == "interrupted"]
    assert cut["trial"] == trial
    assert cut["reason"].startswith("preempted: node ")
    assert cut["reason"].endswith(" is gone")
    segments = [e["segment"] for e in kit.events(directory, "handed_out") if e["trial"] == trial]
    assert segments == [0, 1]


class TestNode:
    """Its end is no failure: not one is allowed here, and the trial goes on elsewhere."""

    def test_under_a_trial(self, cluster, add_node, kit, sequential):
        place, directory = cluster.place, cluster.place / "sweep"
        first = add_node()
        options = (*kit.sequential_options(place, directory), "data.delay_seconds=0.02")
        running = place.start(kit.TOY, *options, "--address", cluster.address)
        kit.until(lambda: (directory / "trials/0001/checkpoints/step-00000010").exists())
        take_away(first)
        add_node()
        ran = place.finish(running)
        assert ran.status == 0, ran.text
        check_preempted(kit, directory, trial=1)
        kit.check_each_once(directory, 8)
        kit.check_equal(directory, sequential.directory)

    def test_under_one_rank_of_a_group(self, cluster, add_node, kit):
        place, directory = cluster.place, cluster.place / "group"
        first = add_node()
        add_node()
        options = ("--space", place.space(), "--dir", directory, "--trials", 1, "--workers", 2)
        slow = ("train.batch_size=4", "data.delay_seconds=0.05", "train.steps=40")
        running = place.start(kit.TOY, *options, *slow, "--address", cluster.address)
        kit.until(lambda: (directory / "trials/0000/checkpoints/step-00000010").exists())
        take_away(first)
        add_node()
        ran = place.finish(running)
        assert ran.status == 0, ran.text
        check_preempted(kit, directory, trial=0)
        kit.check_each_once(directory, 1)

    def test_after_node_under_a_trial_that_comes_no_further(self, cluster, add_node, kit):
        """The third in a row is its failure, and the sweep ends."""
        place, directory = cluster.place, cluster.place / "taker"
        node, note = add_node(), directory / "trials/0000/nodes/trial"
        options = ("--space", place.space(), "--dir", directory, "--trials", 1)
        slow = ("data.delay_seconds=1.0", "train.steps=40")  # no report before its node goes
        running = place.start(kit.TOY, *options, *slow, "--address", cluster.address)
        for segment in range(3):
            begun = f"{segment} "
            kit.until(lambda begun=begun: note.exists() and note.read_text().startswith(begun))
            take_away(node)
            if segment < 2:
                node = add_node()
        ran = place.finish(running)
        assert ran.status == 1, ran.text
        ends = kit.events(directory, "ended")
        assert [e["state"] for e in ends] == ["interrupted", "interrupted", "failed"]
        assert {e["step"] for e in ends} == {0}
        assert ": 3 in a row under this trial" in ends[-1]["reason"]
        error = (directory / "trials/0000/error.txt").read_text()
        assert error.startswith(f"{ends[-1]['reason']}.\n")


COUNT_NODES = """
import ray
ray.init({address!r}, log_to_driver=False)
print("alive:", sum(node["Alive"] for node in ray.nodes()))
"""


def nodes_alive(cluster):
    """How many the cluster takes for alive, its head among them; it learns of an end late."""
    program = COUNT_NODES.format(address=cluster.address)
    said, _ = cluster.place.popen([sys.executable, "-c", program]).communicate(timeout=60)
    found = re.search(r"^alive: (\d+)$", said, re.MULTILINE)  # Ray's own lines come in between
    return int(found[1]) if found else None


def take_away(node):
    """Every process of a node at once, as when its power is gone."""
    if node.poll() is not None:
        return
    processes = psutil.Process(node.pid).children(recursive=True)
    for process in (psutil.Process(node.pid), *processes):
        process.kill()
    node.wait()
