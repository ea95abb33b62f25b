"""The GAN stage of hdr_patch: absent by default, two phases on one forward, resumed exactly."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import default_collate

from losses.hdr_patch import TERMS
from losses.hdr_patch_terms import mu_images
from models.discriminator import NORMS
from settings.flat import flatten, replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.contract.examined import SHORT
from trainables.hdr_patch.system import HdrPatch
from trainables.loop import fit
from trainables.reporting.measure import evaluate_checkpoint
from trainables.run import LocalRun

pytestmark = pytest.mark.slow

SYSTEM = HdrPatch()
GAN = {
    **HdrPatch.small,
    **SHORT,
    "hdr.prefill": "push_pull",
    "discriminator.enabled": True,
    "discriminator.width": 4,
    "loss.adversarial.enabled": True,
    "loss.adversarial.weight": 0.5,
}


def tree(**changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(SYSTEM.Settings(), {**GAN, **named})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return SYSTEM.prepare(tree(), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def gan(prepared, one_thread):
    """(modules, phases, settings, batch) of a system with a critic."""

    def make(**changes):
        settings = tree(**changes)
        torch.manual_seed(0)
        modules = SYSTEM.build(settings, prepared).modules
        train = SYSTEM.loaders(settings, prepared).train
        batch = default_collate([train[(index, index)] for index in range(3)])
        return modules, SYSTEM.phases(settings, prepared), settings, batch

    return make


def train(prepared, directory, settings, resume=False, stop=None):
    run = LocalRun(directory, resume=resume, stop_step=stop)
    fit(SYSTEM, settings, run, prepared)
    newest = checkpoint.available(directory / "checkpoints")[-1]
    return run.history, newest


def moved(total, module):
    gradients = torch.autograd.grad(
        total, list(module.parameters()), retain_graph=True, allow_unused=True
    )
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def test_there_is_no_critic_by_default(prepared):
    settings = replace(SYSTEM.Settings(), HdrPatch.small)
    assert list(SYSTEM.build(settings, prepared).modules) == ["model"]
    (phase,) = SYSTEM.phases(settings, None)
    assert list(phase.composite.terms) == list(TERMS) and not phase.shares_outputs
    assert not settings.loss.adversarial.enabled


def test_the_critic_judges_what_the_model_has_just_made(gan):
    """What it is handed gives the logits that the model saw, without a second forward."""
    modules, (first, second), settings, batch = gan()
    prediction = first.forward(modules, batch, settings)
    handed = first.shared_outputs(prediction)
    assert list(handed) == ["model.radiance"] and not handed["model.radiance"].requires_grad
    found = second.forward({"discriminator": modules["discriminator"]}, batch | handed, settings)
    torch.testing.assert_close(found["fake_logits"], prediction["fake_logits"])
    filled, target = mu_images(prediction, batch, settings)
    for key, image in (("fake_logits", filled), ("real_logits", target)):
        expected = modules["discriminator"](torch.cat([image, batch["hole"]], dim=1))
        torch.testing.assert_close(found[key], expected)


def test_while_its_term_weighs_nothing_the_critic_is_not_asked(gan):
    modules, (first, second), settings, batch = gan()
    weights = first.composite.weights(0, 1)
    assert first.forward_for(weights) is first.forward
    silent = first.forward_for({**weights, "adversarial": 0.0})
    asked = []
    modules["discriminator"].register_forward_pre_hook(lambda *_: asked.append(1))
    found, full = (forward(modules, batch, settings) for forward in (silent, first.forward))
    assert len(asked) == 1
    assert full.keys() - found.keys() == {"fake_logits"}
    assert all(torch.equal(found[key], full[key]) for key in found)
    others = {**weights, "adversarial": 0.0}
    counts = dict.fromkeys(weights, 1.0)
    pair = [
        first.composite.weigh(each, batch, settings, others, counts).total
        for each in (found, full)
    ]
    assert torch.equal(*pair)
    assert second.forward_for({"patch": 0.0}) is second.forward


@pytest.mark.parametrize("objective", ["least_squares", "hinge"])
@pytest.mark.parametrize("norm", NORMS)
def test_each_side_moves_its_own(gan, objective, norm):
    modules, (first, second), settings, batch = gan(
        discriminator__objective=objective, discriminator__norm=norm
    )
    prediction = first.forward(modules, batch, settings)
    term = first.composite.terms["adversarial"]
    assert bool(term.unbounded) == (objective == "hinge")
    total, count = term(prediction, batch, settings)
    assert moved(total, modules["model"]) and float(count) == 3.0
    judged = second.forward(modules, batch | first.shared_outputs(prediction), settings)
    total, count = second.composite.terms["patch"](judged, batch, settings)
    assert moved(total, modules["discriminator"]) and not moved(total, modules["model"])


@pytest.mark.parametrize(
    "changes",
    [{}, {"discriminator.spectral": True, "train.ema_decay": 0.5, "train.accumulate": 2}],
    ids=["plain", "spectral norm, moving average, accumulation"],
)
def test_it_trains_and_resumes_exactly(prepared, tmp_path, one_thread, changes):
    settings = replace(tree(), changes)
    whole, last = train(prepared, tmp_path / "whole", settings)
    train(prepared, tmp_path / "part", settings, stop=2)
    rest, again = train(prepared, tmp_path / "part", settings, resume=True)
    one, other = (checkpoint.load(path, SYSTEM.name).tensors for path in (last, again))
    assert any(key.startswith("module.discriminator.") for key in one)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    times = ("seconds", "train.examination_seconds")
    report = {key: value for key, value in whole[-1].items() if key not in times}
    assert {key: value for key, value in rest[-1].items() if key not in times} == report
    for column in ("loss.adversarial", "critic.patch"):
        assert report[f"train.{column}"] > 0.0 and report[f"val.{column}"] > 0.0
    assert report["train.critic.grad_norm"] > 0.0
    measured = evaluate_checkpoint(SYSTEM, settings, prepared, last)
    assert measured == {key: value for key, value in report.items() if key.startswith("val.")}


def test_before_its_start_the_critic_rests(prepared, tmp_path, one_thread):
    start = {"kind": "step", "start": 0.5}
    changes = {
        f"{term}.schedule.{key}": value
        for key, value in start.items()
        for term in ("loss.adversarial", "critic.patch")
    }
    settings = replace(tree(), changes)
    (before, after), _ = train(prepared, tmp_path, settings)
    assert before["train.critic.patch"] is None and before["train.loss.adversarial"] is None
    assert before["val.critic.patch"] is not None and before["val.loss.adversarial"] is not None
    assert after["train.critic.patch"] > 0.0 and after["train.loss.adversarial"] > 0.0


def test_a_critic_needs_crops_that_hold_a_patch():
    with pytest.raises(SettingsError, match=r"layers=4 needs 48 px .* not 32 .data.crop"):
        tree(discriminator__layers=4)
    assert tree(discriminator__layers=4, discriminator__enabled=False).data.crop == 32


def test_the_preflight_says_when_one_side_is_missing(prepared):
    texts = [
        [finding.text for finding in SYSTEM.preflight(tree(**changes), prepared)]
        for changes in (
            {},
            {"discriminator__enabled": False},
            {"loss__adversarial__enabled": False},
        )
    ]
    assert texts[0] == []
    assert len(texts[1]) == len(texts[2]) == 1
    assert "there is no critic" in texts[1][0] and "nothing listens" in texts[2][0]


def test_the_documented_stage_is_a_preset():
    from settings.resolve import resolve

    settings = resolve(SYSTEM.Settings, SYSTEM.name, preset="gan").settings
    flat = flatten(settings)
    assert flat["discriminator.layers"] == 3 and flat["discriminator.width"] == 64
    assert flat["discriminator.objective"] == "hinge" and flat["critic_optimizer.lr"] == 2e-4
    weights = [
        SYSTEM.phases(settings, None)[0].composite.weights(step, 300)["adversarial"]
        for step in (0, 30, 40, 51, 300)
    ]
    assert weights == pytest.approx([0.0, 0.0, 0.005, 0.01, 0.01], rel=1e-3)
