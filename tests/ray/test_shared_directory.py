"""A sweep directory that only some of the nodes see is refused at start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray


def may_unshare() -> bool:
    """Whether this process may give a child file systems of its own (root, or a user
    namespace).
    """
    if shutil.which("unshare") is None:
        return False
    asked = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def test_a_directory_that_one_node_does_not_see_is_refused(kit):
    if not may_unshare():
        pytest.skip(
            "a node with other file systems takes `unshare --mount`, which is not permitted"
        )
    with kit.new_cluster(1) as cluster:
        place = cluster.place
        shared = place / "seen-by-the-head-only"
        shared.mkdir()
        ray = Path(sys.executable).with_name("ray")
        # The second node has an empty file system where the head has the sweep directory.
        start = (
            f"{ray} start --address={cluster.address} --num-cpus=1 --block --disable-usage-stats"
        )
        node = place.popen(
            ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {shared} && exec {start}"]
        )
        drained = place.drain(node)
        look = [sys.executable, "-c", COUNT_NODES, cluster.address]
        kit.until(
            lambda: place.finish(place.popen(look)).out.strip() == "2" or node.poll() is not None
        )
        assert node.poll() is None, drained
        arguments = ["--space", place.space(), "--dir", shared / "sweep", "--trials", 1]
        ran = place.run(kit.TOY, *arguments, "--address", cluster.address)
        assert ran.status == 2, ran.text
        assert f"does not see {shared / 'sweep'}" in ran.err
        assert "Put --dir on storage that all nodes mount" in ran.err
        assert not kit.events(shared / "sweep", "handed_out")


COUNT_NODES = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
"""
