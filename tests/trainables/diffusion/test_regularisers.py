"""Each regulariser changes a number that can be said beforehand, in our form and in the
document's, or it is shown that the document's changes nothing.
"""

from __future__ import annotations

import pytest
import torch

from losses.diffusion_terms import consistency
from models.diffusion.interface import PLACES
from models.diffusion.regularisers import (
    FeatureNoise,
    FeatureNoiseSettings,
    InputNoiseSettings,
    perturbed_noise,
)
from models.diffusion.settings import KINDS
from models.draws import draw_normal, draw_uniform
from settings.flat import replace
from trainables.contract.check import check
from trainables.contract.examined import Examined
from trainables.diffusion.forward import denoise, noised
from trainables.diffusion.prediction import strategy_of
from trainables.diffusion.system import Diffusion
from trainables.stepping.inputs import batch_of

SYSTEM = Diffusion()
SEEDS = torch.arange(400)
EACH = {
    "input_noise": {"regulariser.input_noise.enabled": True},
    "both": {"regulariser.input_noise.enabled": True, "regulariser.input_noise.form": "both"},
    "feature_noise": {"regulariser.feature_noise.enabled": True},
    "self_conditioning": {"regulariser.self_conditioning.enabled": True},
    "consistency": {"loss.consistency.enabled": True},
}


def made(cache, **changes):
    """(settings, modules with weights that are not 0, a training batch of 6)."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **named})
    prepared = SYSTEM.prepare(settings, cache)
    modules = SYSTEM.build(settings, prepared).modules
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in modules["network"].parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    loaders = SYSTEM.loaders(settings, prepared)
    return settings, modules, batch_of(loaders, "train", [(i, 100 + i) for i in range(6)])


# Input perturbation


def test_the_input_alone_has_more_noise_than_the_target_knows_of():
    """arXiv 2301.11706: deviation sqrt(1 + std^2) of what is in x_t; what is added is no part of
    the target, and another stream than the noise itself.
    """
    noise = draw_normal(SEEDS, "noise", (2, 8, 8))
    settings = InputNoiseSettings(enabled=True, std=0.5)
    inside, told = perturbed_noise(settings, noise, SEEDS)
    assert torch.equal(told, noise)
    added = inside - noise
    assert float(added.std()) == pytest.approx(0.5, rel=0.01)
    assert float(inside.std()) == pytest.approx(1.25**0.5, rel=0.01)
    assert abs(float((added * noise).mean())) < 0.01


def test_the_documents_form_is_the_same_law_as_without():
    """001-M3: noise of deviation 1 before and after, in x_t and in the target alike."""
    noise = draw_normal(SEEDS, "noise", (2, 8, 8))
    inside, told = perturbed_noise(InputNoiseSettings(enabled=True, form="both"), noise, SEEDS)
    assert torch.equal(inside, told) and not torch.equal(inside, noise)
    assert float(inside.std()) == pytest.approx(1.0, rel=0.01)
    assert float((inside**4).mean()) == pytest.approx(3.0, rel=0.05)  # a normal law's


@pytest.mark.parametrize("form", ["input", "both"])
def test_a_batch_of_training_is_perturbed_and_no_pair_of_validation(shared_cache, form):
    node = {"regulariser__input_noise__enabled": True, "regulariser__input_noise__form": form}
    settings, modules, batch = made(shared_cache, **node)
    plain = replace(settings, {"regulariser.input_noise.enabled": False})
    before, after = (noised(modules["space"], batch, s) for s in (plain, settings))
    sigma = strategy_of(settings).coefficients(before["t"]).sigma.float().view(-1, 1, 1, 1)
    moved = (after["noisy"] - before["noisy"]) / sigma
    told = before["target"] - after["target"]  # of x_0 - noise
    assert moved.abs().max() > 0.05
    if form == "input":
        assert not told.any()
        assert float(moved.std()) == pytest.approx(0.1, rel=0.1)
    else:
        torch.testing.assert_close(told, moved, rtol=0.0, atol=1e-4)
    pairs = {**batch, "level": torch.zeros(6, dtype=torch.int64), "bin": torch.full((6,), -1)}
    fixed = [noised(modules["space"], pairs, s)["noisy"] for s in (plain, settings)]
    assert torch.equal(*fixed)


# Noise on features


def test_noise_on_features_has_its_deviation_and_belongs_to_the_seeds():
    noise = FeatureNoise(FeatureNoiseSettings(enabled=True, std=0.3, place="decoder"), SEEDS)
    features = torch.zeros(400, 7, 5)
    assert noise("middle", features) is features
    with pytest.raises(ValueError, match=r"place=decoder is nowhere in this network"):
        noise.check()
    first, second = noise("decoder", features), noise("decoder", features)
    noise.check()
    assert float(first.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float((first * second).mean())) < 0.01
    again = FeatureNoise(noise.settings, SEEDS[5:6])("decoder", features[:1])
    assert torch.equal(again[0], first[5])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_is_perturbed_in_training_alone(shared_cache, kind, place):
    """001-M18: the document's hook finds no module, and nothing says so."""
    small = {"model__kind": kind, "model__hdit__patch_size": 4, "model__dit__patch_size": 4}
    node = {"regulariser__feature_noise__enabled": True, "regulariser__feature_noise__std": 0.5}
    settings, modules, batch = made(
        shared_cache, **small, **node, regulariser__feature_noise__place=place
    )
    plain = replace(settings, {"regulariser.feature_noise.enabled": False})
    with torch.no_grad():
        trained = [denoise(modules, batch, s)["prediction"] for s in (plain, settings, settings)]
        modules["network"].eval()
        used = [denoise(modules, batch, s)["prediction"] for s in (plain, settings)]
    assert torch.equal(trained[1], trained[2])
    assert (trained[1] - trained[0]).abs().max() > 1e-3
    assert torch.equal(*used)


