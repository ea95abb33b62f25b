"""Figures: PNG files of the same samples in every training, and TensorBoard's."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from settings.flat import replace
from trainables.loop import fit
from trainables.reporting import figures
from trainables.run import LocalRun
from trainables.toy import Toy

MODULE = runpy.run_path(str(Path(__file__).with_name("examination_toy.py")))
EXAMINED = MODULE["Examined"]
NAME = "drawn.points"


class Drawn(Toy):
    """The toy with a picture: its predictions above its targets."""

    name = "tests:Drawn"

    def picture(self, prediction, batch):
        rows = torch.stack([prediction["y"].flatten().float(), batch["y"].flatten()])
        return (rows / 8.0)[None].expand(3, -1, -1)

    def tensorboard_figures(self, settings):
        return {"val.worst_batch": ("Worst", "Worst/again")}


def trained(directory, system=None, *, objective=None, resume=False, **changes):
    system = system or EXAMINED()
    named = {key.replace("__", "."): value for key, value in changes.items()}
    short = {"train.steps": 12, "train.report_every": 2, "train.tensorboard": False}
    warned = []
    run = LocalRun(directory, objective=objective, resume=resume)
    run.warn = warned.append
    fit(system, replace(system.Settings(), {**short, **named}), run, None)
    return run.history, warned


def drawn_in(directory):
    """Name -> steps of its files."""
    folders = [path for path in (directory / "figures").glob("*") if path.is_dir()]
    return {path.name: sorted(int(file.stem) for file in path.iterdir()) for path in folders}


def counts_in(directory):
    return json.loads((directory / "figures" / "counts.json").read_text())


def pixels(path):
    return np.asarray(Image.open(path), dtype=float) / 255.0


def test_the_first_the_best_and_the_last_are_kept(tmp_path):
    history, _ = trained(tmp_path, objective=("val.diagnostic", "max"), optimizer__lr=1e-9)
    assert {report["step"] for report in history} == {2, 4, 6, 8, 10, 12}
    assert drawn_in(tmp_path) == {NAME: [2, 12]}
    assert counts_in(tmp_path) == {"drawn": 6, "tensorboard_bytes": 0, "left_out": 0}


def test_the_best_is_kept_between_them(tmp_path):
    peak = {"optimizer__lr": 1.0, "optimizer__kind": "sgd"}
    history, _ = trained(tmp_path, objective=("val.slope_error", "max"), **peak)
    values = {report["step"]: report["val.slope_error"] for report in history[:-1]}
    best = max(values, key=values.get)
    assert 2 < best < 12
    assert drawn_in(tmp_path)[NAME] == [2, best, 12]


def test_figures_are_of_the_same_cases_and_as_they_were_given(tmp_path, one_thread):
    for name, seed in {"a": 1, "b": 2}.items():
        trained(tmp_path / name, train__seed=seed, optimizer__lr=1e-9)
    first = pixels(tmp_path / "a" / "figures" / NAME / "00000002.png")
    assert first.shape == (32, 8, 3) and set(np.unique(first)) == {0.0, 1.0}
    again = pixels(tmp_path / "a" / "figures" / NAME / "00000012.png")
    np.testing.assert_array_equal(first, again)
    assert (first != pixels(tmp_path / "b" / "figures" / NAME / "00000002.png")).any()


def test_the_switch_draws_nothing(tmp_path):
    trained(tmp_path / "toy", train__figures=False)
    trained(tmp_path / "drawn", Drawn(), train__figures=False, train__tensorboard=True)
    assert not list(tmp_path.glob("*/figures"))


def test_a_system_with_a_picture_shows_its_first_samples(tmp_path, tensorboard_values):
    trained(tmp_path, Drawn(), train__tensorboard=True, train__examine_every=2)
    assert drawn_in(tmp_path) == {"val.samples": [4, 12], "val.worst_batch": [2, 12]}
    drawn = pixels(tmp_path / "figures" / "val.samples" / "00000012.png")
    loaders = Drawn().loaders(Drawn.Settings(), None)
    targets = [loaders.validation[index]["y"].item() for index in range(8)]
    np.testing.assert_allclose(drawn[1, :, 0], np.clip(np.array(targets) / 8.0, 0, 1), atol=0.003)
    images = {
        tag: [step for step, value in pairs if value.HasField("image")]
        for tag, pairs in tensorboard_values(tmp_path).items()
    }
    shown = {tag: steps for tag, steps in images.items() if steps}
    every = [2, 4, 6, 8, 10, 12]
    assert shown == {"val.samples": [4, 8, 12], "Worst": every, "Worst/again": every}


def test_charts_are_drawn_of_the_report_where_examinations_are_due(tmp_path):
    def charts(self, settings, report):
        return {"val.loss": torch.full((3, 4, 4), report["step"] / 255.0)}

    trained(tmp_path, type("Charted", (Drawn,), {"charts": charts})(), train__examine_every=3)
    assert drawn_in(tmp_path) == {"val.loss": [6, 12], "val.samples": [6, 12]} | {
        "val.worst_batch": [2, 12]
    }
    drawn = pixels(tmp_path / "figures" / "val.loss" / "00000006.png")
    np.testing.assert_allclose(drawn, 6 / 255.0, atol=1e-6)


def test_a_resume_draws_what_an_undisturbed_training_has(tmp_path, one_thread):
    def stop(report):
        if report["step"] == 8:
            raise KeyboardInterrupt

    whole, part = tmp_path / "whole", tmp_path / "part"
    trained(whole, train__checkpoint_every=3)
    short = {"train.steps": 12, "train.report_every": 2, "train.tensorboard": False}
    tree = replace(EXAMINED.Settings(), {**short, "train.checkpoint_every": 3})
    with pytest.raises(KeyboardInterrupt):
        fit(EXAMINED(), tree, LocalRun(part, on_report=stop), None)
    assert drawn_in(part) == {NAME: [2, 8]}  # the newest checkpoint is of step 6
    trained(part, resume=True, train__checkpoint_every=3)
    assert drawn_in(part) == drawn_in(whole) == {NAME: [2, 12]}
    for path in sorted((whole / "figures" / NAME).iterdir()):
        assert path.read_bytes() == (part / "figures" / NAME / path.name).read_bytes()


def test_what_cannot_be_drawn_is_left_out_and_said_once(tmp_path):
    large, fine = torch.zeros(3, 4, figures.LARGEST + 1), torch.zeros(3, 4, 4)
    many = {f"n{index}": fine for index in range(figures.MOST)}
    drawn = {"large": large, "gray": torch.zeros(4, 4), "a/b": fine, **many}
    examination = dataclasses.replace(MODULE["DRAWN"], draw=lambda exam: drawn)
    system = type("Odd", (EXAMINED,), {"examinations": lambda *a: (examination,)})
    _, warned = trained(tmp_path, system(), train__steps=4)
    assert sorted(drawn_in(tmp_path)) == sorted(f"drawn.n{i}" for i in range(figures.MOST - 3))
    said = [text for text in warned if text.startswith("figure drawn.")]
    assert len(said) == 6 and len([text for text in said if "at most 16 figures" in text]) == 3
    assert "[3, 4, 2049]" in said[0] and "[4, 4]" in said[1] and "name" in said[2]
    assert counts_in(tmp_path)["left_out"] == 12


def test_tensorboard_has_an_end_to_it(tmp_path, monkeypatch, tensorboard_values):
    """The folder goes on; a resume goes on counting."""
    trained(tmp_path / "all", train__tensorboard=True)
    size = counts_in(tmp_path / "all")["tensorboard_bytes"] // 6
    monkeypatch.setattr(figures, "TENSORBOARD_BYTES", 3 * size + size // 2)
    for steps in (4, 12):
        resume = {"resume": steps == 12, "train__steps": steps, "optimizer__schedule": "constant"}
        _, warned = trained(tmp_path / "few", train__tensorboard=True, **resume)
    assert [step for step, _ in tensorboard_values(tmp_path / "few")[NAME]] == [2, 4, 6]
    assert drawn_in(tmp_path / "few") == {NAME: [2, 12]}
    assert counts_in(tmp_path / "few")["left_out"] == 3
    assert len([text for text in warned if text.startswith("TensorBoard gets")]) == 1


def test_names_that_change_fill_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MOST", 3)
    run = LocalRun(tmp_path)
    warned = []
    run.warn = warned.append
    tree = replace(Toy.Settings(), {"train.tensorboard": False})
    drawn = figures.Figures(Toy(), tree, run, None)
    for step in range(5):
        drawn.draw([(f"at-{step}", torch.zeros(3, 2, 2))], step)
    assert len(drawn_in(tmp_path)) == 3 and counts_in(tmp_path)["left_out"] == 2
    assert "at most 3 figures by name" in warned[0]
