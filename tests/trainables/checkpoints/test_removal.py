"""Checkpoints that are deleted: which stay, what the folder says, and what a kill leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from trainables.checkpoints import checkpoint
from trainables.checkpoints.removal import trim

RULE = "--keep-checkpoints best:1"


@pytest.fixture
def trial(toys, tmp_path):
    """The checkpoints of a trial: at 2, 4, ... 12; the best at step 2."""

    def made(name="0003", **changes):
        directory = tmp_path / "sweep/trials" / name
        short = {"train__report_every": 2, "train__keep_every": 2, "optimizer__lr": 0.02}
        toys.train(toys.Toy(), directory, objective=("val.mse", "max"), **{**short, **changes})
        folder = directory / "checkpoints"
        if not changes:  # as if the trial had not been asked to keep them
            for path in checkpoint.available(folder):
                meta = checkpoint.read_meta(path)
                meta["settings"]["train.keep_every"] = 0
                (path / "meta.json").write_text(json.dumps(meta))
        return folder

    return made


def steps(folder):
    return [checkpoint.step_of(path) for path in checkpoint.available(folder)]


@pytest.mark.parametrize(
    ("beside", "left"), [((), [2, 12]), ((6, 8), [2, 6, 8, 12]), ((5,), [2, 12]), (None, [])]
)
def test_the_best_the_newest_and_some_steps_stay(trial, beside, left):
    folder = trial()
    assert steps(folder) == [2, 4, 6, 8, 10, 12]
    assert trim(folder, beside, RULE) == 6 - len(left)
    assert steps(folder) == left
    gone = sorted({2, 4, 6, 8, 10, 12} - set(left))
    assert json.loads((folder / checkpoint.REMOVED).read_text()) == {"by": RULE, "steps": gone}
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*(f"step-{step:08d}" for step in left), checkpoint.REMOVED]
    )
    assert trim(folder, beside, RULE) == 0


def test_those_that_the_trial_was_asked_to_keep_stay(trial):
    folder = trial(train__keep_every=4)
    assert steps(folder) == [2, 4, 8, 10, 12]
    trim(folder, (), RULE)
    assert steps(folder) == [2, 4, 8, 12]


def test_without_anything_to_delete_nothing_is_written(trial, tmp_path):
    folder = trial()
    before = sorted(folder.rglob("*"))
    assert trim(folder, (2, 4, 6, 8, 10), RULE) == 0
    assert sorted(folder.rglob("*")) == before
    assert trim(tmp_path / "never began", (), RULE) == 0
    assert not (tmp_path / "never began").exists()


@pytest.mark.parametrize("name", ["meta.json", "state.pt"])
def test_where_the_newest_is_damaged_the_others_stay(trial, name):
    """The trial may go on from the one before."""
    folder = trial()
    (folder / "step-00000012" / name).write_bytes(b"{")
    assert trim(folder, (), RULE) == 0
    assert steps(folder) == [2, 4, 6, 8, 10, 12]


def test_notes_of_several_times_are_one(trial):
    folder = trial()
    trim(folder, (4, 6), "--keep-checkpoints rungs")
    trim(folder, None, RULE)
    note = json.loads((folder / checkpoint.REMOVED).read_text())
    assert note == {"by": RULE, "steps": [2, 4, 6, 8, 10, 12]}


def die_at(name, folder):
    def die(path, *arguments, **options):
        if name == "rmtree":
            (path / "state.pt").unlink()
        os._exit(7)

    setattr(Path if name == "rename" else shutil, name, die)  # in this process alone
    trim(folder, (), RULE)


@pytest.mark.parametrize("at", ["rename", "rmtree"])
def test_a_kill_in_between_leaves_only_whole_checkpoints_and_the_next_call_ends_it(trial, at):
    """In a process of its own, which dies at the first checkpoint that is to go: before it has
    lost its name, or when it has lost the first of its files.
    """
    folder = trial()
    process = multiprocessing.get_context("fork").Process(target=die_at, args=(at, folder))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert checkpoint.removed(folder) == {"by": RULE, "steps": [4, 6, 8, 10]}
    for path in checkpoint.available(folder):
        checkpoint.load(path, "trainables.toy:Toy")
    assert checkpoint.find(folder, best=True).name == "step-00000002"
    trim(folder, (), RULE)
    assert sorted(p.name for p in folder.iterdir()) == [
        checkpoint.REMOVED,
        "step-00000002",
        "step-00000012",
    ]


def test_who_looks_for_one_that_is_gone_hears_why_and_what_to_do(trial):
    folder = trial()
    trim(folder, (), RULE)
    gone = folder / "step-00000006"
    for look in (
        lambda: checkpoint.find(gone),
        lambda: checkpoint.read_meta(gone),
        lambda: checkpoint.load(gone, "trainables.toy:Toy"),
    ):
        with pytest.raises(checkpoint.CheckpointError) as raised:
            look()
        said = str(raised.value)
        assert "the steps 4, 6, 8, 10 were deleted by --keep-checkpoints best:1" in said
        assert "It has step-00000002, step-00000012, or train its settings again" in said
        assert f"--from-sweep {folder.parents[2]} --trial 0003 --dir DIR" in said
    trim(folder, None, RULE)
    for path in (folder, folder.parent, gone):
        with pytest.raises(checkpoint.CheckpointError, match="none left: name another trial, or"):
            checkpoint.find(path)


def test_a_folder_without_a_note_is_as_it_was(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="is neither a checkpoint"):
        checkpoint.find(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match=r"meta\.json cannot be read"):
        checkpoint.read_meta(tmp_path / "step-00000001")
