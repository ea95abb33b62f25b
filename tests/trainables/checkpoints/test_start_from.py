"""A segment that begins from another trial's checkpoint, under settings and a seed of its own."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from results.store import ReportWriter
from trainables.checkpoints import checkpoint
from trainables.loop import CHECKPOINTS_LENT, Training, fit
from trainables.run import LocalRun
from trainables.toy import Toy, ToyGan

pytestmark = pytest.mark.slow

SOURCE = {"optimizer__lr": 0.3, "train__seed": 1, "train__ema_decay": 0.9}
MEMBER = {"optimizer__lr": 0.05, "train__seed": 2, "train__ema_decay": 0.5}


class Pair:
    """Two trials side by side, as in a sweep; the source is at step 8 of 12."""

    def __init__(self, root, toys, system=None):
        self.root, self.toys, self.system = root, toys, system or Toy()
        self.source = self.folder(0) / "checkpoints" / "step-00000008"
        self.heard = []

    def folder(self, trial):
        return self.root / "trials" / f"{trial:04d}"

    def run(self, trial, stop, changes, **options):
        settings = self.toys.settings(self.system, **changes)
        run = LocalRun(
            self.folder(trial),
            reports=ReportWriter(self.root / f"{trial}.jsonl"),
            stop_step=stop,
            on_report=lambda report: self.heard.append((trial, report["step"])),
            **options,
        )
        return settings, run

    def train(self, trial, stop, changes, **options):
        settings, run = self.run(trial, stop, changes, **options)
        return fit(self.system, settings, run, None)

    def newest(self, trial):
        paths = checkpoint.available(self.folder(trial) / "checkpoints")
        return checkpoint.load(paths[-1], self.system.name)

    def reports(self, trial):
        lines = (self.root / f"{trial}.jsonl").read_text().splitlines()
        return [self.toys.without_time(json.loads(line)) for line in lines]

    def steps(self, trial):
        return [path.name for path in checkpoint.available(self.folder(trial) / "checkpoints")]


@pytest.fixture(params=[Toy, ToyGan])
def pair(request, tmp_path, toys):
    made = Pair(tmp_path, toys, request.param())
    made.train(0, 8, SOURCE)
    made.train(1, 8, MEMBER)
    made.heard.clear()
    return made


def test_it_begins_with_the_sources_state_and_its_own_settings(pair):
    changes = {**MEMBER, "optimizer__weight_decay": 0.25, "optimizer__beta1": 0.7}
    settings, run = pair.run(1, 12, changes, resume=True, start=pair.source)
    training = Training(pair.system, settings, run, None)
    assert training._restore() is True
    source = checkpoint.load(pair.source, pair.system.name)
    for name, module in training.modules.items():
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(tensor, source.tensors[f"module.{name}.{key}"])
    average = training.ema["model"].module.linear.weight
    torch.testing.assert_close(average, source.tensors["ema.model.module.linear.weight"])
    optimizer = training.updates[0].optimizer
    moments = source.state["optimizers"][0]["state"]
    assert moments and training.step == 8
    held = optimizer.state_dict()["state"]
    for index, state in moments.items():
        torch.testing.assert_close(held[index]["exp_avg"], state["exp_avg"])
    groups = optimizer.param_groups
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.25]
    assert {group["betas"] for group in groups} == {(0.7, 0.999)}
    assert {group["lr"] for group in groups} == {0.05}
    training.close()


def test_the_member_goes_on_as_if_the_source_had_got_its_settings(pair, toys, tmp_path):
    """The reports after the start are those of the source's own life, continued with the member's
    settings and seed; the member's reports before it stay.
    """
    before = pair.reports(1)
    pair.train(1, 12, MEMBER, resume=True, start=pair.source, segment=1)
    other = Pair(tmp_path / "other", toys, pair.system)
    shutil.copytree(pair.folder(0), other.folder(0))
    other.train(0, 12, MEMBER, resume=True)
    after = pair.reports(1)
    assert after[: len(before)] == before
    (added,) = after[len(before) :]
    assert {**added, "segment": 0} == other.reports(0)[-1]
    assert pair.heard == [(1, 12)], "what the source reported is not the member's report"
    for name, tensor in pair.newest(1).tensors.items():
        torch.testing.assert_close(tensor, other.newest(0).tensors[name], rtol=0, atol=0)


def test_the_life_that_was_given_up_leaves_no_checkpoint(pair):
    assert pair.steps(1) == ["step-00000004", "step-00000008"]
    own = checkpoint.load(pair.folder(1) / "checkpoints/step-00000008", pair.system.name)
    pair.train(1, 12, MEMBER, resume=True, start=pair.source)
    assert pair.steps(1) == ["step-00000008", "step-00000012"]
    copied = checkpoint.load(pair.folder(1) / "checkpoints/step-00000008", pair.system.name)
    source = checkpoint.load(pair.source, pair.system.name)
    name = "module.model.linear.weight"
    torch.testing.assert_close(copied.tensors[name], source.tensors[name], rtol=0, atol=0)
    assert not torch.equal(copied.tensors[name], own.tensors[name])


def test_the_best_checkpoint_is_one_that_the_member_has(tmp_path, toys):
    """The source was "best" (largest error) at step 4, where the member has no such checkpoint."""
    pair, worst = Pair(tmp_path, toys), {"objective": ("val.mse", "max")}
    pair.train(0, 8, SOURCE, **worst)
    assert pair.newest(0).meta["best"][0] == 4
    pair.train(1, 8, MEMBER, **worst)
    pair.train(1, 12, MEMBER, resume=True, start=pair.source, **worst)
    assert pair.newest(1).meta["best"][0] == 8
    assert pair.steps(1) == ["step-00000008", "step-00000012"]


def test_a_segment_that_is_begun_again_goes_on_from_its_own_checkpoint(tmp_path, toys):
    """Cut short after its first report, by then the source has moved on."""
    pair = Pair(tmp_path, toys)
    longer = {"train__steps": 24}
    pair.train(0, 8, {**SOURCE, **longer})
    pair.train(1, 8, {**MEMBER, **longer})
    undisturbed = Pair(tmp_path / "other", toys)
    for trial in (0, 1):
        shutil.copytree(pair.folder(trial), undisturbed.folder(trial))
    options = {"resume": True, "start": undisturbed.source}
    undisturbed.train(1, 20, {**MEMBER, **longer}, **options)
    pair.train(1, 12, {**MEMBER, **longer}, resume=True, start=pair.source)  # stands for the cut
    shutil.rmtree(pair.source)
    pair.heard.clear()
    pair.train(1, 20, {**MEMBER, **longer}, resume=True, start=pair.source, segment=2)
    assert pair.heard == [(1, 12), (1, 16), (1, 20)]
    for name, tensor in undisturbed.newest(1).tensors.items():
        torch.testing.assert_close(tensor, pair.newest(1).tensors[name], rtol=0, atol=0)


def test_a_segment_that_died_before_its_first_report_begins_once_more(pair):
    """Its own checkpoint of the start's step is that of the life that it gives up."""
    settings, run = pair.run(1, 12, MEMBER, resume=True, start=pair.source)
    training = Training(pair.system, settings, run, None)
    training._restore()
    training.close()
    assert pair.steps(1) == ["step-00000008"]
    again = Training(pair.system, *pair.run(1, 12, MEMBER, resume=True, start=pair.source), None)
    again._restore()
    source = checkpoint.load(pair.source, pair.system.name)
    held = again.modules["model"].state_dict()["linear.weight"]
    torch.testing.assert_close(held, source.tensors["module.model.linear.weight"])
    again.close()


