"""The verb `generate`: from a training, a checkpoint or a sweep's trial, without training data."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from ray_jobs import generate, train
from trainables.checkpoints import checkpoint

SYSTEM = "field_vae"
SMALL = (
    "model.filters=12,10,8",
    "model.main_size=6",
    "model.hier_size=4",
    "train.steps=4",
    "train.report_every=2",
    "train.tensorboard=false",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training of which the data is gone."""
    folder = tmp_path_factory.mktemp("generate")
    values = np.random.default_rng(0).normal(size=(12, 8, 16)).cumsum(axis=1)
    np.save(folder / "data.npy", values.astype(np.float32))
    arguments = [SYSTEM, *SMALL, f"data.fields={folder / 'data.npy'}"]
    assert train.main([*arguments, "--no-ray", "--dir", str(folder / "run")]) == 0
    (folder / "data.npy").rename(folder / "mine.npy")
    return folder


def run(*arguments):
    return generate.main([str(argument) for argument in arguments])


def test_a_training_generates_without_its_data(trained, tmp_path, capsys):
    made = ("--input", trained / "mine.npy", "--output", tmp_path / "out", "--json")
    assert run("--checkpoint", trained / "run", *made) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fields"] == 12
    assert np.load(tmp_path / "out" / "field.npy").shape == (12, 8, 16)
    assert np.load(tmp_path / "out" / "hier.npy").shape == (12, 2, 4)
    rows = [json.loads(line) for line in (trained / "run" / "reports.jsonl").open()]
    best = min(rows, key=lambda row: row["val.reconstruction_error"])
    assert found["step"] == best["step"], "the best checkpoint is taken"


def test_one_checkpoint_or_the_newest_can_be_named(trained, tmp_path, capsys):
    first = checkpoint.available(trained / "run" / "checkpoints")[0]
    rest = ("--input", trained / "mine.npy", "--json")
    assert run("--checkpoint", first, *rest, "--output", tmp_path / "a") == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    given = ("--checkpoint", trained / "run", "--newest")
    assert run(*given, *rest, "--output", tmp_path / "b") == 0
    assert json.loads(capsys.readouterr().out)["step"] == 4


@pytest.mark.parametrize("ending", ["", "checkpoints"])
def test_a_training_before_its_first_checkpoint_is_one_all_the_same(
    trained, tmp_path, capsys, ending
):
    run_without = tmp_path / "run"
    shutil.copytree(trained / "run", run_without, ignore=shutil.ignore_patterns("step-*"))
    made = ("--input", trained / "mine.npy", "--output", tmp_path / "out")
    assert run("--checkpoint", run_without / ending, *made) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {run_without} is a training without a checkpoint yet: ")
    assert "let it go on with --resume" in said
    (run_without / "settings.json").unlink()
    assert run("--checkpoint", run_without / ending, *made) == 2
    assert "is neither a checkpoint (step-*/meta.json) nor" in capsys.readouterr().err


def test_the_best_trial_of_a_sweep_is_taken(trained, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    for trial, value in enumerate((0.5, 0.2)):
        shutil.copytree(trained / "run", sweep / "trials" / f"{trial:04d}")
        (sweep / "reports").mkdir(exist_ok=True)
        row = {"step": 4, "seconds": 1.0, "segment": 0, "val.reconstruction_error": value}
        (sweep / "reports" / f"{trial:04d}.jsonl").write_text(json.dumps(row) + "\n")
    write_log(sweep)
    rest = ("--input", trained / "mine.npy", "--json")
    assert run("--from-sweep", sweep, *rest, "--output", tmp_path / "a") == 0
    assert "/trials/0001/" in json.loads(capsys.readouterr().out)["checkpoint"]
    given = ("--from-sweep", sweep, "--trial", "0")
    assert run(*given, *rest, "--output", tmp_path / "b") == 0
    assert "/trials/0000/" in json.loads(capsys.readouterr().out)["checkpoint"]
    given = ("--from-sweep", sweep, "--trial", "7")
    assert run(*given, *rest, "--output", tmp_path / "c") == 2
    assert "--trial is best or one of 0 .. 1, not '7'" in capsys.readouterr().err


def write_log(sweep):
    document = {
        "format": 1,
        "system": SYSTEM,
        "settings": {},
        "objectives": [{"metric": "val.reconstruction_error", "mode": "min"}],
        "metrics": {"val.reconstruction_error": {"unit": "", "mode": "min", "help": ""}},
    }
    (sweep / "sweep.json").write_text(json.dumps(document))
    events = []
    for trial, value in enumerate((0.5, 0.2)):
        common = {"trial": trial, "segment": 0}
        events.append({"event": "handed_out", **common, "sampled": {}, "seed": 0})
        ended = {"state": "complete", "step": 4, "value": value, "seconds": 1.0}
        events.append({"event": "ended", **common, **ended})
    (sweep / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_what_cannot_work_is_refused_in_words(trained, tmp_path, capsys):
    mine, out = trained / "mine.npy", tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    cases = [
        (("--checkpoint", trained, "--input", mine, "--output", out), "neither a checkpoint"),
        (
            ("--checkpoint", trained / "run", "--input", tmp_path / "no", "--output", out),
            "no does not exist",
        ),
        (
            ("--checkpoint", trained / "run", "--input", mine, "--output", tmp_path / "full"),
            "holds files already",
        ),
        (
            ("--checkpoint", trained / "run", "--trial", "1", "--input", mine, "--output", out),
            "--trial belongs to a sweep",
        ),
        (("--from-sweep", trained, "--input", mine, "--output", out), "not a sweep directory"),
        (
            ("--checkpoint", trained / "run", "--output", out),
            "field_vae needs inputs: name a .npy file of fields by --input PATH",
        ),
    ]
    given = ("--checkpoint", trained / "run", "--input", mine, "--output", out)
    for option, value in (("--count", 2), ("--seed", 0), ("--workers", 2)):
        said = f"{option} {value}: system field_vae draws nothing"
        cases.append(((*given, option, value), said))
    for arguments, message in cases:
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    assert not out.exists()
    assert (tmp_path / "full" / "file").read_text() == "kept"


def test_a_system_that_generates_nothing_is_refused(tmp_path, capsys):
    toy = ("trainables.toy:Toy", "train.steps=1", "--no-ray", "--dir", str(tmp_path / "run"))
    assert train.main(list(toy)) == 0
    made = ("--input", tmp_path, "--output", tmp_path / "out")
    assert run("--checkpoint", tmp_path / "run", *made) == 2
    assert "Toy, which generates nothing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
