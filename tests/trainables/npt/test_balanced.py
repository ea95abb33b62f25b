"""Balanced weights of npt are made of gradients at W_down, not of a loss by itself (003-M1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from settings.flat import replace
from trainables.loop import Training
from trainables.npt.forward import convert, of
from trainables.npt.system import Npt
from trainables.run import LocalRun
from trainables.stepping.batches import Share, train_loader

pytestmark = pytest.mark.slow  # the import of Llama alone takes seconds

SYSTEM = Npt()
TERMS = ("direct", "encoding", "fidelity", "regularisation", "guidance", "modulation")
WEIGHT_MAX = 1e6


def norms_of(training, batch, settings):
    """||dL_i / dW_down|| over all converters, L_i the mean over real tokens, by torch alone."""
    modules = dict(training.modules)
    for module in modules.values():
        module.train()
    prediction = convert(modules, batch, settings)
    maps = [converter.down.weight for converter in of(modules).each.values()]
    norms = {}
    for name in TERMS:
        term = training.phases[0].composite.terms[name]
        mean = term.sum(prediction, batch, settings) / batch["mask"].sum()
        gradients = torch.autograd.grad(mean, maps, retain_graph=True)
        norms[name] = float(torch.cat([g.flatten() for g in gradients]).double().norm())
    return norms


def test_weights_are_those_of_the_gradients_of_the_first_maps(shared_cache, tmp_path, one_thread):
    """The document differentiates each loss with respect to itself: 1 for all of them, and equal
    weights.
    """
    changes = {
        **SYSTEM.small,
        **{f"loss.{name}.enabled": True for name in TERMS},
        "loss.balancer.kind": "inverse_gradient",
        "loss.balancer.interval": 1,
        "loss.balancer.decay": 0.5,
        "loss.balancer.weight_max": WEIGHT_MAX,
        "train.steps": 4,
        "train.tensorboard": False,
        "optimizer.warmup": 0.0,
    }
    settings = replace(SYSTEM.Settings(), changes)
    prepared = SYSTEM.prepare(settings, shared_cache)
    training = Training(SYSTEM, settings, LocalRun(tmp_path), prepared)
    loader = train_loader(training.loaders, Share(4, 1), settings.train.seed, 0, 4)
    averages = dict.fromkeys(TERMS)
    for step, batch in zip(range(2), loader, strict=False):
        for name, norm in norms_of(training, batch, settings).items():
            before = norm if averages[name] is None else averages[name]
            averages[name] = 0.5 * before + 0.5 * norm
        training.one_step([batch])
        weights = training.phases[0].composite.weights(step + 1, 4)
        inverse = np.array([1.0 / averages[name] for name in TERMS])
        expected = len(TERMS) * inverse / inverse.sum()
        np.testing.assert_allclose([weights[name] for name in TERMS], expected, rtol=1e-4)
        assert expected.max() > 5.0 * expected.min()  # and far from M1's, all 1
    training.close()
