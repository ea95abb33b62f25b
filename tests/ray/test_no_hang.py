"""The known ways in which trials of several workers bring a sweep to a halt, on 2 CPUs.

A worker group lives in a placement group that Tune knows nothing of. Each test would wait for
ever where it is not given back, where the trial's own driver takes a CPU that the group needs, or
where drivers wait for each other.
"""

from __future__ import annotations

import json

import pandas as pd
import pytest

from results.frame import load_sweep

# Long enough that a trial which asha stops at step 10 would be training still. The first trial is
# the best, so that each that reports after it is stopped.
SWEEP = (
    "--workers", 2, "--cpus", 1, "--sampler", "random", "--seed", 6, "--eta", 2, "--grace", 10,
    "train.steps=40", "train.report_every=10", "train.batch_size=4", "data.delay_seconds=0.02",
)


API_SERVER = pytest.mark.parametrize("cluster", [True], ids=["api_server"], indirect=True)
NO_API_SERVER = pytest.mark.parametrize("cluster", [False], ids=["no_api_server"], indirect=True)


@pytest.fixture(scope="module")
def cluster(request, kit):
    """A cluster of 2 CPUs that outlives its sweeps, with or without Ray's API server."""
    with kit.new_cluster(cpus=2, api_server=request.param) as made:
        yield made


def check_given_back(cluster, kit):
    """Polled for some time, since a process takes its time to end."""
    whole = {"cpu": 2.0, "groups": 0, "nodes": 1}
    kit.until(lambda: cluster.look() == whole, seconds=10, else_fail=False)
    assert cluster.look() == whole


def sweep(cluster, kit, directory, *options):
    place = cluster.place
    ran = place.run(
        kit.TOY, "--address", cluster.address, "--space", place.space(), "--dir", directory,
        *options, *SWEEP,
    )
    assert ran.status == 0, ran.text


def check_stopped(directory):
    """Some trials were ended by us, and the others by themselves."""
    trials = load_sweep(directory)
    assert set(trials["state"]) == {"complete", "stopped"}
    assert (trials.loc[trials["state"] == "stopped", "steps"] < 40).all()


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
    )
    assert ran.status == 2, ran.text
    assert len(ran.err.splitlines()) == 1
    assert f"a trial needs {needed}, and this cluster has 2 CPU and 0 GPU" in ran.err
    assert "--workers, --cpus or --gpus" in ran.err
    assert not directory.exists() or not list(directory.iterdir())  # and can be asked for again
    check_given_back(cluster, kit)


@API_SERVER
class TestWithApiServer:
    def test_a_stopped_trial_gives_everything_back(self, cluster, kit):
        """As below, where Ray's own clean-up could do it."""
        directory = cluster.place / "sweep"
        sweep(cluster, kit, directory, "--trials", 2, "--max-concurrent", 1)
        check_stopped(directory)
        check_given_back(cluster, kit)

    def test_too_many_workers_are_refused_with_the_numbers(self, cluster, kit):
        check_refused(cluster, kit, ("--workers", 3), "3 x (1 CPU)")


@NO_API_SERVER
class TestWithoutApiServer:
    def test_a_stopped_trial_gives_everything_back(self, cluster, kit):
        directory = cluster.place / "sweep"
        sweep(cluster, kit, directory, "--trials", 2, "--max-concurrent", 1)
        check_stopped(directory)
        check_given_back(cluster, kit)

    def test_resumed_with_nothing_left_to_do_is_complete(self, cluster, kit):
        """A group does not wait for its driver, which may die before it has heard anything.

        That is made here by taking what it heard of one trial out of the log. The trial goes on
        from its last checkpoint, has nothing to train, and must not be handed out for ever.
        """
        directory = cluster.place / "sweep"
        before = kit.frame(directory)
        # It passes every rung when it is heard last, too: the other trial was stopped for it.
        (trial,) = before.loc[before["state"] == "complete", "trial"]
        rungs = [e for e in kit.events(directory, "rung") if e["trial"] == trial]
        log = directory / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        kept = [
            line for line in lines
            if line["event"] != "finished"
            and (line["event"] == "handed_out" or line.get("trial") != trial)
        ]
        log.write_text("".join(json.dumps(line) + "\n" for line in kept))
        ran = cluster.place.run("--resume", directory, "--address", cluster.address)
        assert ran.status == 0, ran.text
        handed_out = [e for e in kit.events(directory, "handed_out") if e["trial"] == trial]
        assert [e["segment"] for e in handed_out] == [0, 1]
        again = [e for e in kit.events(directory, "rung") if e["trial"] == trial]
        assert [(e["step"], e["value"]) for e in again] == [(e["step"], e["value"]) for e in rungs]
        pd.testing.assert_frame_equal(kit.frame(directory), before)
        check_given_back(cluster, kit)

    def test_stopped_trials_make_room(self, cluster, kit):
        """Each trial needs the whole cluster, so the next one starts only if nothing is left.

        The sweep of before goes on, and two drivers are under way at once, more than the cluster
        has room for groups; which of them is given it is chance.
        """
        directory = cluster.place / "sweep"
        more = ("--address", cluster.address, "--trials", 4, "--max-concurrent", 2)
        ran = cluster.place.run("--resume", directory, *more)
        assert ran.status == 0, ran.text
        assert trained_after_a_stop(kit.events(directory))
        check_stopped(directory)
        check_given_back(cluster, kit)

    def test_gpus_that_are_not_there_are_refused_with_the_numbers(self, cluster, kit):
        check_refused(cluster, kit, ("--gpus", 1), "1 x (1 CPU and 1 GPU)")
