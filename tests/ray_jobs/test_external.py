"""`train.external` in the verbs: a frozen module whose file has moved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ray_jobs import encode_latents, evaluate, generate, train
from ray_jobs.engine.looks import take_look
from trainables.checkpoints.checkpoint import CheckpointError

TOY = "external_toy:Frozen"
SHORT = ("train.steps=4", "train.report_every=2", "train.tensorboard=false")


@pytest.fixture
def moved(tmp_path, monkeypatch, one_thread):
    """A training without its `external`, which lies in another folder: both."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "trainables/seams")
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "run"
    assert train.main([TOY, *SHORT, "--no-ray", "--dir", str(directory)]) == 0
    return directory, Path(shutil.move(directory / "external", tmp_path / "moved"))


def test_every_verb_takes_the_new_place(moved, tmp_path, capsys):
    directory, place = moved
    (tmp_path / "x").write_text("0.5")
    made = ("--input", tmp_path / "x", "--output", tmp_path / "out")
    verbs = {
        evaluate: (directory, "--no-references"),
        generate: ("--checkpoint", directory, *made),
        train: ("--no-ray", "--resume", "--dir", directory, "train.steps=6"),
    }
    for verb, arguments in verbs.items():
        given = [str(argument) for argument in arguments]
        assert verb.main(given) == 2, verb
        assert "train.external=PATH" in capsys.readouterr().err
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert verb.main([*given, f"train.external={place}"]) == 0, verb
    # The training that went on has stored them anew.
    capsys.readouterr()
    assert evaluate.main([str(directory), "--no-references", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 6


def test_a_look_at_the_winner_takes_the_place_that_the_resume_named(tmp_path, moved, make_context):
    directory, place = moved
    shutil.move(directory, tmp_path / "sweep/trials/0000")
    settings = {"train.external": str(place)}
    context = make_context(tmp_path / "sweep", system=TOY, settings=settings)
    found = take_look(context, "validation", {0: (0, 4)}, references=False)
    assert found["trials"]["0"]["val.mse"] is not None
    with pytest.raises(CheckpointError, match=r"train\.external=PATH"):
        take_look(replace(context, settings={}), "validation", {0: (0, 4)}, references=False)


def test_other_keys_stay_what_was_trained(moved, tmp_path, capsys):
    checkpoint = ("--checkpoint", str(moved[0]))
    made = ("--input", str(moved[0]), "--output", str(tmp_path / "out"), "train.seed=1")
    assert generate.main([*checkpoint, *made]) == 2
    assert "generate takes train.external" in capsys.readouterr().err
    latents = (*checkpoint, "--measure-only", "train.seed=1")
    assert encode_latents.main(list(latents)) == 2
    assert "only data.* and train.external may be changed" in capsys.readouterr().err
    assert encode_latents.main([*latents[:-1], f"train.external={moved[1]}"]) == 2
    assert "encode" in capsys.readouterr().err  # the toy has none: it was opened
