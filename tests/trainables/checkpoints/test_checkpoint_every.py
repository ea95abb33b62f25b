"""`train.checkpoint_every`: which reports have a checkpoint; between two nothing is lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from results.store import ReportWriter
from settings.paths import TrainingPaths
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.toy import Toy, ToyGan

FALLING = ("val.mse", "max")
"""An objective that gets worse at every report, so that the first is the best."""

LONG = {"train__steps": 20, "train__report_every": 2, "optimizer__lr": 0.02, "data__noise": 0.0}


class Told(LocalRun):
    """Notes which checkpoints there are at each report: every one that was written is there at its
    own report.
    """

    def tell(self, report):
        self.__dict__.setdefault("written", set()).update(steps(self.directory))
        super().tell(report)


def steps(directory):
    paths = checkpoint.available(TrainingPaths(directory).checkpoints)
    return [checkpoint.step_of(path) for path in paths]


def written(toys, directory, system=Toy, **changes):
    """The steps at which a training wrote checkpoints."""
    options = {
        name: changes.pop(name)
        for name in ("objective", "rungs", "stop_step", "resume", "start", "keeps_rungs")
        if name in changes
    }
    run = Told(directory, **options)
    fit(system(), toys.settings(system, **{**LONG, **changes}), run, None)
    return sorted(run.written)


@pytest.mark.parametrize(
    ("every", "expected"), [(1, list(range(2, 22, 2))), (3, [6, 12, 18, 20]), (99, [20])]
)
def test_every_kth_report_has_a_checkpoint_and_so_has_the_last(toys, tmp_path, every, expected):
    assert written(toys, tmp_path, train__checkpoint_every=every) == expected


def test_the_default_is_one_at_every_report(toys):
    assert toys.settings(Toy).train.checkpoint_every == 1


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"objective": FALLING}, [2, 6, 12, 18, 20]),
        ({"objective": ("val.mse", "min")}, list(range(2, 22, 2))),
        ({"rungs": (4, 8)}, [4, 6, 8, 12, 18, 20]),
        ({"stop_step": 10}, [6, 10]),
        ({"train__keep_every": 4}, [4, 6, 8, 12, 16, 18, 20]),
    ],
    ids=["best", "better and better", "rungs", "segment", "keep_every"],
)
def test_what_always_has_one(toys, tmp_path, more, expected):
    assert written(toys, tmp_path, train__checkpoint_every=3, **more) == expected


def test_a_training_that_ends_by_itself_has_one_at_its_end(toys, tmp_path):
    ends = {"train__patience": 3, "objective": FALLING, "train__checkpoint_every": 99}
    assert written(toys, tmp_path, **ends) == [2, 8]
    run = LocalRun(tmp_path, objective=FALLING, resume=True)
    changes = {**LONG, "train__patience": 3, "train__checkpoint_every": 99}
    report = fit(Toy(), toys.settings(Toy, **changes), run, None)
    assert str(report["stop_reason"]).startswith("patience") and run.history == []


def test_the_numbers_do_not_depend_on_it(toys, tmp_path):
    """Also over segments that end between two checkpoints."""
    for name in (Toy, ToyGan):
        whole = toys.train(name(), tmp_path / f"{name.__name__}-whole", **LONG)
        part = tmp_path / f"{name.__name__}-part"
        for stop in (4, 14, None):
            rest = toys.train(
                name(), part, resume=stop != 4, stop=stop, train__checkpoint_every=3, **LONG
            )
        assert toys.without_time(rest.report) == toys.without_time(whole.report)
        assert all(torch.equal(rest.tensors[k], whole.tensors[k]) for k in whole.tensors)


def test_a_resume_may_change_it(toys, tmp_path):
    assert written(toys, tmp_path, train__checkpoint_every=3, stop_step=8) == [6, 8]
    rest = written(toys, tmp_path, train__checkpoint_every=2, resume=True)
    assert rest == [6, 8, 12, 16, 20]


def test_a_member_of_a_population_owns_its_start_at_once(toys, tmp_path):
    """It is cut short before its first checkpoint of its own, when the source has moved on."""
    whole, cut, source = (tmp_path / name / "trials" for name in ("whole", "cut", "source"))
    toys.train(Toy(), source / "0000", stop=8, **LONG)
    start = source / "0000/checkpoints/step-00000008"
    member = {**LONG, "train__seed": 4, "train__checkpoint_every": 3}
    options = {"resume": True, "start": start}
    for folder in (whole, cut):
        toys.train(Toy(), folder / "0001", stop=8, **member)
    assert written(toys, whole / "0001", **member, **options, stop_step=16) == [8, 12, 16]

    class Cut(LocalRun):
        def tell(self, report):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Toy(), toys.settings(Toy, **member), Cut(cut / "0001", stop_step=16, **options), None)
    assert steps(cut / "0001") == [8]
    shutil.rmtree(start)
    written(toys, cut / "0001", **member, **options, stop_step=16)
    one, two = (
        checkpoint.load(folder / "0001/checkpoints/step-00000016", Toy.name).tensors
        for folder in (whole, cut)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_rungs_are_kept_where_the_sweep_says_so(toys, tmp_path):
    rungs = {"rungs": (4, 10), "train__checkpoint_every": 3}
    written(toys, tmp_path / "a", **rungs)
    assert steps(tmp_path / "a") == [18, 20]
    written(toys, tmp_path / "b", **rungs, keeps_rungs=True)
    assert steps(tmp_path / "b") == [4, 10, 18, 20]


KILLED = """
import os, signal, sys
from pathlib import Path
from results.store import ReportWriter
from settings.flat import replace
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.toy import ToyGan
import json, torch

torch.set_num_threads(1)
directory, settings = Path(sys.argv[1]), json.loads(sys.argv[2])

def die(report):
    if report["step"] == 10:
        os.kill(os.getpid(), signal.SIGKILL)

run = LocalRun(directory, ReportWriter(directory / "reports.jsonl"), ("val.mse", "max"))
run.on_report = die
fit(ToyGan(), replace(ToyGan.Settings(), settings), run, None)
"""


@pytest.mark.slow
def test_killed_between_two_it_makes_the_same_reports_again(toys, tmp_path, one_thread):
    """By SIGKILL after the fifth report, when the newest checkpoint is that of the third."""
    changes = {**LONG, "train__checkpoint_every": 3, "train__ema_decay": 0.5}
    tree = toys.settings(ToyGan, **changes)
    asked = {key.replace("__", "."): value for key, value in changes.items()}
    asked["train.tensorboard"] = False
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), json.dumps(asked)]
    died = subprocess.run(command, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [row["step"] for row in rows(tmp_path / "killed")] == [2, 4, 6, 8, 10]
    assert steps(tmp_path / "killed") == [2, 6]
    before = rows(tmp_path / "killed")
    for name in ("killed", "whole"):
        with ReportWriter(tmp_path / name / "reports.jsonl") as reports:
            run = LocalRun(tmp_path / name, reports, FALLING, resume=name == "killed")
            fit(ToyGan(), tree, run, None)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert rows(tmp_path / "killed")[:5] == before
    one, two = (
        checkpoint.load(tmp_path / name / "checkpoints/step-00000020", ToyGan.name)
        for name in ("killed", "whole")
    )
    assert all(torch.equal(one.tensors[key], two.tensors[key]) for key in two.tensors)
    assert one.meta["best"] == two.meta["best"]


def rows(directory):
    lines = (directory / "reports.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
