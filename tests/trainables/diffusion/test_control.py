"""The control stage: a branch on a frozen network that another training has made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.mri.nifti_write import write_nifti
from settings.flat import flatten, replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.contract.examined import Examined
from trainables.diffusion.prediction import predict
from trainables.diffusion.system import Diffusion
from trainables.diffusion.use import GenerateSettings
from trainables.loop import fit
from trainables.request import Request
from trainables.run import LocalRun
from trainables.stepping.inputs import batch_of

pytestmark = pytest.mark.usefixtures("one_thread")

SYSTEM = Diffusion()
SHORT = {
    "train.steps": 4, "train.report_every": 2, "train.tensorboard": False,
    "train.figures": False, "train.test": False, "train.ema_decay": 0.0,
}  # fmt: skip
BRANCH = {"control.enabled": True, "control.widths": (4,)}


@pytest.fixture(scope="module")
def trunk(shared_cache, tmp_path_factory):
    """The folder of a training of two steps without control."""
    folder = tmp_path_factory.mktemp("trunk") / "right"
    values = {**SYSTEM.small, **SHORT, "train.steps": 2}
    settings = replace(SYSTEM.Settings(), values)
    fit(SYSTEM, settings, LocalRun(folder), SYSTEM.prepare(settings, shared_cache))
    return folder


@pytest.fixture
def settings_of(trunk):
    def of(**changes):
        named = {key.replace("__", "."): value for key, value in changes.items()}
        init = {"train.init_from": str(trunk)}
        return replace(SYSTEM.Settings(), {**SYSTEM.small, **SHORT, **BRANCH, **init, **named})

    return of


def stored(folder):
    path = checkpoint.find(folder, best=False)
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def of_module(tensors, name):
    start = f"module.{name}."
    return {key: value for key, value in tensors.items() if key.startswith(start)}


def train(settings, folder, cache, **run):
    return fit(SYSTEM, settings, LocalRun(folder, **run), SYSTEM.prepare(settings, cache))


@pytest.mark.slow
def test_only_the_branch_is_trained_and_it_began_as_the_encoder(
    settings_of, trunk, shared_cache, tmp_path
):
    train(settings_of(), tmp_path / "control", shared_cache)
    before, after = stored(trunk), stored(tmp_path / "control")
    frozen = of_module(before, "network")
    assert frozen
    assert all(torch.equal(after[key], value) for key, value in frozen.items())
    branch = of_module(after, "control")
    zeros = [v for k, v in branch.items() if "controlnet_down_blocks" in k or "mid_block" in k]
    assert zeros
    assert all(bool(value.any()) for value in zeros)
    weight = "down_blocks.0.resnets.0.conv1.conv.weight"
    theirs, ours = frozen[f"module.network.{weight}"], branch[f"module.control.{weight}"]
    # fresh weights would be as far from it as they are large
    assert (ours - theirs).norm() < 0.5 * theirs.norm()
    held = [key for key in after if "optim" in key and "network" in key]
    assert held == []


@pytest.mark.slow
def test_a_training_of_the_branch_keeps_the_rules_of_trainings(
    settings_of, shared_cache, rules_of_trainings
):
    """The rules of a single batch are not for it: without `train.init_from` the last layer of the
    frozen network is 0, and no gradient reaches the branch.
    """
    defaults = flatten(replace(SYSTEM.Settings(), SYSTEM.small))
    given = {k: v for k, v in flatten(settings_of()).items() if v != defaults[k]}
    examined = Examined(SYSTEM, shared_cache, {**given, "train.steps": 4})
    assert [str(fault) for rule in rules_of_trainings for fault in rule(examined)] == []


def shaken(settings, cache):
    """(modules as a training has them but for weights that are not 0, two of its samples)"""
    prepared = SYSTEM.prepare(settings, cache)
    modules = SYSTEM.build(settings, prepared).modules
    for module in modules.values():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return modules, batch_of(SYSTEM.loaders(settings, prepared), "train", [(0, 5), (1, 6)])


def test_what_is_frozen_draws_no_dropout_and_the_branch_does(settings_of, shared_cache):
    """Conditions that are always dropped in the training of the network are given in this one."""
    conditions = {"data__group": "multi_modality", "condition__mode__enabled": True,
                  "condition__mask__enabled": True}  # fmt: skip
    dropped = {"condition__mode__dropout": 1.0, "condition__mask__dropout": 1.0}
    settings = settings_of(**conditions, **dropped, control__dropout=0.0)
    modules, batch = shaken(settings, shared_cache)
    noisy, t = torch.randn(2, 1, 16, 16), torch.tensor([0.3, 0.6])
    none = torch.ones(2, dtype=torch.bool)

    def said(settings, is_null=None):
        return predict(modules, noisy, t, batch, settings, is_null).detach()

    stepping, without = said(settings), said(settings_of(**conditions, control__dropout=1.0))
    for module in modules.values():
        module.eval()
    assert torch.equal(stepping, said(settings))
    assert not torch.equal(stepping, said(settings, none))
    assert not torch.equal(without, stepping)
    assert not torch.equal(without, said(settings, none))  # the mask of the network is given


@pytest.mark.slow
def test_a_training_resumed_in_the_middle_is_the_uninterrupted_one(
    settings_of, shared_cache, tmp_path
):
    """With a moving average, of the branch alone, whose error is measured."""
    settings = settings_of(train__ema_decay=0.5)
    train(settings, tmp_path / "whole", shared_cache)
    train(settings, tmp_path / "part", shared_cache, stop_step=2)
    report = train(settings, tmp_path / "part", shared_cache, resume=True)
    whole, part = stored(tmp_path / "whole"), stored(tmp_path / "part")
    assert whole.keys() == part.keys()
    assert all(torch.equal(part[key], value) for key, value in whole.items())
    averaged = {key.split(".")[1] for key in whole if key.startswith("ema.")}
    assert averaged == {"control"}
    assert report["val.average_error"] > 0.0


@pytest.mark.slow
def test_two_workers_learn_the_branch_as_one_does(trunk, ranks, shared_cache, tmp_path):
    values = {
        **SYSTEM.small, **SHORT, **BRANCH, "train.init_from": str(trunk),
        "optimizer.eps": 1e-4,  # with 1e-8 Adam takes a whole step for rounding
    }  # fmt: skip

    def trained(name, world, batch):
        settings = {**values, "train.batch_size": batch}
        folder, cache = tmp_path / name, str(shared_cache)
        return ranks.trained(folder, world, "diffusion", settings, cache=cache)

    (one, expected), (two, found) = trained("one", 1, 4), trained("two", 2, 2)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5, msg=key)
    for report in two:
        assert report["val.loss.mse"] == pytest.approx(one[0]["val.loss.mse"], rel=1e-4)


def test_without_a_mask_the_branch_is_not_asked(settings_of, shared_cache):
    settings = settings_of()
    prepared = SYSTEM.prepare(settings, shared_cache)
    modules = SYSTEM.build(settings, prepared).modules
    for module in modules.values():
        module.eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    batch = batch_of(SYSTEM.loaders(settings, prepared), "validation", [0, 1])
    noisy, t = torch.randn(2, 1, 16, 16), torch.tensor([0.3, 0.6])
    alone = {name: module for name, module in modules.items() if name != "control"}
    plain = replace(settings, {"control.enabled": False})
    expected = predict(alone, noisy, t, batch, plain)
    without = {key: value for key, value in batch.items() if key != "mask"}
    assert torch.equal(predict(alone, noisy, t, without, settings), expected)
    assert torch.equal(predict(alone, noisy, t, batch, settings), expected)
    assert not torch.equal(predict(modules, noisy, t, batch, settings), expected)


def test_masks_are_taken_and_the_scale_says_how_much_they_are_heard(
    settings_of, shared_cache, tmp_path
):
    settings = settings_of()
    modules = SYSTEM.build(settings, SYSTEM.prepare(settings, shared_cache)).modules
    for module in modules.values():
        module.eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    mask = np.zeros((16, 16, 1), np.uint8)
    mask[4:8, 4:8] = 1
    (tmp_path / "patient").mkdir()
    write_nifti(tmp_path / "patient" / "seg.nii.gz", mask, np.eye(4), "mask")

    def made(name, source, scale):
        (tmp_path / name).mkdir()
        options = replace(GenerateSettings(), {"sampling.steps": 2, "control_scale": scale})
        request = Request(
            target=tmp_path / name, options=options, count=1, seed=1, source=source
        )
        with torch.no_grad():
            SYSTEM.generate(settings, modules, request)
        return (tmp_path / name / "grid_000000.png").read_bytes()

    source = tmp_path / "patient"
    alone = made("alone", None, 1.0)
    assert made("silent", source, 0.0) == alone
    assert made("heard", source, 1.0) != alone


def test_what_does_not_fit_is_refused(settings_of, shared_cache):
    for changes, words in (
        ({"train__init_from": ""}, "train.init_from names none"),
        ({"model__kind": "uvit"}, "model.kind=uvit has none"),
        ({"data__group": "seg"}, "lesion masks"),
        ({"control__widths": (4, 8)}, "Give it 1"),
        ({"control__scale": 0.0}, "control.scale=0 leaves it out"),
    ):
        with pytest.raises(SettingsError, match=words):
            settings_of(**changes)


def test_another_trunk_is_refused_before_the_training(settings_of, shared_cache):
    settings = settings_of(strategy__kind="ddpm")
    found = SYSTEM.preflight(settings, SYSTEM.prepare(settings, shared_cache))
    assert [finding.hopeless for finding in found] == [True]
    assert "strategy.kind is rflow there and ddpm here" in found[0].text
    same = settings_of()
    assert list(SYSTEM.preflight(same, SYSTEM.prepare(same, shared_cache))) == []
