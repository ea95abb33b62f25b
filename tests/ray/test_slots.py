"""A cluster that grows is asked for all of its nodes at once, not for one after the other."""

from __future__ import annotations

import pytest

from results.frame import load_sweep

NODES = 3


@pytest.mark.last
def test_a_searcher_that_learns_fills_every_slot_at_once(kit):
    """Ray Tune itself keeps one trial waiting beside a searcher, so that an autoscaler starts one
    node at a time. Here all are handed out before the first node has come.
    """
    with kit.new_cluster(cpus=0, api_server=False, grows_to=NODES) as cluster:
        directory = cluster.place / "sweep"
        ran = cluster.place.run(
            kit.TOY, "--space", cluster.place.space(), "--dir", directory, "--trials", NODES,
            "--sampler", "tpe", "--scheduler", "none", "--autoscaling",
            "--max-concurrent", NODES, "--address", cluster.address,
            "data.delay_seconds=0.02", "train.tensorboard=false",
        )
        assert ran.status == 0, ran.text
        handed_out = [event["time"] for event in kit.events(directory, "handed_out")]
        begun = [file.stat().st_mtime for file in directory.glob("trials/*/nodes/trial")]
        assert len(handed_out) == len(begun) == NODES
        assert max(handed_out) < min(begun)
        assert load_sweep(directory)["state"].tolist() == ["complete"] * NODES
