"""ScoreAug and SDA in a training: what the network is shown, told and asked, by hand."""

from __future__ import annotations

import pytest
import torch

from losses.diffusion_terms import sda
from models.diffusion.score_aug.draws import draw_plan
from models.diffusion.score_aug.omega import omega_code
from models.diffusion.score_aug.sda import draw_sda
from models.diffusion.score_aug.transforms import MODALITY_FACTORS, apply, unchanged
from settings.flat import replace
from settings.schema import SettingsError
from trainables.contract.check import check
from trainables.contract.examined import Examined
from trainables.diffusion.forward import denoise, noised
from trainables.diffusion.prediction import strategy_of
from trainables.diffusion.system import Diffusion
from trainables.stepping.inputs import batch_of

SYSTEM = Diffusion()
ON = {"score_aug.enabled": True}
EVERYTHING = {
    **ON,
    "score_aug.kind": "v2",
    "score_aug.translation.enabled": True,
    "score_aug.brightness.enabled": True,
}
MASKED = {"condition.mask.enabled": True}
SDA = {"loss.sda.enabled": True}


def made(cache, changes):
    """(settings, modules with weights that are not 0, a training batch of 8)."""
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})
    prepared = SYSTEM.prepare(settings, cache)
    modules = SYSTEM.build(settings, prepared).modules
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in {"network", "conditions"} & set(modules):
            for parameter in modules[name].parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    loaders = SYSTEM.loaders(settings, prepared)
    return settings, modules, batch_of(loaders, "train", [(i, 100 + i) for i in range(8)])


@pytest.mark.parametrize("space", ["pixel", "wavelet"])
def test_the_noisy_image_the_target_and_the_mask_are_transformed_alike(shared_cache, space):
    """And the network is told by omega, which has another embedding for every transformation."""
    changes = {**EVERYTHING, **MASKED, "space.kind": space, "score_aug.per": "sample"}
    settings, modules, batch = made(shared_cache, changes)
    plain, network = noised(modules["space"], batch, settings), modules["network"]
    plan = draw_plan(settings.score_aug, batch["seed"], plain["noisy"].shape[2:])
    assert int(plan.is_identity.sum()) < 8
    with torch.no_grad():
        found = denoise(modules, batch, settings)
        mask = modules["space"].rearranged(2.0 * batch["mask"].float() - 1.0)
        embedding = modules["conditions"].omega(omega_code(plan))
        noisy = apply(plan, plain["noisy"], intensity=True)
        x = torch.cat([noisy, apply(plan, mask)], dim=1)
        expected = network(x, plain["t"], embedding)
        untold = network(x, plain["t"])
    torch.testing.assert_close(found["prediction"], expected, rtol=1e-4, atol=1e-5)
    target = apply(plan, plain["target"], intensity=True)
    torch.testing.assert_close(found["target"], target)
    assert (expected - untold).abs().max() > 1e-3
    assert (found["target"] - plain["target"])[~plan.is_identity].abs().amax() > 0.1


def test_validation_is_as_it_is_and_told_so(shared_cache):
    settings, modules, batch = made(shared_cache, EVERYTHING)
    pairs = {**batch, "level": torch.zeros(8, dtype=torch.int64), "bin": torch.full((8,), -1)}
    modules["network"].eval()
    plain = noised(modules["space"], pairs, settings)
    with torch.no_grad():
        found = denoise(modules, pairs, settings)
        told = modules["conditions"].omega(omega_code(unchanged(8, 2)))
        expected = modules["network"](plain["noisy"], plain["t"], told)
    assert torch.equal(found["target"], plain["target"])
    torch.testing.assert_close(found["prediction"], expected, rtol=1e-4, atol=1e-5)


def test_without_omega_nothing_is_told_and_nothing_learnt_about_it(shared_cache):
    changes = {**ON, "score_aug.omega": False, "score_aug.allow_leakage": True}
    _, modules, _ = made(shared_cache, changes)
    assert "conditions" not in modules


