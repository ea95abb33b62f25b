"""What the verbs refuse or keep before anything starts."""

from __future__ import annotations

import json

import pytest

from ray_jobs import analyze, evaluate, sweep, train
from ray_jobs.planning import SweepOptions, new_setup
from settings.schema import SettingsError

TOY = "benchmarks.toy:Toy"


@pytest.fixture
def trained(tmp_path):
    directory = tmp_path / "run"
    arguments = [TOY, "model.dropout=0.25", "train.steps=4", "train.report_every=2"]
    assert train.main([*arguments, "--no-ray", "--dir", str(directory)]) == 0
    return directory


def test_a_resumed_training_keeps_its_own_settings_under_an_override(trained):
    arguments = [TOY, "train.steps=8", "--no-ray", "--resume", "--dir", str(trained)]
    assert train.main(arguments) == 0
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["model.dropout"] == 0.25
    assert settings["train.steps"] == 8
    rows = [json.loads(line) for line in (trained / "reports.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]


def test_a_resume_takes_no_other_base(trained, capsys):
    assert train.main([TOY, "--preset", "x", "--no-ray", "--resume", "--dir", str(trained)]) == 2
    assert "leave out --settings and --preset" in capsys.readouterr().err


def test_evaluate_gives_the_last_report(trained, capsys):
    assert evaluate.main([str(trained), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    last = json.loads((trained / "reports.jsonl").read_text().splitlines()[-1])
    assert {key: found[key] for key in last if key.startswith("val.")} == {
        key: value for key, value in last.items() if key.startswith("val.")
    }


def test_evaluate_refuses_what_was_trained_and_other_systems(trained, capsys):
    assert evaluate.main([str(trained), "model.dropout=0.5"]) == 2
    assert "model.dropout is part of what was trained" in capsys.readouterr().err
    assert evaluate.main([str(trained), "--system", "hdr_patch"]) == 2
    assert f"is a checkpoint of system '{TOY}', not of 'hdr_patch'" in capsys.readouterr().err


def test_a_training_that_is_hopeless_takes_force(tmp_path, capsys):
    arguments = [TOY, "model.explode=0.5", "--no-ray", "--dir", str(tmp_path / "run")]
    assert train.main(arguments) == 2
    assert "To train all the same, add --force" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["train.steps", "train.report_every", "train.seed"])
def test_what_the_sweep_itself_is_made_of_cannot_be_searched(tmp_path, key):
    space = tmp_path / "space.yaml"
    space.write_text(f"{key}: {{integer: [5, 10]}}\n")
    with pytest.raises(SettingsError, match=f"{key} cannot be searched"):
        new_setup(SweepOptions(system=TOY, space=str(space)))


def test_fp16_without_a_gpu_is_refused_before_the_first_trial(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("optimizer.lr: {uniform: [0.1, 0.2]}\n")
    options = SweepOptions(system=TOY, space=str(space), overrides=("train.precision=fp16",))
    with pytest.raises(SettingsError, match=r"needs a GPU.*--gpus 1"):
        new_setup(options)


@pytest.mark.parametrize(
    "option", ["--workers=0", "--max-concurrent=-1", "--trials=0", "--cpus=0", "--time-budget=x"]
)
def test_a_number_that_would_hang_is_refused(option, capsys):
    with pytest.raises(SystemExit):
        sweep.main([TOY, option])
    assert "from 1 on" in (text := capsys.readouterr().err) or "above 0" in text


def test_the_loaders_are_where_people_look():
    import results

    assert results.load_sweep is analyze.load_sweep
    assert results.load_reports is analyze.load_reports
