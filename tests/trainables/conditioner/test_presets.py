"""The presets of the conditioner: the source's configurations, and its network and schedule."""

from __future__ import annotations

import pytest
import torch

from settings.files import list_presets
from settings.resolve import resolve
from trainables.conditioner.system import Conditioner, ConditionerSettings, condition
from trainables.optimizing.rates import learning_rate

PRESETS = {
    *("baseline", "document", "small_data", "large_data", "high_resolution"),
    *("balanced", "robust", "semantic", "fast", "paper"),
}


def test_every_documented_configuration_is_there():
    assert set(list_presets("conditioner")) == PRESETS


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_builds_and_its_loss_has_a_gradient(preset):
    settings = resolve(ConditionerSettings, "conditioner", preset=preset).settings
    system, side = Conditioner(), settings.data.image_size
    meta = {
        "main_size": settings.vae.main_size,
        "hier_shape": list(settings.vae.hier_shape),
        "length": 8,
        "nodes": 9,
    }
    torch.manual_seed(0)
    modules = system.rebuild(settings, meta).modules
    shapes = {"main": (meta["main_size"],), "hier": tuple(meta["hier_shape"])}
    batch = {name: torch.rand(2, *shape) - 0.5 for name, shape in shapes.items()}
    batch |= {name: torch.rand(2, 1, side, side) for name in ("image", "paired")}
    batch["paired_valid"] = torch.ones(2)
    (phase,) = system.phases(settings, None)
    weights, counts = phase.composite.weights(0, 100), phase.composite.counts(batch, settings)
    assert weights["main_mse"] > 0.0
    assert weights["hier_mse"] > 0.0
    denominators = dict(zip(phase.composite.terms, counts.tolist(), strict=True))
    prediction = condition(modules, batch, settings)
    total = phase.composite.weigh(prediction, batch, settings, weights, denominators).total
    total.backward()
    gradients = [p.grad for p in modules["model"].parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def test_the_paper_preset_has_the_sources_network():
    settings = resolve(ConditionerSettings, "conditioner", preset="paper").settings
    size, codes = settings.vae.main_size, settings.vae.hier_shape
    assert (size, codes) == (32, (3, 8))
    meta = {"main_size": size, "hier_shape": list(codes)}
    model = Conditioner().rebuild(settings, meta).modules["model"]
    assert sum(p.numel() for p in model.parameters()) == 1_268_180


def test_the_documents_schedule_is_that_of_the_preset():
    """Warm-up of 100 of 10,000 epochs from 1 % of the rate, then a cosine to 1e-8."""
    settings = resolve(ConditionerSettings, "conditioner", preset="paper").settings
    optimizer, steps = settings.optimizer, settings.train.steps
    samples = round(0.8 * 484)
    assert steps == pytest.approx(10_000 * samples / settings.train.batch_size, rel=1e-3)
    assert learning_rate(optimizer, 0, steps) == pytest.approx(1e-6)
    assert learning_rate(optimizer, steps // 100, steps) == pytest.approx(1e-4)
    assert learning_rate(optimizer, steps, steps) == pytest.approx(1e-8)
    assert settings.train.report_every == pytest.approx(10 * samples / 32, rel=1e-2)
