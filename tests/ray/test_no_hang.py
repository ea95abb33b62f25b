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

from results.frame import load_sweep

# Long enough that a trial which asha stops at step 10 would be training still.
SLOW = (
    "train.steps=60",
    "train.report_every=10",
    "train.batch_size=4",
    "data.delay_seconds=0.02",
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


API_SERVER = pytest.mark.parametrize("cluster", [True], ids=["api_server"], indirect=True)
NO_API_SERVER = pytest.mark.parametrize("cluster", [False], ids=["no_api_server"], indirect=True)


@pytest.fixture(scope="module")
def cluster(request, kit):
    """A cluster of 2 CPUs that outlives its sweeps, with or without Ray's API server."""
    with kit.new_cluster(cpus=2, api_server=request.param) as made:
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


def check_stopped_trials_make_room(cluster, kit, directory):
    """Each trial needs the whole cluster, so the next one starts only if nothing is left.

    Four drivers are under way at once, more than the cluster has room for groups. Which of them
    is given it first is chance; where that made the last of them the only one to be stopped, the
    sweep is made longer.
    """
    place = cluster.place
    options = ("--workers", 2, "--cpus", 1, "--trials", 4, "--seed", 4, "--sampler", "random")
    ran = place.run(
        kit.TOY, "--address", cluster.address, "--space", place.space(), "--max-concurrent", 4,
        "--dir", directory, *options, *SLOW,
    )  # fmt: skip
    assert ran.status == 0, ran.text
    for trials in (6, 8, 10):
        if trained_after_a_stop(kit.events(directory)):
            break
        ran = place.run("--resume", directory, "--address", cluster.address, "--trials", trials)
        assert ran.status == 0, ran.text
    assert trained_after_a_stop(kit.events(directory))
    found = load_sweep(directory).set_index("trial")
    stopped = found.index[found["state"] == "stopped"]
    assert set(found["state"]) == {"complete", "stopped"}
    assert (found.loc[stopped, "steps"] < 60).all()  # ended by us, not by itself
    check_given_back(cluster, kit)


def trained_after_a_stop(log):
    """The trials that reached a rung after another one had been stopped."""
    stops = [n for n, event in enumerate(log) if event.get("state") == "stopped"]
    if not stops:
        return set()
    after = {event["trial"] for event in log[stops[0] :] if event["event"] == "rung"}
    return after - {log[stops[0]]["trial"]}


def check_refused(cluster, kit, demand, needed):
    place, directory = cluster.place, cluster.place / "too-big"
    ran = place.run(
        kit.TOY, "--address", cluster.address, "--space", place.space(),
        "--dir", directory, *demand,
    )  # fmt: skip
    assert ran.status == 2, ran.text
    assert len(ran.err.splitlines()) == 1
    assert f"a trial needs {needed}, and this cluster has 2 CPU and 0 GPU" in ran.err
    assert "--workers, --cpus or --gpus" in ran.err
    assert not directory.exists() or not list(directory.iterdir())  # and can be asked for again
    check_given_back(cluster, kit)


@API_SERVER
class TestWithApiServer:
    def test_a_stopped_trial_gives_everything_back(self, cluster, kit):
        check_stopped_trials_make_room(cluster, kit, cluster.place / "sweep")

    def test_too_many_workers_are_refused_with_the_numbers(self, cluster, kit):
        check_refused(cluster, kit, ("--workers", 3), "3 x (1 CPU)")


@NO_API_SERVER
class TestWithoutApiServer:
    def test_stopped_trials_give_everything_back(self, cluster, kit):
        check_stopped_trials_make_room(cluster, kit, cluster.place / "sweep")

    def test_resumed_with_nothing_left_to_do_is_complete(self, cluster, kit):
        """A group does not wait for its driver, which may die before it has heard anything.

        That is made here by taking what it heard of one trial out of the log. The trial goes on
        from its last checkpoint, has nothing to train, and must not be handed out for ever.
        """
        directory = cluster.place / "sweep"
        before = kit.frame(directory)
        # The best, which passes every rung whenever it is heard: the order of the log decides.
        trial = before.loc[before["is_best"], "trial"].item()
        rungs = [e for e in kit.events(directory, "rung") if e["trial"] == trial]
        log = directory / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        kept = [
            line for line in lines
            if line["event"] != "finished"
            and (line["event"] == "handed_out" or line.get("trial") != trial)
        ]  # fmt: skip
        log.write_text("".join(json.dumps(line) + "\n" for line in kept))
        ran = cluster.place.run("--resume", directory, "--address", cluster.address)
        assert ran.status == 0, ran.text
        handed_out = [e for e in kit.events(directory, "handed_out") if e["trial"] == trial]
        assert [e["segment"] for e in handed_out] == [0, 1]
        again = [e for e in kit.events(directory, "rung") if e["trial"] == trial]
        assert [(e["step"], e["value"]) for e in again] == [(e["step"], e["value"]) for e in rungs]
        pd.testing.assert_frame_equal(kit.frame(directory), before)
        check_given_back(cluster, kit)

    def test_gpus_that_are_not_there_are_refused_with_the_numbers(self, cluster, kit):
        check_refused(cluster, kit, ("--gpus", 1), "1 x (1 CPU and 1 GPU)")


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
