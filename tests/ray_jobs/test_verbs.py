"""What the verbs refuse or keep before anything starts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from ray_jobs import analyze, evaluate, sweep, train
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from ray_jobs.verb import cache_directory, data_lines
from settings.schema import SettingsError
from settings.systems import SYSTEMS

TOY, TOY_GAN = "trainables.toy:Toy", "trainables.toy:ToyGan"

NOTED = """
from trainables.toy import Toy
from trainables.parts import Loaders

class Noted(Toy):
    name = "noted_of_a_test:Noted"

    def loaders(self, settings, prepared):
        made = super().loaders(settings, prepared)
        notes, warnings = {"frames": 7.0, "bad_frames": 1.0}, ["f3.png: cannot be read"]
        return Loaders(made.train, made.validation, notes=notes, warnings=warnings)
"""


SHORT = ("model.dropout=0.25", "train.steps=4", "train.report_every=2", "--no-ray")


@pytest.fixture
def trained(tmp_path):
    directory = tmp_path / "run"
    assert train.main([TOY, *SHORT, "--dir", str(directory)]) == 0
    return directory


def test_a_resumed_training_keeps_its_own_settings_under_an_override(trained):
    arguments = [TOY, "train.steps=8", "--no-ray", "--resume", "--dir", str(trained)]
    assert train.main(arguments) == 0
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["model.dropout"] == 0.25
    assert settings["train.steps"] == 8
    rows = [json.loads(line) for line in (trained / "reports.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]


def test_a_resume_to_fewer_steps_than_were_done_is_refused_and_changes_nothing(trained, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    resume = ["--no-ray", "--resume", "--dir", str(trained)]
    assert train.main(["train.steps=3", *resume]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: train.steps must be at least the 4 steps that {trained} has ")
    assert "done, not 3: " in said and "train anew in another directory." in said
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    assert train.main(["train.steps=4", *resume]) == 0


def test_a_resume_that_fails_before_its_first_report_leaves_the_settings(trained, capsys):
    before = (trained / "settings.json").read_bytes()
    resume = ["--no-ray", "--resume", "--dir", str(trained)]
    failing = ["data.samples=4", "data.fail_at=1", "train.steps=6", *resume]
    assert train.main(failing) == 2
    assert "goes on with another data.fail_at: -1 -> 1" in capsys.readouterr().out
    assert (trained / "settings.json").read_bytes() == before
    assert train.main(["train.steps=6", *resume]) == 0


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


def test_a_resume_knows_the_system_of_the_training(trained, capsys):
    resume = ["--no-ray", "--resume", "--dir", str(trained)]
    assert train.main([TOY_GAN, *resume]) == 2
    assert f"{trained} is a training of {TOY}, not of {TOY_GAN}." in capsys.readouterr().err
    assert train.main(["train.steps=6", *resume]) == 0
    rows = [json.loads(line) for line in (trained / "reports.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]


def test_a_resume_without_a_checkpoint_says_where_it_starts(trained, capsys):
    resume = [TOY, "--no-ray", "--resume", "--dir", str(trained)]
    assert train.main(resume) == 0
    assert "step 0" not in capsys.readouterr().out
    shutil.rmtree(trained / "checkpoints")
    assert train.main(resume) == 0
    said = f"warning: {trained} holds no checkpoint yet: this starts from step 0\n"
    assert said in capsys.readouterr().err
    rows = [json.loads(line) for line in (trained / "reports.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]


@pytest.mark.parametrize("below", ["", "/run"])
@pytest.mark.parametrize("verb", [train, sweep])
def test_a_file_is_no_directory(tmp_path, capsys, verb, below):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "space.yaml").write_text("optimizer.lr: {uniform: [0.1, 0.2]}\n")
    given = ["--space", str(tmp_path / "space.yaml")] if verb is sweep else ["--no-ray"]
    directory = f"{tmp_path / 'README.md'}{below}"
    assert verb.main([TOY, *given, "--dir", directory]) == 2
    said = capsys.readouterr()
    assert said.err == f"error: --dir {directory}: {tmp_path / 'README.md'} is a file. " + (
        "Name a directory.\n"
    )
    assert not said.out


def test_what_became_of_the_data_is_said_by_train_and_evaluate(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "noted_of_a_test.py").write_text(NOTED)
    directory = str(tmp_path / "run")
    counts, warning = "data: frames 7, bad_frames 1", "warning: f3.png: cannot be read"
    for verb, arguments in (
        (train, ["noted_of_a_test:Noted", *SHORT, "--dir", directory]),
        (evaluate, [directory]),
    ):
        assert verb.main(arguments) == 0
        said = capsys.readouterr()
        assert said.out.splitlines()[0] == counts
        assert warning in said.err.splitlines() and warning not in said.out
    assert evaluate.main([directory, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["step"] == 4  # one object and nothing else
    assert said.err.splitlines() == [counts, warning]


def test_a_setting_that_the_kind_of_a_schedule_does_not_read_is_told(tmp_path, capsys):
    idle, kind = "loss.squared.schedule.start=0.5", "loss.squared.schedule.kind=step"
    for name, given in (("idle", [idle]), ("read", [idle, kind])):
        assert train.main([TOY, *SHORT, *given, "--dir", str(tmp_path / name)]) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "changes nothing" in line]
        assert told == ([] if name == "read" else [
            f"warning: {idle} changes nothing, for loss.squared.schedule.kind=constant does not "
            "read it. Leave it out, or set the kind to step or warmup or linear or cosine."
        ])


def test_counts_are_wrapped_and_none_is_lost():
    """Of many names, of which some end with a split."""
    notes = {f"a_long_name_of_something_{n}": 10.0**n for n in range(12)}
    notes |= {"vae.error": 0.25, "train": 3.0, "samples.validation": 7.0}
    notes |= {f"{name}.train": float(n) for n, name in enumerate(notes)}
    lines = data_lines(notes)
    assert max(map(len, lines)) <= 99
    assert lines[0].startswith("data: a_long_name_of_something_0 1, a_long_name_of_something_1 ")
    split, found = "", {}
    for line in lines:
        text = line.removeprefix("data: ").strip()
        for each in ("train", "validation"):
            if text.startswith(f"{each}: "):
                split, text = f".{each}", text.removeprefix(f"{each}: ")
        for pair in filter(None, text.split(",")):
            name, value = pair.split()
            found[f"{name}{split}"] = float(value)
    assert found == notes and not data_lines({})


def test_a_trial_of_a_sweep_without_trials_is_refused(tmp_path, capsys):
    document = {"format": 1, "system": TOY, "settings": {}}
    objective = {"metric": "val.mse", "mode": "min"}
    (tmp_path / "sweep.json").write_text(json.dumps({**document, "objective": objective}))
    given = ["--from-sweep", str(tmp_path), "--dir", str(tmp_path / "run")]
    assert train.main([*given, "--trial", "3"]) == 2
    assert "--trial is best or any: none has started, not '3'" in capsys.readouterr().err
    assert train.main(given) == 2
    assert "is complete, so there is no best one" in capsys.readouterr().err


def test_evaluate_of_a_test_split_that_is_not_there_names_the_way_out(trained, capsys):
    assert evaluate.main([str(trained), "--test"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: the data of {TOY} has no test split under these settings. ")
    assert "Leave out --test to measure the validation, or name data that has one" in said


def test_evaluate_refuses_what_was_trained_and_other_systems(trained, capsys):
    assert evaluate.main([str(trained), "model.dropout=0.5"]) == 2
    assert "model.dropout is part of what was trained" in capsys.readouterr().err
    assert evaluate.main([str(trained), "--system", TOY_GAN]) == 2
    assert f"is a checkpoint of system '{TOY}', not of '{TOY_GAN}'" in capsys.readouterr().err


def test_a_training_that_is_hopeless_takes_force(tmp_path, capsys):
    arguments = [TOY, "model.explode=0.5", "--no-ray", "--dir", str(tmp_path / "run")]
    assert train.main(arguments) == 2
    assert "; set it to 0. To train all the same, add --force." in capsys.readouterr().err


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


@pytest.mark.parametrize("option", ["--trials=²", "--eta=0", "--eta=1"])
def test_a_number_is_named_with_the_least_that_it_may_be(option, capsys):
    with pytest.raises(SystemExit):
        sweep.main([TOY, option])
    name, value = option.split("=")
    least = 1 if name == "--trials" else 2
    said = f"argument {name}: a whole number from {least} on, not '{value}'"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("said", [None, ""])
def test_a_cache_that_is_not_named_is_at_home(said, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    if said is None:
        monkeypatch.delenv("WEIGHBRIDGE_CACHE", raising=False)
    else:
        monkeypatch.setenv("WEIGHBRIDGE_CACHE", said)
    assert cache_directory() == tmp_path / ".cache" / "weighbridge"


@pytest.mark.parametrize("option", ["--gpus=-1", "--gpus=nan", "--gpus=inf", "--gpus=one"])
@pytest.mark.parametrize("verb", [train, sweep])
def test_a_number_of_gpus_that_there_cannot_be_is_refused(verb, option, capsys):
    with pytest.raises(SystemExit):
        verb.main([TOY, option])
    assert "argument --gpus: a number from 0 on, not" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max-failures=-1", "--seed=-1", "--seed=1.5"])
def test_a_whole_number_below_0_is_refused(option, capsys):
    with pytest.raises(SystemExit):
        sweep.main([TOY, option])
    assert "a whole number from 0 on, not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "named"), [("train", SYSTEMS), ("sweep", SYSTEMS), ("simulate", ())]
)
def test_help_names_the_systems_without_loading_them(verb, named):
    code = f"""
import sys
from ray_jobs import {verb}
try:
    {verb}.main(["--help"])
except SystemExit:
    print("heavy:", [name for name in ("torch", "ray", "pandas", "numpy") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in named:
        assert name in ran.stdout.split("positional arguments")[1], name
    assert ran.stdout.endswith("heavy: []\n")


def test_the_loaders_are_where_people_look():
    import results

    assert results.load_sweep is analyze.load_sweep
    assert results.load_reports is analyze.load_reports
