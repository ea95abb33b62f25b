"""Nodes that go while a trial runs on them, and one that does not see the sweep directory."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest


@pytest.fixture(scope="module")
def cluster(kit):
    """Its trials run on nodes that come and go; its head has no CPU."""
    with kit.new_cluster(cpus=0, api_server=False) as made:
        yield made


@pytest.fixture
def add_node(cluster, kit):
    """Starts a node with one CPU, and waits until it has joined; a command may stand before."""
    ray = str(Path(sys.executable).with_name("ray"))
    started = []

    def add(*before):
        address = f"--address={cluster.address}"
        options = ["--num-cpus=1", "--num-gpus=0", "--block", "--disable-usage-stats"]
        said = []
        for _ in range(3):  # a busy machine answers late, and the head then counts it as dead
            node = cluster.place.popen([*before, ray, "start", address, *options])
            started.append(node)
            lines = cluster.place.drain(node)
            kit.until(partial(has_joined_or_ended, node, lines))
            if node.poll() is None:
                return node
            said += [*lines, node.stderr.read()]
        raise AssertionError(said)

    yield add
    for node in started:
        take_away(node)
    # The head learns of an end late, and would place the next test on what is gone.
    kit.until(lambda: cluster.look()["nodes"] == 1)


def has_joined_or_ended(node, lines):
    return node.poll() is not None or "Ray runtime started" in "".join(lines)


def take_away(node):
    """Every process of a node at once, as when its power is gone."""
    if node.poll() is not None:
        return
    processes = psutil.Process(node.pid).children(recursive=True)
    node.kill()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # some end with the first
            process.kill()
    node.wait()


def check_preempted(kit, directory, trial):
    """One segment was cut short, and the next one is of the same trial."""
    (cut,) = [e for e in kit.events(directory, "ended") if e["state"] == "interrupted"]
    assert cut["trial"] == trial
    assert cut["reason"].startswith("preempted: node ")
    assert cut["reason"].endswith(" is gone")
    segments = [e["segment"] for e in kit.events(directory, "handed_out") if e["trial"] == trial]
    assert segments == [0, 1]


def may_unshare() -> bool:
    """Whether this process may give a child file systems of its own (root, or a user
    namespace).
    """
    if shutil.which("unshare") is None:
        return False
    asked = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


class TestNode:
    """Its end is no failure: not one is allowed here, and the trial goes on elsewhere. A node that
    does not see the sweep directory is refused.
    """

    def test_under_a_trial(self, cluster, add_node, kit, sequential):
        place, directory = cluster.place, cluster.place / "sweep"
        first = add_node()
        options = (*kit.sequential_options(place, directory, 4), "data.delay_seconds=0.02")
        running = place.start(kit.TOY, *options, "--address", cluster.address)
        kit.until(lambda: (directory / "trials/0001/checkpoints/step-00000010").exists())
        take_away(first)
        add_node()
        ran = place.finish(running)
        assert ran.status == 0, ran.text
        check_preempted(kit, directory, trial=1)
        kit.check_each_once(directory, 4)
        undisturbed = kit.reports(sequential.directory).query("trial < 4")
        pd.testing.assert_frame_equal(kit.reports(directory), undisturbed)

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
        assert error.endswith(f"\n{ends[-1]['reason']}\n")

    def test_a_directory_that_one_node_does_not_see_is_refused(self, cluster, add_node, kit):
        if not may_unshare():
            pytest.skip(
                "a node with other file systems takes `unshare --mount`, which is not permitted"
            )
        place = cluster.place
        shared = place / "seen-by-the-head-only"
        shared.mkdir()
        # This node has an empty file system where the head has the sweep directory.
        hidden = f'mount -t tmpfs none {shared} && exec "$@"'
        add_node("unshare", "--mount", "sh", "-c", hidden, "sh")
        arguments = ["--space", place.space(), "--dir", shared / "sweep", "--trials", 1]
        ran = place.run(kit.TOY, *arguments, "--address", cluster.address)
        assert ran.status == 2, ran.text
        assert f"does not see {shared / 'sweep'}" in ran.err
        assert "Put --dir on storage that all nodes mount" in ran.err
        assert not kit.events(shared / "sweep", "handed_out")
