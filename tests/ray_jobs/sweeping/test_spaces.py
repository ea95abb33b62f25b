"""What a trial takes of a documented point, and what stays the sweep's."""

from __future__ import annotations

import json

import pytest
import torch

from ray_jobs.sweep import main
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from ray_jobs.sweeping.resume import stored_setup, what_changed
from ray_jobs.sweeping.spaces import KEPT_BY_SWEEP, SET_BY_POINTS
from search.jobs import next_job
from search.log import SweepState
from settings.flat import leaves
from settings.match import matches
from settings.schema import SettingsError
from settings.systems import SYSTEMS
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.system import load_system

TOY = "trainables.toy:Toy"
LENGTH = ("train.steps=6", "train.report_every=3", "train.tensorboard=false")
PART = ("train.", "data.", "optimizer.warmup")


@pytest.fixture
def space(tmp_path):
    """The path of a space with one point, `paper`, of given settings."""

    def made(point):
        (tmp_path / "paper.yaml").write_text(point)
        file = tmp_path / "space.yaml"
        file.write_text("points: [paper.yaml]\noptimizer.lr: {uniform: [0.1, 0.5]}\n")
        return str(file)

    return made


@pytest.fixture
def setup_of(space):
    def made(point, *overrides, **options):
        overrides = (*LENGTH, *overrides)
        return new_setup(
            SweepOptions(system=TOY, space=space(point), overrides=overrides, **options)
        )

    return made


def the_note(setup):
    """What is said of the point, without its beginning."""
    begin = "point paper is trained without "
    (note,) = [note for note in setup.notes if note.startswith(begin)]
    return note.removeprefix(begin)


def test_every_key_is_the_point_s_or_the_sweep_s():
    """A new key of a training is put into one of the two."""
    trees = [leaves(load_system(name).Settings) for name in (*SYSTEMS, TOY)]
    keys = {key for tree in trees for key in tree if key.startswith(PART)}
    both = {key for key in keys if matches(key, SET_BY_POINTS) and matches(key, KEPT_BY_SWEEP)}
    neither = {key for key in keys if not matches(key, (*SET_BY_POINTS, *KEPT_BY_SWEEP))}
    assert (both, neither) == (set(), set())
    idle = {p for p in (*SET_BY_POINTS, *KEPT_BY_SWEEP) if not any(matches(k, [p]) for k in keys)}
    assert idle == set()


@pytest.mark.slow
def test_a_point_is_trained_by_its_recipe(setup_of, tmp_path):
    """The trial that it is handed out as gives the weights of a training under the same values,
    the moving average among them.
    """
    recipe = {
        "train.ema_decay": 0.75,
        "train.clip_norm": 0.25,
        "train.precision": "bf16",
        "train.patience": 5,
        "train.overfit_ratio": 1000.0,
    }
    point = "".join(f"{key}: {value}\n" for key, value in recipe.items())
    setup = setup_of(point)
    job = next_job(setup.plan, SweepState())
    assert (job.point, set(recipe) - set(job.sampled)) == ("paper", set())
    assert not [note for note in setup.notes if "paper" in note]
    overrides = [f"{key}={value}" for key, value in recipe.items()]
    expected = setup_of("optimizer.lr: 0.3\n", *overrides).configured
    found = trained(setup.configured.under(job.sampled), tmp_path / "point")
    wanted = trained(expected, tmp_path / "expected")
    bf16 = setup.configured.under({"train.precision": "bf16"})
    plain = trained(bf16, tmp_path / "plain")
    average = "ema.model.module.linear.weight"
    assert average in found
    assert average not in plain
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.0)
    weight = "module.model.linear.weight"
    assert not torch.equal(found[weight], plain[weight]), "it is clipped"


def trained(configured, directory):
    """The tensors of the last checkpoint of a training."""
    run = LocalRun(directory, objective=("val.mse", "min"))
    fit(configured.system, configured.settings, run, None)
    newest = checkpoint.available(directory / "checkpoints")[-1]
    return checkpoint.load(newest, configured.system.name).tensors


