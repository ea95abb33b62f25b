"""The verb `evaluate`: a checkpoint beside what needs no training."""

from __future__ import annotations

import json

import pytest

from ray_jobs import evaluate, train
from trainables.system import load_system

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    system = load_system("hdr_patch")
    small = [f"{key}={value}" for key, value in system.small.items()]
    options = ["--no-ray", "--dir", str(folder), "train.steps=2", *small]
    assert train.main(["hdr_patch", *options]) == 0
    return folder


def measured(trained, capsys, *options):
    capsys.readouterr()
    assert evaluate.main([str(trained), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_references_are_measured_beside_the_checkpoint(trained, capsys):
    validation, test = measured(trained, capsys), measured(trained, capsys, "--test")
    for found in (validation, test):
        assert {"untrained", "prefill_zero", "prefill_push_pull"} < found["references"].keys()
    for name, columns in validation["references"].items():
        assert columns["val.hole_log_rmse"] != test["references"][name]["val.hole_log_rmse"]
    assert validation["val.hole_log_rmse"] != test["val.hole_log_rmse"]
    assert "references" not in measured(trained, capsys, "--no-references")


def test_the_table_has_a_column_for_each(trained, capsys):
    capsys.readouterr()
    assert evaluate.main([str(trained), "--test"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("(step 2), test") for line in lines)
    header = next(line for line in lines if "checkpoint" in line and "untrained" in line)
    row = next(line for line in lines if line.split()[:1] == ["val.hole_log_rmse"])
    assert len(row.split()) == len(header.split()) + 1