def test_a_damaged_own_checkpoint_falls_back_to_the_start(pair):
    pair.train(1, 12, MEMBER, resume=True, start=pair.source)
    for path in checkpoint.available(pair.folder(1) / "checkpoints"):
        (path / "state.pt").write_bytes(b"torn")
    expected = pair.reports(1)[-1]
    pair.train(1, 12, MEMBER, resume=True, start=pair.source)
    assert pair.reports(1)[-1] == expected


def test_a_later_segment_is_its_own_again(pair):
    pair.train(1, 10, MEMBER, resume=True, start=pair.source)
    shutil.rmtree(pair.folder(0))
    pair.train(1, 12, MEMBER, resume=True)
    assert pair.steps(1)[-1] == "step-00000012"
    assert pair.newest(1).meta["start"] is None


def test_a_trial_that_lends_keeps_the_ends_of_its_last_segments(tmp_path, toys):
    lender, other = Pair(tmp_path / "a", toys), Pair(tmp_path / "b", toys)
    changes = {"train__steps": 48, "train__report_every": 2}
    for stop in (8, 16, 24, 32, 40, 46):
        lender.train(0, stop, changes, resume=stop > 8, lends_checkpoints=True)
        other.train(0, stop, changes, resume=stop > 8)
    assert CHECKPOINTS_LENT == 3
    assert lender.steps(0) == [f"step-{step:08d}" for step in (32, 40, 44, 46)]
    assert other.steps(0) == [f"step-{step:08d}" for step in (44, 46)]


def test_a_resumed_training_takes_its_settings_from_the_settings(tmp_path, toys):
    """Also without another trial: the optimizer's state held the old weight decay on."""
    pair = Pair(tmp_path, toys)
    pair.train(0, 8, SOURCE)
    changes = {**SOURCE, "optimizer__weight_decay": 0.5}
    settings, run = pair.run(0, 12, changes, resume=True)
    training = Training(pair.system, settings, run, None)
    assert training._restore() is False
    groups = training.updates[0].optimizer.param_groups
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.5]
    training.close()
