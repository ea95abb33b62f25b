"""Masks that enter latents, and channels that are left out of structured ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.autoencoders.structured_latent import keep_leading
from settings.flat import flatten
from settings.resolve import resolve
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.diffusion.forward import noised
from trainables.diffusion.latent.masks import BitPlanes
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.system import Diffusion
from trainables.stepping.inputs import batch_of

SYSTEM = Diffusion()
MASKED = {"condition__mask__enabled": True}

pytestmark = pytest.mark.usefixtures("one_thread")


def encoded(autoencoders):
    return {
        **MASKED,
        "condition__mask__enters": "encoder",
        "condition__mask__encoder": str(autoencoders("masks")),
    }


def made(settings, cache):
    """(modules whose network says something, loaders)"""
    prepared = SYSTEM.prepare(settings, cache)
    torch.manual_seed(0)
    modules = SYSTEM.build(settings, prepared).modules
    for parameter in modules["network"].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return modules, SYSTEM.loaders(settings, prepared)


def predicted(settings, modules, batch):
    (phase,) = SYSTEM.phases(settings, None)
    return phase.forward(modules, batch, settings)


# Masks


@pytest.mark.parametrize("dims", [2, 3])
def test_bit_planes_hold_every_pixel_of_a_cell(dims):
    """With an orthonormal reduction to as many numbers as pixels the mask comes back."""
    factors, size = ((2, 2), (8, 4)) if dims == 2 else ((2, 4, 4), (4, 8, 12))
    pixels = math.prod(factors)
    entry = BitPlanes(factors, pixels)
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(rng.integers(0, 2, (3, 1, *size)).astype(np.float32))
    images = entry({"mask": mask}, None)
    cells = tuple(side // factor for side, factor in zip(size, factors, strict=True))
    assert images.shape == (3, pixels, *cells)
    weight = entry.reduction.reduce.weight.detach()
    bits = torch.einsum("wp,bw...->bp...", weight, images.detach())
    for place in np.ndindex(*cells):
        box = tuple(slice(i * f, (i + 1) * f) for i, f in zip(place, factors, strict=True))
        found = bits[(slice(None), slice(None), *place)]
        expected = mask[(slice(None), 0, *box)].flatten(1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)


def test_bit_planes_of_a_volume_are_those_of_its_slices():
    entry = BitPlanes((1, 4, 4), 3)
    mask = (torch.rand(2, 1, 5, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    whole = entry({"mask": mask}, None)
    flat = BitPlanes((4, 4), 3)
    flat.load_state_dict(entry.state_dict())
    for depth in range(5):
        torch.testing.assert_close(whole[:, :, depth], flat({"mask": mask[:, :, depth]}, None))


@pytest.mark.parametrize("enters", ["bit_planes", "encoder"])
@pytest.mark.parametrize("source", ["checkpoint", "file"])
def test_masks_enter_and_are_heard(
    autoencoders, latent_file, latents, shared_cache, enters, source
):
    """Three channels of the latent and three of the mask (001-M11: twice the latent's)."""
    more = encoded(autoencoders) if enters == "encoder" else MASKED
    path = autoencoders("vae") if source == "checkpoint" else latent_file
    settings = latents.settings(path, **more)
    modules, loaders = made(settings, shared_cache)
    assert modules["network"].in_channels == 2 * 3 == 2 * modules["network"].out_channels
    rows = [i for i in range(len(loaders.train)) if loaders.train[(i, 0)]["mask"].any()][:3]
    batch = batch_of(loaders, "train", [(row, 7) for row in rows])
    before = predicted(settings, modules, batch)["prediction"]
    other = {**batch, "mask": 1.0 - batch["mask"]}
    other.pop("mask_latent", None)
    assert not torch.allclose(before, predicted(settings, modules, other)["prediction"])
    plain = {key: value for key, value in batch.items() if key != "mask_latent"}
    after = predicted(settings, modules, plain)["prediction"]
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-4)


