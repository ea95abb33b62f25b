"""The known ways in which trials of several workers bring a sweep to a halt, on 2 CPUs.

A worker group lives in a placement group that Tune knows nothing of. Each test would wait for
ever where it is not given back, where the trial's own driver takes a CPU that the group needs, or
where drivers wait for each other.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest

from results.frame import load_reports, load_sweep

# Long enough that a trial which asha stops at step 10 would be training still.
SLOW = (
    "train.steps=120",
    "train.report_every=10",
    "train.batch_size=4",
    "data.delay_seconds=0.01",
)

# Another driver on the same cluster: what is free, and which placement groups are left.
LOOK = """
import json, sys
import ray
from ray.util.placement_group import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
free = ray.available_resources()
print(json.dumps({"cpu": free.get("CPU", 0.0), "groups": len(groups)}))
"""


@pytest.fixture(
    scope="module",
    params=[(True, ()), (False, ("--max-concurrent", 4))],
    ids=["api_server", "no_api_server_and_a_crowd"],
)
def cluster(request, kit):
    """A cluster of 2 CPUs that outlives its sweeps, with and without Ray's API server.

    In the crowd more drivers are under way than the cluster has room for groups.
    """
    api_server, crowd = request.param
    with kit.new_cluster(cpus=2, api_server=api_server) as made:
        made.crowd = crowd
        yield made


def look(cluster):
    command = [sys.executable, "-c", LOOK, cluster.address]
    ran = subprocess.run(command, env=cluster.place.variables(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def check_given_back(cluster, kit):
    """Polled for some time, since a process takes its time to end."""
    kit.until(lambda: look(cluster) == {"cpu": 2.0, "groups": 0}, seconds=10, else_fail=False)
    assert look(cluster) == {"cpu": 2.0, "groups": 0}


class TestWorkerGroups:
    def test_a_stopped_trial_gives_everything_back(self, cluster, kit):
        """Each trial needs the whole cluster, so the next one starts only if nothing is left."""
        place, directory = cluster.place, cluster.place / "stopped"
        options = ("--workers", 2, "--cpus", 1, "--trials", 4, "--seed", 3, "--sampler", "random")
        ran = place.run(
            kit.TOY, "--address", cluster.address, "--space", place.space(),
            "--dir", directory, *options, *cluster.crowd, *SLOW,
        )  # fmt: skip
        assert ran.status == 0, ran.text
        found = load_sweep(directory).set_index("trial")
        stopped = found.index[found["state"] == "stopped"]
        assert set(found["state"]) == {"complete", "stopped"}
        assert stopped.min() < 3, "the last trial alone was stopped: choose another seed"
        assert (found.loc[stopped, "steps"] < 120).all()  # ended by us, not by itself
        seen = load_reports(directory)
        assert (seen.groupby("trial")["step"].max() == found["steps"]).all()
        check_given_back(cluster, kit)

    def test_what_can_never_fit_is_refused_with_the_numbers(self, cluster, kit):
        place, directory = cluster.place, cluster.place / "too-big"
        big = {True: ("--workers", 3), False: ("--gpus", 1)}[cluster.api_server]
        ran = place.run(
            kit.TOY, "--address", cluster.address, "--space", place.space(),
            "--dir", directory, *big,
        )  # fmt: skip
        assert ran.status == 2, ran.text
        assert len(ran.err.splitlines()) == 1
        needed = {True: "3 x (1 CPU)", False: "1 x (1 CPU and 1 GPU)"}[cluster.api_server]
        assert f"a trial needs {needed}, and this cluster has 2 CPU and 0 GPU" in ran.err
        assert "--workers, --cpus or --gpus" in ran.err
        assert not load_sweep(directory).size
        check_given_back(cluster, kit)


class TestOneResult:
    """The number of workers, and who starts them, does not change what is learnt."""

    def test_three_ways_to_train_agree(self, place, kit):
        common = (kit.TOY, "train.tensorboard=false", "data.noise=0.3")
        ways = {
            "plain": ("--no-ray", "train.batch_size=8"),
            "in_process": ("train.batch_size=8",),
            "group": ("--workers", 2, "train.batch_size=4"),
        }
        curves = {}
        for name, options in ways.items():
            ran = place.run(*common, "--dir", place / name, *options, verb="train")
            assert ran.status == 0, ran.text
            curves[name] = pd.read_json(place / name / "reports.jsonl", lines=True)
        columns = [name for name in curves["plain"] if name.startswith(("step", "val."))]
        assert curves["plain"]["step"].tolist() == [5, 10, 15, 20]
        pd.testing.assert_frame_equal(curves["plain"][columns], curves["in_process"][columns])
        pd.testing.assert_frame_equal(
            curves["plain"][columns], curves["group"][columns], rtol=1e-5
        )

    def test_a_resumed_group_that_had_nothing_left_to_do_is_complete(self, place, kit):
        """A crash between a trial's last checkpoint and the log: the trial must not run for ever.

        The log is cut by hand where that crash would have left it.
        """
        directory = place / "sweep"
        ran = place.run(
            kit.TOY, "--space", place.space(), "--dir", directory, "--workers", 2, "--trials", 1
        )
        assert ran.status == 0, ran.text
        before = kit.reports(directory)
        log = directory / "log.jsonl"
        lines = log.read_text().splitlines(keepends=True)
        kept = next(n for n, line in enumerate(lines) if '"event":"handed_out"' in line) + 1
        log.write_text("".join(lines[:kept]))
        again = place.run("--resume", directory)
        assert again.status == 0, again.text
        assert [e["state"] for e in kit.events(directory, "ended")] == ["complete"]
        assert {e["step"] for e in kit.events(directory, "rung")} == {5, 15}
        pd.testing.assert_frame_equal(kit.reports(directory), before)