PRECISION = "train.precision: fp16\noptimizer.lr: 0.2\n"


def test_a_precision_that_a_trial_does_not_compute_is_left_out(setup_of):
    setup = setup_of(PRECISION)
    (point,) = setup.plan.points
    assert (point.sampled, point.outside) == ({"optimizer.lr": 0.2}, ())
    said = "train.precision=fp16 (needs a GPU, and a trial has none: --gpus 1)"
    assert the_note(setup) == said
    with_gpu = setup_of(PRECISION, gpus=1.0)
    assert with_gpu.plan.points[0].sampled["train.precision"] == "fp16"
    assert not [note for note in with_gpu.notes if "paper" in note]
    bf16 = setup_of("train.precision: bf16\n")
    assert bf16.plan.points[0].sampled["train.precision"] == "bf16"
    fixed = setup_of(PRECISION, "train.precision=bf16", gpus=1.0)
    assert "train.precision" not in fixed.plan.points[0].sampled
    assert the_note(fixed) == "train.precision=fp16 (fixed by an override)"


def test_the_plan_names_every_value_that_a_point_loses(space, tmp_path, capsys, monkeypatch):
    """And no value that the sweep has as well."""
    monkeypatch.setenv("COLUMNS", "500")
    lost = {
        "data.noise=0.5": "prepared once for all trials",
        "optimizer.warmup=0.5": "the same for all trials",
        "train.steps=60": "the same for all trials",
        "train.init_from=[bold]/runs/first": "the same for all trials",
        "train.compile=true": "up to the machine",
        "loss.absolute.schedule.positions=[0.5, 0.75]": "fixed by an override",
    }
    taken = ["train.patience=7", "model.dropout=0.5"]
    point = "".join(f"{pair.replace('=', ': ', 1)}\n" for pair in (*lost, *taken))
    point = point.replace("[bold]/runs/first", "'[bold]/runs/first'")
    override = "loss.absolute.schedule.positions=[0.25, 0.5]"
    line = [TOY, *LENGTH, override, "data.samples=8", "--space"]
    line += [space(f"{point}train.report_every: 3\ndata.samples: 8\n"), "--plan"]
    assert main([*line, "--dir", str(tmp_path / "sweep")]) == 0
    said = capsys.readouterr().out
    groups = dict.fromkeys(lost.values())
    named = "; ".join(
        f"{', '.join(pair for pair, why in lost.items() if why == group)} ({group})"
        for group in groups
    )
    assert f"point paper is trained without {named}\n" in said
    assert all(pair in said for pair in taken)


def test_a_point_that_breaks_a_rule_under_the_sweep_s_settings_is_named(setup_of):
    wait = "train.finite_check_every=2"
    with pytest.raises(SettingsError) as error:
        setup_of(PRECISION, wait, gpus=1.0)
    assert str(error.value).startswith(f"point paper, under this sweep's settings: {wait} saves")
    setup_of(PRECISION, wait, "train.precision=no", gpus=1.0)


RECIPE = "train.ema_decay: 0.9\ntrain.steps: 60\noptimizer.lr: 0.2\n"


@pytest.mark.parametrize("before", [False, True], ids=["today", "before"])
def test_a_resume_keeps_the_points_as_they_are_stored(setup_of, space, tmp_path, before):
    """Also of a sweep whose version took nothing of `train.*` from a point."""
    setup = setup_of(RECIPE)
    document = json.loads(json.dumps(setup.document))
    if before:
        document["points"][0] |= {"settings": {"optimizer.lr": 0.2}, "outside": []}
    stored = tmp_path / "stored"
    stored.mkdir()
    (stored / "sweep.json").write_text(json.dumps(document))
    again = stored_setup(stored)
    sampled = {} if before else {"train.ema_decay": 0.9}
    assert again.plan.points[0].sampled == {"optimizer.lr": 0.2, **sampled}
    assert what_changed(again, {"space": space(RECIPE)}, []) == []
    other = {"space": space(RECIPE.replace("0.2", "0.4"))}
    (line,) = what_changed(again, other, [])
    assert line.startswith("points: ")
