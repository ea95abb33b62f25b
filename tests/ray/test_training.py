"""The number of workers, and who starts them, does not change what is learnt, in any stage."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from ray_jobs import train

COMMON = ("train.tensorboard=false", "data.noise=0.3", "train.steps=10")
STAGES = ("--stages", "data.samples=32,64")

WAYS = {
    "in_process": ("train.batch_size=8",),
    "group": ("--workers", 2, "train.batch_size=4"),
}


@pytest.fixture(scope="module")
def cluster(kit):
    """For the groups; a training in the process of the command asks for none."""
    with kit.new_cluster(cpus=2, api_server=False) as made:
        yield made


def trained(directory):
    """The curve over both stages, and the step of each with whether it ended."""
    paths = [directory / f"stage-{number}/reports.jsonl" for number in (1, 2)]
    curve = pd.concat([pd.read_json(path, lines=True) for path in paths])
    stages = json.loads((directory / "stages.json").read_text())["stages"]
    columns = [name for name in curve if name.startswith(("step", "val."))]
    return curve[columns], [(stage["step"], stage["finished"]) for stage in stages]


def run(cluster, way, directory, *options, status=0):
    address = ("--address", cluster.address) if way == "group" else ()
    ran = cluster.place.run(*options, "--dir", directory, *WAYS[way], *address, verb="train")
    assert ran.status == status, ran.text
    return ran


@pytest.mark.parametrize("way", WAYS)
def test_a_training_in_stages_is_the_plain_one(cluster, kit, tmp_path, way):
    common = (kit.TOY, *COMMON, *STAGES)
    directory = tmp_path / "plain"
    assert train.main([*common, "--dir", str(directory), "--no-ray", "train.batch_size=8"]) == 0
    ran = run(cluster, way, tmp_path / way, *common)
    assert "val.mse" in ran.out
    assert "file a report" not in ran.text, ran.text  # Ray's words for a run it lost sight of
    curve, record = trained(tmp_path / way)
    plain, plain_record = trained(directory)
    assert plain["step"].tolist() == [5, 10, 5, 10]
    assert record == plain_record == [(10, True), (10, True)]
    exact = {"group": {"rtol": 1e-5}}.get(way, {})
    pd.testing.assert_frame_equal(plain, curve, **exact)


@pytest.mark.parametrize("way", WAYS)
def test_a_time_budget_stops_a_training_that_a_resume_ends(cluster, kit, tmp_path, way):
    plain, cut = tmp_path / "plain", tmp_path / "cut"
    common = (kit.TOY, *COMMON, "train.report_every=2")
    assert train.main([*common, "--dir", str(plain), "--no-ray", "train.batch_size=8"]) == 0
    ran = run(cluster, way, cut, *common, "--time-budget", "0.001", status=130)
    assert "stopped at step 2 (time budget of 0.001 s)" in ran.out
    assert ("--workers 2 --cpus 1 --gpus 0" in ran.out) == (way == "group")
    run(cluster, way, cut, "--resume", "--time-budget", "1000")
    curves = (
        pd.read_json(directory / "reports.jsonl", lines=True)[["step", "val.mse"]]
        for directory in (plain, cut)
    )
    pd.testing.assert_frame_equal(*curves, rtol=1e-5)
