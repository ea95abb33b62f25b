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


@pytest.fixture(scope="module")
def cluster(kit):
    """A cluster of 2 CPUs that outlives its sweeps. It has no API server, with which Ray itself
    would give some of it back; test_jobs has one.
    """
    with kit.new_cluster(cpus=2, api_server=False) as made:
        yield made


class TestGivenBack:
    def test_a_stopped_trial_gives_everything_back(self, cluster, kit):
        place, directory = cluster.place, cluster.place / "sweep"
        ran = place.run(
            kit.TOY, "--address", cluster.address, "--space", place.space(), "--dir", directory,
            *kit.STOPPED_GROUPS,
        )
        assert ran.status == 0, ran.text
        trials = load_sweep(directory)
        assert trials["state"].tolist() == ["complete", "stopped"]
        assert trials.loc[1, "steps"] < 40
        kit.check_given_back(cluster)

    def test_nothing_left_to_do_is_complete_and_stopped_trials_make_room(self, cluster, kit):
        """A group does not wait for its driver, which may die before it has heard anything.

        That is made here by taking what it heard of one trial out of the log. The trial goes on
        from its last checkpoint, has nothing to train, and must not be handed out for ever.

        A new trial is under way beside it. Each needs the whole cluster, so the other one starts
        only if nothing is left of the first; which of them that is is chance.
        """
        directory = cluster.place / "sweep"
        before = kit.frame(directory)
        # It passes every rung when it is heard last, too: the other trials are stopped for it.
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
        more = ("--address", cluster.address, "--trials", 3, "--max-concurrent", 2)
        ran = cluster.place.run("--resume", directory, *more)
        assert ran.status == 0, ran.text
        handed_out = [e for e in kit.events(directory, "handed_out") if e["trial"] == trial]
        assert [e["segment"] for e in handed_out] == [0, 1]
        again = [e for e in kit.events(directory, "rung") if e["trial"] == trial]
        assert [(e["step"], e["value"]) for e in again] == [(e["step"], e["value"]) for e in rungs]
        pd.testing.assert_frame_equal(kit.frame(directory).query("trial < 2"), before)
        assert 2 in {e["trial"] for e in kit.events(directory, "rung")}, "it never had room"
        kit.check_given_back(cluster)

    @pytest.mark.parametrize(
        ("demand", "needed"),
        [(("--workers", 3), "3 x (1 CPU)"), (("--gpus", 1), "1 x (1 CPU and 1 GPU)")],
    )
    def test_what_is_not_there_is_refused_with_the_numbers(self, cluster, kit, demand, needed):
        place, directory = cluster.place, cluster.place / "too-big"
        ran = place.run(
            kit.TOY, "--address", cluster.address, "--space", place.space(),
            "--dir", directory, *demand,
        )
        assert ran.status == 2, ran.text
        assert len(ran.err.splitlines()) == 1
        assert f"a trial needs {needed}, and this cluster has 2 CPU and 0 GPU" in ran.err
        assert "--workers, --cpus or --gpus" in ran.err
        assert not directory.exists() or not list(directory.iterdir())  # can be asked for again
        kit.check_given_back(cluster)
