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


def test_the_last_line_names_what_is_ahead(trained, capsys):
    """Of references that cost nothing, as those of the JSON say; the best first."""
    found = measured(trained, capsys)
    own = found["val.hole_log_rmse"]
    others = {name: it["val.hole_log_rmse"] for name, it in found["references"].items()}
    ahead = sorted((name for name in others if others[name] < own), key=others.__getitem__)
    assert ahead
    assert evaluate.main([str(trained)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    named = ", ".join(f"{name} ({others[name]:.6g})" for name in ahead)
    assert last == f"ahead of the checkpoint in val.hole_log_rmse, at no more cost: {named}"
    assert evaluate.main([str(trained), "--no-references"]) == 0
    assert "ahead of" not in capsys.readouterr().out


def test_what_costs_more_than_the_checkpoint_is_not_ahead():
    columns = {"val.psnr_db": 26.0, "val.rate_bpp": 0.5}
    dear = {"costs": ["val.rate_bpp"], "val.psnr_db": 40.0, "val.rate_bpp": 0.6}
    silent = {"costs": [], "val.psnr_db": None}
    said = evaluate.beside(columns, {"dear": dear, "silent": silent}, "val.psnr_db", "max")
    assert said == "no reference that costs no more is ahead of the checkpoint in val.psnr_db"
    same = {**dear, "val.rate_bpp": 0.5}
    better = {"costs": [], "val.psnr_db": 41.0}
    said = evaluate.beside(columns, {"same": same, "better": better}, "val.psnr_db", "max")
    assert said.endswith("at no more cost: better (41), same (40)")
    assert evaluate.beside({}, {"same": same}, "val.psnr_db", "max").startswith("the checkpoint")