# Self-conditioning


@pytest.mark.parametrize("kind", ["rflow", "ddpm"])
def test_the_network_is_given_its_own_estimate_of_a_first_pass(shared_cache, kind):
    """By hand: a pass with zeros, its clean estimate, a second pass; in training by the seeds."""
    settings, modules, batch = made(
        shared_cache,
        strategy__kind=kind,
        regulariser__self_conditioning__enabled=True,
    )
    network = modules["network"]
    assert network.in_channels == 2 * network.out_channels
    given = noised(modules["space"], batch, settings)
    noisy, t = given["noisy"], given["t"]
    with torch.no_grad():
        zeros = network(torch.cat([noisy, torch.zeros_like(noisy)], dim=1), t)
        estimate = strategy_of(settings).clean_estimate(noisy, zeros, t).float().clamp(-5.0, 5.0)
        both = network(torch.cat([noisy, estimate], dim=1), t)
        trained = denoise(modules, batch, settings)["prediction"]
        network.eval()
        used = denoise(modules, batch, settings)["prediction"]
    assert (both - zeros).abs().max() > 1e-3
    chosen = draw_uniform(batch["seed"], "self_conditioning") < 0.5
    assert 0 < int(chosen.sum()) < len(chosen)
    expected = torch.where(chosen.view(-1, 1, 1, 1), both, zeros)
    torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(used, both, rtol=1e-4, atol=1e-5)


def test_no_gradient_goes_through_the_estimate(shared_cache):
    """The gradient of a sample that is given an estimate is that of the second pass alone."""
    settings, modules, batch = made(
        shared_cache,
        regulariser__self_conditioning__enabled=True,
        regulariser__self_conditioning__probability=1.0,
    )
    network, given = modules["network"], noised(modules["space"], batch, settings)
    denoise(modules, batch, settings)["prediction"].square().sum().backward()
    found = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    noisy, t = given["noisy"], given["t"]
    with torch.no_grad():
        zeros = network(torch.cat([noisy, torch.zeros_like(noisy)], dim=1), t)
        estimate = strategy_of(settings).clean_estimate(noisy, zeros, t).float().clamp(-5.0, 5.0)
    network(torch.cat([noisy, estimate], dim=1), t).square().sum().backward()
    for parameter, gradient in zip(network.parameters(), found, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


# The document's consistency


def test_consistency_is_zero_with_its_gradient_where_nothing_is_drawn(shared_cache):
    """001-M2: two passes of the same network of the same x_t. With drop-path it is a number."""
    settings, modules, batch = made(
        shared_cache, loss__consistency__enabled=True, loss__consistency__probability=1.0
    )
    prediction = denoise(modules, batch, settings)
    assert prediction["second"] is not prediction["prediction"]
    value = consistency(prediction, batch, settings)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-9)
    assert all(float(p.grad.abs().max()) < 1e-5 for p in modules["network"].parameters())

    settings, modules, batch = made(
        shared_cache,
        model__kind="dit",
        model__dit__drop_path=0.5,
        loss__consistency__enabled=True,
    )
    torch.manual_seed(0)
    prediction = denoise(modules, batch, settings)
    twice = draw_uniform(batch["seed"], "consistency") < 0.5
    difference = (prediction["prediction"] - prediction["second"]).flatten(1).abs().amax(dim=1)
    assert bool((difference[twice] > 1e-4).any()) and not bool(difference[~twice].any())
    assert consistency(prediction, batch, settings).item() > 0.0


# All of them


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_a_training_with_each_keeps_the_rules_of_trainings(shared_cache, rules_of_trainings, name):
    """Resume in the middle, batches cut otherwise, one batch that is learned."""
    examined = Examined(SYSTEM, shared_cache, {**EACH[name], "train.steps": 4})
    assert [str(fault) for rule in rules_of_trainings for fault in rule(examined)] == []


@pytest.mark.slow
def test_a_training_with_two_passes_keeps_the_contract(shared_cache):
    """Everything that `check` asks."""
    examined = Examined(SYSTEM, shared_cache, {**EACH["self_conditioning"], "train.steps": 4})
    assert [str(fault) for fault in check(examined)] == []
