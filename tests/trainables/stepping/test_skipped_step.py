"""A step that a gradient scaler skips: torch's own scaler under fp16, put on the CPU, where
Accelerate gives none. test_loop_gpu.py has a GPU's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from settings.flat import replace as changed
from trainables.compression.system import Compression
from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.inputs import batch_of as collated
from trainables.stepping.interval import Interval
from trainables.stepping.not_finite import NonFiniteError, spread_overflow
from trainables.toy import ToyGan


class HandsOn(ToyGan):
    def phases(self, settings, prepared):
        first, critic = super().phases(settings, prepared)
        return [replace(first, shares_outputs=("y",)), critic]


def in_fp16(training, first_scale):
    """The training with a gradient scaler, computing in fp16."""
    accelerator = training.accelerator
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=first_scale)
    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
    for update in training.updates:
        bare = update.optimizer.optimizer
        update.optimizer = AcceleratedOptimizer(bare, scaler=accelerator.scaler)
    return training


def batch_of(training):
    samples = [training.loaders.train[(index, index)] for index in range(4)]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def state(average):
    return {key: value.clone() for key, value in average.tensors().items()}


def test_it_leaves_nothing_frozen_and_still_hands_on(toys, tmp_path):
    system = HandsOn()
    training = in_fp16(Training(system, toys.settings(system), LocalRun(tmp_path), None), 2.0**16)
    batch = batch_of(training)
    batch["y"] = torch.full_like(batch["y"], math.inf)
    update, critic = training.updates
    judge, seen = critic.phase.forward, []
    critic.phase = replace(
        critic.phase,
        forward=lambda modules, batch, settings: (
            seen.append(list(batch)) or judge(modules, batch, settings)
        ),
    )
    training.one_step([batch])
    assert seen == [["x", "y", "model.y"]]
    assert (update.interval.skipped, update.overflows.in_a_row) == (1, 1)
    parameters = [p for module in training.modules.values() for p in module.parameters()]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in parameters)


def test_the_moving_average_stays_where_it_is_and_that_of_another_phase_moves(toys, tmp_path):
    """A loss of 9 with a scale of 2^18 overflows fp16; each overflow halves the scale."""
    tree = toys.settings(ToyGan, train__ema_decay=0.5, train__steps=8, train__report_every=8)
    training = in_fp16(Training(ToyGan(), tree, LocalRun(tmp_path), None), 2.0**18)
    batch, skipped = batch_of(training), []
    for _ in range(8):
        before = {name: state(average) for name, average in training.ema.items()}
        training.one_step([batch])
        after = {name: state(average) for name, average in training.ema.items()}
        for update, name in zip(training.updates, ("model", "critic"), strict=True):
            stayed = all(torch.equal(after[name][key], before[name][key]) for key in after[name])
            assert stayed == update.was_skipped, name
        skipped.append(tuple(update.was_skipped for update in training.updates))
    assert (True, False) in skipped and (False, False) in skipped
    model, critic = training.updates
    assert model.interval.skipped == sum(first for first, _ in skipped)
    assert training.ema["model"].count == 8 - model.interval.skipped
    assert training.ema["critic"].count == 8 - critic.interval.skipped


CODEBOOK = {
    **Compression.small,
    "discriminator.enabled": False,
    "loss.adversarial.enabled": False,
    "loss.perceptual.enabled": False,
    "model.kind": "vqvae",
    "model.vqvae.widths": (8,),
    "model.vqvae.codes": 16,
}
LIVELY = {
    "model.vqvae.start": "kmeans",
    "model.vqvae.revive": "encoder",
    "model.vqvae.revive_below": 0.9,
    "model.vqvae.decay": 0.5,
}


@pytest.mark.parametrize("own", [{}, LIVELY], ids=["plain", "start and revival"])
def test_a_codebook_stays_where_it_is_and_moves_with_the_next_good_step(
    shared_cache, tmp_path, one_thread, own
):
    """One sample of the second micro-batch is NaN: nothing of the whole update is kept."""
    system, tree = Compression(), changed(Compression.Settings(), {**CODEBOOK, **own})
    prepared = system.prepare(tree, shared_cache)
    started = (Training(system, tree, LocalRun(tmp_path / name), prepared) for name in "ab")
    training, peer = (in_fp16(each, 1.0) for each in started)
    peer.modules["autoencoder"].load_state_dict(training.modules["autoencoder"].state_dict())
    good = [collated(training.loaders, "train", [(i, i), (i + 1, i + 1)]) for i in (2, 4)]
    bad = {**good[1], "image": good[1]["image"].clone()}
    bad["image"][0, 0, 0, 0] = math.nan
    before = {key: x.clone() for key, x in training.modules["autoencoder"].state_dict().items()}
    training.one_step([good[0], bad])
    assert training.updates[0].was_skipped
    after = training.modules["autoencoder"].state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    peer.one_step([bad, bad])  # as many steps, and nothing good in the first
    for _ in range(2):
        training.one_step(good)
        peer.one_step(good)
    found = training.modules["autoencoder"].codes
    assert not training.updates[0].was_skipped and not peer.updates[0].was_skipped
    assert torch.equal(found, peer.modules["autoencoder"].codes)
    assert not torch.equal(found, before["network.quantizer.quantizer.embedding.weight"])


def test_too_many_in_a_row_end_the_training(toys, tmp_path):
    tree = toys.settings(ToyGan, train__max_skipped_steps=2)
    training = in_fp16(Training(ToyGan(), tree, LocalRun(tmp_path), None), 2.0**30)
    batch = batch_of(training)
    training.one_step([batch])
    with pytest.raises(NonFiniteError, match=r"^step 1: 2 fp16 steps in a row"):
        training.one_step([batch])


def test_a_balancer_sees_norms_without_the_scale_and_no_skipped_step(toys, tmp_path):
    changes = {"loss__balancer__kind": "gradnorm", "loss__balancer__interval": 1}
    tree = toys.settings(toys.Toy, train__steps=8, train__report_every=8, **changes)
    norms = {}
    for scale in (1.0, 2.0**18):
        training = Training(toys.Toy(), tree, LocalRun(tmp_path / str(scale)), None)
        training = in_fp16(training, scale)
        (update,) = training.updates
        seen = norms[scale] = []
        update.balancing.balancer.observe = lambda observed, step, seen=seen: seen.append(
            observed.norms
        )
        for _ in range(8):
            training.one_step([batch_of(training)])
        assert len(seen) == 8 - update.interval.skipped
        assert (update.interval.skipped > 0) == (scale > 1.0)
    assert norms[2.0**18][0] == pytest.approx(norms[1.0][0], rel=0.01)


@pytest.mark.parametrize("total", [math.inf, math.nan, 1.0])
def test_an_infinite_loss_with_a_finite_gradient_shows_in_the_gradient(total):
    first, second = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    second.grad = torch.ones(2)
    spread_overflow(SimpleNamespace(num_processes=1), [first, second], torch.tensor(total))
    assert first.grad is None
    assert torch.equal(second.grad, torch.ones(2)) == math.isfinite(total)
    assert bool(torch.isfinite(second.grad).all()) == math.isfinite(total)


def test_a_norm_that_overflowed_without_a_gradient_is_not_reported(toys, tmp_path):
    """A scaler looks at the gradients, whose squares may overflow where they do not."""
    tree = toys.settings(toys.Toy)
    training = Training(toys.Toy(), tree, LocalRun(tmp_path), None)
    (update,) = training.updates
    interval = Interval(update.phase, training.accelerator, 12, update.rate)
    interval.weights = {"squared": 1.0, "absolute": 0.0}
    interval.add({"squared": torch.ones(())}, {"squared": 1.0}, torch.tensor(math.inf))
    columns = interval.report(4)
    assert columns["train.grad_norm"] is None and columns["train.grad_norm_mean"] is None
    assert columns["train.loss.squared"] == 1.0