def test_masks_through_an_encoder_are_standardised(autoencoders, latents, shared_cache):
    modules, loaders = made(
        latents.settings(autoencoders("vae"), **encoded(autoencoders)), shared_cache
    )
    keys = [(index, 0) for index in range(len(loaders.train))]
    batch = batch_of(loaders, "train", keys)
    values = modules["conditions"].masks(batch, None).detach().double()
    by_channel = values.transpose(0, 1).flatten(1)
    raw = batch["mask_latent"].transpose(0, 1).flatten(1).double().std(dim=1, correction=0)
    torch.testing.assert_close(by_channel.mean(dim=1), torch.zeros(3).double(), atol=1e-4, rtol=0)
    deviation = by_channel.std(dim=1, correction=0)
    expected = torch.where(raw > 1e-6, 1.0, raw)
    torch.testing.assert_close(deviation, expected, atol=1e-3, rtol=0.0)
    opened = open_checkpoint(checkpoint.find(autoencoders("masks"), best=True))
    with torch.no_grad():
        latent = opened.modules["autoencoder"].encode(batch["mask"])
    torch.testing.assert_close(batch["mask_latent"], latent, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("enters", ["bit_planes", "encoder"])
def test_a_mask_that_is_not_given_is_no_empty_mask(autoencoders, latents, shared_cache, enters):
    more = encoded(autoencoders) if enters == "encoder" else MASKED
    settings = latents.settings(autoencoders("vae"), condition__mask__dropout=1.0, **more)
    modules, loaders = made(settings, shared_cache)
    batch = batch_of(loaders, "train", [(0, 1), (1, 2)])
    batch.pop("mask_latent", None)
    masks = [torch.zeros_like(batch["mask"]), torch.ones_like(batch["mask"])]
    results = {}
    for training in (True, False):
        modules["network"].train(training)
        results[training] = [
            predicted(settings, modules, {**batch, "mask": mask})["prediction"] for mask in masks
        ]
    assert torch.equal(*results[True]), "none is given in training"
    assert not torch.equal(*results[False])
    assert not torch.equal(results[True][0], results[False][0])


def test_what_is_no_encoder_of_masks_is_refused(autoencoders, latents, shared_cache):
    vae = autoencoders("vae")
    changes = {**encoded(autoencoders), "condition__mask__encoder": str(vae)}
    with pytest.raises(SettingsError, match="is an autoencoder of masks"):
        SYSTEM.prepare(latents.settings(vae, **changes), shared_cache)
    with pytest.raises(SettingsError, match="is for latents"):
        latents.settings("", space__kind="pixel", **encoded(autoencoders))


def test_the_mode_of_the_document_is_a_preset(autoencoders, latents, shared_cache):
    """Twice the latent's channels go in, and as many as it has come out (001-M11)."""
    vae, masks = autoencoders("vae"), autoencoders("masks")
    own = ("space", "augment", "condition", "data.group")
    small = {k: v for k, v in flatten(latents.settings(vae)).items() if not k.startswith(own)}
    sampled = {**small, "space.latents": str(vae), "condition.mask.encoder": str(masks)}
    settings = resolve(
        DiffusionSettings, "diffusion", preset="mode_bravo_seg_cond", sampled=sampled
    ).settings
    assert settings.condition.mask.enters == "encoder" and settings.data.group == "bravo"
    modules, _ = made(settings, shared_cache)
    assert (modules["network"].in_channels, modules["network"].out_channels) == (6, 3)


# Leading channels


@pytest.fixture
def structured(autoencoders, latents, shared_cache):
    """(settings, modules, loaders) on latents of 64 ordered channels."""
    settings = latents.settings(
        autoencoders("structured"), augmented_diffusion__enabled=True, train__batch_size=4
    )
    return settings, *made(settings, shared_cache)


def test_a_masked_channel_takes_no_part(structured):
    settings, modules, loaders = structured
    batch = batch_of(loaders, "train", [(i % 8, 100 + i) for i in range(24)])
    given = noised(modules["space"], batch, settings)
    kept = given["leading"].flatten(1)
    counts = kept.sum(dim=1).int().tolist()
    assert set(counts) <= {*range(16, 64, 4), 64} and len(set(counts)) > 4, "each its own"
    for row, count in zip(kept, counts, strict=True):
        assert row[:count].all() and not row[count:].any()
    behind = given["leading"].expand_as(given["noisy"]) == 0.0
    for name in ("clean", "noisy", "target"):
        assert not given[name][behind].any() and given[name][~behind].abs().min() >= 0.0
    prediction = predicted(settings, modules, batch)
    assert not prediction["prediction"][behind].any()
    assert prediction["prediction"][~behind].any()


def test_the_gradient_of_a_masked_channel_is_0(structured):
    """Of what the last layer says of it: a sample that keeps 16 channels moves 16 of its rows."""
    settings, modules, loaders = structured
    network = modules["network"]
    draws = [batch_of(loaders, "train", [(0, seed)]) for seed in range(40)]
    counts = [
        int(noised(modules["space"], batch, settings)["leading"].sum()) for batch in draws
    ]
    batch, count = min(zip(draws, counts, strict=True), key=lambda pair: pair[1])
    assert count < 64
    (phase,) = SYSTEM.phases(settings, None)
    prediction = phase.forward(modules, batch, settings)
    term = phase.composite.terms["mse"]
    term.sum(prediction, batch, settings).backward()
    gradients = [
        p.grad.flatten(1).abs().sum(dim=1)
        for p in network.parameters()
        if p.grad is not None and p.shape[0] == 64 and p.ndim == 4
    ]
    assert gradients, "the last layer has a row for each channel"
    assert gradients[-1][:count].all() and not gradients[-1][count:].any()


def test_noise_and_latent_behind_have_no_effect(structured):
    settings, modules, loaders = structured
    batch = batch_of(loaders, "train", [(0, 3), (1, 5), (2, 9)])
    before = predicted(settings, modules, batch)
    behind = before["leading"].expand_as(before["noisy"]) == 0.0
    assert behind.any()
    changed = torch.where(behind, batch["latent"] + 7.0, batch["latent"])
    after = predicted(settings, modules, {**batch, "latent": changed})
    for name in ("noisy", "target", "prediction"):
        assert torch.equal(before[name], after[name])


def test_the_image_of_leading_channels_is_that_of_the_autoencoder(
    autoencoders, latents, shared_cache
):
    """As its own training has it: numbers behind them are 0, not the mean of the data."""
    settings = latents.settings(
        autoencoders("structured"), augmented_diffusion__enabled=True, data__image_size=32,
        loss__perceptual__enabled=True,
    )  # fmt: skip
    modules, loaders = made(settings, shared_cache)
    batch = batch_of(loaders, "train", [(0, 3), (1, 5), (2, 9)])
    prediction = predicted(settings, modules, batch)
    space, model = modules["space"], modules["autoencoder"].model
    raw = space.unscaled(prediction["clean_estimate"])
    for row, count in enumerate(prediction["leading"].flatten(1).sum(dim=1).int().tolist()):
        with torch.no_grad():
            expected = model.decode(keep_leading(raw[row : row + 1], count))
        torch.testing.assert_close(prediction["reconstruction"][row : row + 1], expected,
                                   atol=1e-5, rtol=1e-4)  # fmt: skip


def test_validation_and_pixels_know_no_mask(structured, latents, shared_cache):
    settings, modules, loaders = structured
    batch = batch_of(loaders, "validation", [0, 1, 2])
    assert "leading" not in predicted(settings, modules, batch)
    pixels = latents.settings("", space__kind="pixel", augmented_diffusion__enabled=True)
    others, loaders = made(pixels, shared_cache)
    batch = batch_of(loaders, "train", [(0, 1), (1, 2)])
    assert "leading" not in predicted(pixels, others, batch)
    (finding,) = SYSTEM.preflight(pixels, None)
    assert "has no effect with space.kind=pixel" in finding.text and not finding.hopeless
    assert not SYSTEM.preflight(settings, None)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("structured", {}, "Set augmented_diffusion.enabled=true"),
        (
            "structured",
            {"augmented_diffusion__enabled": True, "augmented_diffusion__min_channels": 8},
            "augmented_diffusion.min_channels=16",
        ),
        ("vae", {"augmented_diffusion__enabled": True}, "nothing would ever be left out"),
    ],
)
def test_structured_latents_are_diffused_as_they_were_made(
    autoencoders, latents, shared_cache, name, changes, words
):
    settings = latents.settings(autoencoders(name), **changes)
    with pytest.raises(SettingsError, match=words):
        SYSTEM.prepare(settings, shared_cache)


def test_a_file_of_structured_latents_says_so(structured, latents, shared_cache):
    settings, _, _ = structured
    file = SYSTEM.prepare(settings, shared_cache).latents.file
    with pytest.raises(SettingsError, match="latents are structured"):
        SYSTEM.prepare(latents.settings(file), shared_cache)
    assert SYSTEM.prepare(
        latents.settings(file, augmented_diffusion__enabled=True), shared_cache
    ).latents.rows("train")
