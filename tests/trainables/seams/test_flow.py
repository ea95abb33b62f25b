"""Trainings through an integrator: by one rank or two, cut, in bf16, resumed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from trainables.contract.check import check
from trainables.contract.examined import Examined

TOY = str(Path(__file__).with_name("flow_toy.py"))
spec = importlib.util.spec_from_file_location("flow_toy", TOY)
flows = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(flows)

BOTH = pytest.mark.parametrize("system", [flows.Flowing, flows.Descending])
SHORT = {"optimizer__lr": 0.02, "train__figures": False}
DROPPING = {**SHORT, "model__dropout": 0.2, "model__solver": "heun"}


@pytest.mark.slow
@BOTH
def test_they_keep_the_contract(tmp_path, system):
    assert check(Examined(system(), tmp_path)) == []


@BOTH
def test_recomputed_steps_train_the_same_bit_for_bit(toys, tmp_path, one_thread, system):
    kept, recomputed = (
        toys.train(system(), tmp_path / str(flag), model__is_checkpointed=flag, **DROPPING)
        for flag in (False, True)
    )
    assert [toys.without_time(r) for r in kept.history] == [
        toys.without_time(r) for r in recomputed.history
    ]
    assert all(torch.equal(recomputed.tensors[key], kept.tensors[key]) for key in kept.tensors)


def test_a_flow_is_learnt(toys, tmp_path, one_thread):
    settings = {**SHORT, "model__solver": "midpoint", "train__steps": 60, "train__report_every": 5}
    history = toys.train(flows.Flowing(), tmp_path, **settings).history
    assert history[-1]["val.mse"] < 0.3 * history[0]["val.mse"]


@pytest.mark.slow
@BOTH
def test_a_resume_in_the_middle_is_exact_in_bf16(toys, tmp_path, one_thread, system):
    settings = {**DROPPING, "train__precision": "bf16", "train__accumulate": 2}
    whole = toys.train(system(), tmp_path / "whole", **settings)
    toys.train(system(), tmp_path / "part", stop=4, **settings)
    rest = toys.train(system(), tmp_path / "part", resume=True, **settings)
    assert all(torch.equal(rest.tensors[key], whole.tensors[key]) for key in whole.tensors)
    assert [toys.without_time(r) for r in rest.history] == [
        toys.without_time(r) for r in whole.history[1:]
    ]


@BOTH
def test_accumulation_cuts_a_step_and_changes_nothing(toys, tmp_path, one_thread, system):
    whole = toys.train(system(), tmp_path / "whole", train__batch_size=8, **SHORT)
    cut = {"train__batch_size": 4, "train__accumulate": 2}
    found = toys.train(system(), tmp_path / "cut", **cut, **SHORT)
    for key, tensor in whole.tensors.items():
        torch.testing.assert_close(found.tensors[key], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("is_checkpointed", [True, False])
@BOTH
def test_two_ranks_train_as_one(ranks, tmp_path, system, is_checkpointed):
    """Also where a backward pass repeats the forward after DDP had a gradient of this step (the
    last bias of an energy is idle, so its own comes first).
    """
    settings = {"optimizer.lr": 0.02, "optimizer.eps": 1e-4, "train.figures": False}
    settings |= {"model.solver": "heun", "model.is_checkpointed": is_checkpointed}
    one, two = (
        ranks.trained(
            tmp_path / str(world),
            world,
            f"{TOY}:{system.__name__}",
            {**settings, "train.batch_size": 8 // world, "train.accumulate": 2},
        )
        for world in (1, 2)
    )
    for key, tensor in one[1].items():
        torch.testing.assert_close(two[1][key], tensor, rtol=1e-5, atol=1e-6)
    loss = one[0][0]["train.loss.squared"]
    assert two[0][0]["train.loss.squared"] == pytest.approx(loss, 1e-5)