@pytest.mark.parametrize("changes", [ON, SDA])
def test_the_documents_draw_is_one_for_an_update(shared_cache, changes):
    key = "score_aug.per" if changes is ON else "loss.sda.per"
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **changes, key: "batch"})
    (phase,) = SYSTEM.phases(settings, None)
    assert phase.draws_by_update
    (phase,) = SYSTEM.phases(replace(settings, {key: "sample"}), None)
    assert not phase.draws_by_update
    settings, modules, batch = made(shared_cache, {**changes, key: "batch"})
    batch["update_seed"] = torch.full((8,), 5)
    seen = denoise(modules, batch, settings)
    other = denoise(modules, {**batch, "update_seed": torch.full((8,), 6)}, settings)
    name = "target" if changes is ON else "sda.target"
    assert not torch.equal(seen[name], other[name])


def test_a_factor_of_the_modality_is_on_the_noisy_image_alone(shared_cache):
    changes = {**ON, "score_aug.modality_factors": True, "data.group": "flair"}
    settings, modules, batch = made(shared_cache, changes)
    plain = replace(settings, {"score_aug.modality_factors": False})
    modules["network"].eval()
    pairs = {**batch, "level": torch.zeros(8, dtype=torch.int64), "bin": torch.full((8,), -1)}
    given = noised(modules["space"], pairs, settings)
    with torch.no_grad():
        found = denoise(modules, pairs, settings)
        code = omega_code(unchanged(8, 2), modes=torch.ones(8, dtype=torch.int64))
        told = modules["conditions"].omega(code)
        expected = modules["network"](MODALITY_FACTORS[1] * given["noisy"], given["t"], told)
        before = denoise(modules, pairs, plain)
    torch.testing.assert_close(found["prediction"], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found["target"], before["target"])
    assert (found["prediction"] - before["prediction"]).abs().max() > 1e-4


@pytest.mark.parametrize("form", ["normalised", "document"])
@pytest.mark.parametrize("space", ["pixel", "space_to_depth"])
def test_the_second_loss_is_of_turned_images_at_shifted_times(shared_cache, form, space):
    changes = {**SDA, **MASKED, "loss.sda.form": form, "space.kind": space}
    settings, modules, batch = made(shared_cache, changes)
    given = noised(modules["space"], batch, settings)
    draw = draw_sda(settings.loss.sda, batch["seed"], given["t"], batch["image"].shape[2:])
    assert 0 < int(draw.is_used.sum()) < 8
    strategy, space_of = strategy_of(settings), modules["space"]
    clean = space_of.encode(apply(draw.plan, batch["image"]))
    noise = apply(draw.plan, given["noise"])
    masks = apply(draw.plan, batch["mask"]) if form == "normalised" else batch["mask"]
    with torch.no_grad():
        found = denoise(modules, batch, settings)
        signs = space_of.rearranged(2.0 * masks.float() - 1.0)
        x = torch.cat([strategy.noised(clean, noise, draw.t), signs], dim=1)
        prediction = modules["network"](x, draw.t)
    error = (prediction - strategy.target(clean, noise, draw.t)).square().flatten(1).mean(dim=1)
    expected = float((error * draw.is_used).sum())
    assert float(sda(found, batch, settings)) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.0
    plain = noised(space_of, batch, settings)
    torch.testing.assert_close(found["target"], plain["target"])  # the first loss is as it was


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**ON, **SDA}, r"not true together.*Turn one of them off"),
        ({**ON, "loss.regional.enabled": True}, r"loss\.regional compares it with images as"),
        (
            {**ON, "data.group": "dual", "score_aug.modality_factors": True},
            r"one factor a sample.*dual has two modalities",
        ),
        ({**SDA, "model.spatial_dims": 3, "data.volume_size": (16, 16, 32)}, r"needs H = W"),
        (
            {**SDA, "space.kind": "latent", "space.latents": "runs/vae", "augment.kind": "none"},
            r"latents that were made once\. Set loss\.sda\.enabled=false",
        ),
    ],
)
def test_what_they_do_not_go_with_is_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [EVERYTHING, {**ON, "score_aug.per": "batch"}, {**SDA, "loss.sda.per": "batch"}],
)
def test_a_training_with_each_keeps_the_rules_of_trainings(
    shared_cache, rules_of_trainings, changes
):
    examined = Examined(SYSTEM, shared_cache, {**changes, "train.steps": 4})
    assert [str(fault) for rule in rules_of_trainings for fault in rule(examined)] == []


@pytest.mark.slow
def test_a_training_with_sda_keeps_the_contract(shared_cache):
    changes = {**SDA, "train.steps": 4}
    assert [str(fault) for fault in check(Examined(SYSTEM, shared_cache, changes))] == []
