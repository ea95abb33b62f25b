"""Sweeps of the toy system that are planned and stored, but not run."""

from __future__ import annotations

import json

import pytest

from ray_jobs.engine.trial import SweepContext
from ray_jobs.sweeping.options import SweepOptions, given, sweep_parser
from ray_jobs.sweeping.planning import new_setup
from ray_jobs.sweeping.resume import stored_setup

TOY = "trainables.toy:Toy"
SPACE = "loss.squared.weight: {log_uniform: [0.01, 10]}\noptimizer.lr: {log_uniform: [0.001, 1]}\n"
LENGTH = ("train.steps=54", "train.report_every=2")


@pytest.fixture
def space(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    return str(file)


@pytest.fixture
def make_context():
    """What is constant over a sweep of trials of one worker that minimise `val.mse`."""

    def made(directory, **changes):
        options = {
            "system": TOY,
            "settings": {},
            "directory": str(directory),
            "cache": str(directory),
            "session": "s",
            "objective": ("val.mse", "min"),
            "columns": ("val.mse",),
            "workers": 1,
            "cpus": 1.0,
            "gpus": 0.0,
        }
        return SweepContext(**{**options, **changes})

    return made


@pytest.fixture
def make(space):
    def made(line="", *overrides):
        arguments = sweep_parser().parse_args(line.split())
        options = SweepOptions(
            system=TOY, space=space, overrides=(*LENGTH, *overrides), **given(vars(arguments))
        )
        return new_setup(options)

    return made


@pytest.fixture
def stored(make, tmp_path):
    """A setup, written and read again."""

    def made(line):
        setup = make(line)
        directory = tmp_path / "stored"
        directory.mkdir()
        (directory / "sweep.json").write_text(json.dumps(setup.document))
        return setup, stored_setup(directory)

    return made
