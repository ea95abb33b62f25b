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


@pytest.fixture(scope="module")
def plain(kit, tmp_path_factory):
    """The same stages without Ray and in one go."""
    directory = tmp_path_factory.mktemp("plain") / "plain"
    given = (kit.TOY, *COMMON, *STAGES, "--dir", str(directory), "--no-ray", *WAYS["in_process"])
    assert train.main(list(given)) == 0
    return directory


@pytest.mark.parametrize("way", WAYS)
def test_a_training_in_stages_that_a_budget_cuts_and_a_resume_ends_is_the_plain_one(
    cluster, kit, plain, tmp_path, way
):
    """The budget ends at the first report, in the middle of the first stage."""
    budget = ("--time-budget", "0.001")
    ran = run(cluster, way, tmp_path / way, kit.TOY, *COMMON, *STAGES, *budget, status=130)
    assert "stopped in stage 1 at step 5 (time budget of 0.001 s)" in ran.out
    assert ("--workers 2 --cpus 1 --gpus 0" in ran.out) == (way == "group")
    assert "file a report" not in ran.text, ran.text  # Ray's words for a run it lost sight of
    ran = run(cluster, way, tmp_path / way, "--resume", "--time-budget", "1000")
    assert "val.mse" in ran.out
    assert "file a report" not in ran.text, ran.text
    curve, record = trained(tmp_path / way)
    expected, plain_record = trained(plain)
    assert expected["step"].tolist() == [5, 10, 5, 10]
    assert record == plain_record == [(10, True), (10, True)]
    exact = {"group": {"rtol": 1e-5}}.get(way, {})
    pd.testing.assert_frame_equal(expected, curve, **exact)
