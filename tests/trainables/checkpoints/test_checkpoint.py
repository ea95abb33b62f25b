"""Checkpoints: whole or nothing, never code, and the previous one where the newest is damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables.checkpoints import checkpoint
from trainables.checkpoints.checkpoint import CheckpointError
from trainables.checkpoints.restore import fill

SYSTEM = "tests:system"


def save(folder, step, state=None, system=SYSTEM):
    tensors = {"module.model.weight": torch.full((3, 2), float(step)), "n": torch.tensor(step)}
    meta = {"system": system, "settings": {"a.b": 1, "a.c": [1, 2]}, "report": {"step": step}}
    return checkpoint.save(folder, step, tensors, state or {"moment": [torch.ones(2)]}, meta)


def names(folder):
    return [path.name for path in checkpoint.available(folder)]


def test_what_is_written_is_read(tmp_path):
    transposed = torch.arange(6.0).view(2, 3).t()  # not contiguous
    tensors = {
        "weight": transposed,
        "count": torch.tensor(7),
        "half": torch.randn(3).bfloat16(),
        "empty": torch.empty(0, 3),
    }
    state = {"optimizers": [{"state": {0: {"m": torch.randn(2)}}, "lr": 0.1}], "best": (3, 0.5)}
    checkpoint.save(tmp_path, 5, tensors, state, {"system": SYSTEM, "report": {"val.mse": None}})
    found = checkpoint.load(tmp_path / "step-00000005", SYSTEM)
    assert found.step == 5 and found.meta["report"] == {"val.mse": None}
    assert found.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found.tensors[key].dtype == tensor.dtype
        assert torch.equal(found.tensors[key], tensor)
    moment = found.state["optimizers"][0]["state"][0]["m"]
    assert torch.equal(moment, state["optimizers"][0]["state"][0]["m"])
    assert found.state["best"] == (3, 0.5)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def alter(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove(path):
    path.unlink()


def no_object(path):
    path.write_text("[1, 2]")


def no_content(path):
    path.write_text(json.dumps({"system": SYSTEM, "step": 20}))


DAMAGES = [
    (damage, name)
    for name in ("modules.safetensors", "state.pt")
    for damage in (truncate, alter, remove)
] + [(damage, "meta.json") for damage in (truncate, remove, no_object, no_content)]


@pytest.mark.parametrize(
    ("damage", "name"), DAMAGES, ids=[f"{d.__name__}-{name}" for d, name in DAMAGES]
)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, damage, name):
    save(tmp_path, 10)
    damage(save(tmp_path, 20) / name)
    said = []
    found = checkpoint.newest_good(tmp_path, SYSTEM, said.append)
    assert found is not None and found.step == 10
    assert len(said) == 1
    assert "step-00000020" in said[0] and name in said[0] and "Falling back" in said[0]


def test_nothing_readable_is_an_error_and_nothing_at_all_is_none(tmp_path):
    assert checkpoint.newest_good(tmp_path / "absent", SYSTEM, print) is None
    for step in (1, 2):
        alter(save(tmp_path, step) / "state.pt")
    with pytest.raises(CheckpointError, match=r"no readable checkpoint") as caught:
        checkpoint.newest_good(tmp_path, SYSTEM, lambda text: None)
    assert "step-00000001" in str(caught.value) and "step-00000002" in str(caught.value)


def test_a_checkpoint_of_another_system_is_an_error_and_never_passed_over(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, system="tests:other")
    with pytest.raises(CheckpointError, match=r"'tests:other', not of 'tests:system'"):
        checkpoint.newest_good(tmp_path, SYSTEM, print)


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickled_object_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    path = save(tmp_path / "c", 1)
    torch.save({"moment": Touch(mark)}, path / "state.pt")
    meta = json.loads((path / "meta.json").read_text())
    meta["files"]["state.pt"] = checkpoint._fingerprint(path / "state.pt")  # not mere damage
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        checkpoint.load(path, SYSTEM)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Touch(mark)))  # noqa: S301 - the trap itself works
    assert mark.exists()


@pytest.mark.parametrize(
    ("best", "every", "kept"),
    [
        (None, 0, [50, 60]),
        (20, 0, [20, 50, 60]),
        (60, 0, [50, 60]),
        (None, 20, [20, 40, 50, 60]),
        (10, 30, [10, 30, 50, 60]),
    ],
)
def test_the_last_two_the_best_and_every_k_are_kept(tmp_path, best, every, kept):
    for step in range(10, 70, 10):
        save(tmp_path, step)
        checkpoint.prune(tmp_path, best, every)
    assert [int(name[5:]) for name in names(tmp_path)] == kept


def test_a_step_that_is_trained_again_replaces_its_checkpoint(tmp_path):
    save(tmp_path, 3, {"moment": [torch.zeros(1)]})
    path = save(tmp_path, 3, {"moment": [torch.ones(1)]})
    assert torch.equal(checkpoint.load(path, SYSTEM).state["moment"][0], torch.ones(1))
    assert os.listdir(tmp_path) == ["step-00000003"]


def crash(directory):
    def die(path, target):
        os._exit(7)

    Path.rename = die  # in this process alone
    save(directory, 20)


def test_a_crash_before_the_rename_leaves_nothing_that_counts(tmp_path):
    """In a process of its own, which dies where the finished folder would get its name."""
    save(tmp_path, 10)
    process = multiprocessing.get_context("fork").Process(target=crash, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert len(os.listdir(tmp_path)) == 2, "the crash came before anything was written"
    assert names(tmp_path) == ["step-00000010"]
    found = checkpoint.newest_good(tmp_path, SYSTEM, pytest.fail)
    assert found is not None and found.step == 10


def test_a_checkpoint_is_on_the_disk_before_and_after_it_has_its_name(tmp_path, monkeypatch):
    """Each file and the folder around it, then the name, then the folder that holds the name."""
    done, force, rename = [], os.fsync, Path.rename

    def forced(descriptor):
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        force(descriptor)

    def renamed(path, target):
        done.append("the name")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(Path, "rename", renamed)
    save(tmp_path, 7)
    before, (name, after) = done[:-2], done[-2:]
    assert set(before[:-1]) == {"meta.json", "modules.safetensors", "state.pt"}
    assert before[-1].startswith(".step-00000007.")
    assert (name, after) == ("the name", tmp_path.name)


def test_weights_of_another_network_are_refused_in_one_line():
    tensors = nn.Linear(2, 3).state_dict()
    with pytest.raises(CheckpointError, match=r"^module net .* size mismatch") as raised:
        fill(nn.Linear(2, 4), tensors, "module net")
    assert "begin anew" in str(raised.value) and "\n" not in str(raised.value)
    same = nn.Linear(2, 3)
    fill(same, tensors, "module net")
    assert all(torch.equal(same.state_dict()[key], tensors[key]) for key in tensors)
