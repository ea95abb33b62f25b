"""The presets of the autoencoders: the document's sizes, weights and schedule."""

from __future__ import annotations

import pytest
import torch

from data.mri.lesions import LEAST_PIXELS
from settings.files import list_presets
from settings.flat import flatten, replace
from settings.resolve import resolve
from trainables.compression.settings import CompressionSettings
from trainables.compression.system import Compression
from trainables.optimizing.rates import learning_rate

SYSTEM = Compression()

# Name -> latent, millions of parameters of the autoencoder, terms with their weights. The latents
# are those of the document's tables.
VAE = {"l1": 1.0, "perceptual": 0.001, "kl": 1e-6, "adversarial": 0.01}
VAE_ALONE = {"l1": 1.0, "perceptual": 0.001, "kl": 1e-6}
VQVAE = {"l1": 1.0, "perceptual": 0.002, "vq": 0.25, "adversarial": 0.005}
DCAE = {"l1": 1.0, "perceptual": 0.1}
MASKS = {"bce": 1.0, "dice": 1.0, "boundary": 0.5}
DOCUMENTED = {
    "paper_vae": ((3, 32, 32), 53.8, VAE),
    "paper_vae_4x": ((3, 64, 64), 13.3, VAE),
    "paper_vae_3d": ((3, 20, 32, 32), 9.7, VAE),
    "paper_vae_3d_128": ((3, 20, 16, 16), 9.7, VAE_ALONE),
    "bf16_weights": ((3, 32, 32), 53.8, VAE),
    "paper_vqvae": ((3, 32, 32), 6.9, VQVAE),
    "paper_vqvae_4x": ((3, 64, 64), 5.6, VQVAE),
    "paper_vqvae_3d": ((3, 20, 32, 32), 21.5, VQVAE),
    "paper_vqvae_3d_128": ((3, 20, 16, 16), 21.5, VQVAE),
    "seg_vqvae": ((3, 32, 32), 6.9, {**MASKS, "vq": 0.25}),
    "dcae_3d": ((32, 40, 8, 8), 208.5, DCAE),
    "dcae_f32": ((32, 8, 8), 323.3, DCAE),
    "dcae_f32_pretrained": ((32, 8, 8), 323.3, DCAE),
    "dcae_f64": ((128, 4, 4), 676.9, DCAE),
    "dcae_f128": ((512, 2, 2), 1120.7, DCAE),
    "structured_f64": ((128, 4, 4), 676.9, DCAE),
    "dcae_phase3": ((32, 8, 8), 323.3, {**DCAE, "adversarial": 0.1}),
    "seg_dcae": ((32, 8, 8), 323.3, MASKS),
}
DEMOS = {
    *("document", "document_vae", "document_vqvae", "document_dcae", "document_masks"),
    "document_regional",
    "lapped",
    *(f"demo_3d_{kind}" for kind in ("vae", "vqvae", "dcae")),
}
PLANES_OF_DCAE = {"dcae_f32", "dcae_f32_pretrained", "dcae_f64", "dcae_f128", "structured_f64"}
PLANES_OF_DCAE |= {"dcae_phase3", "seg_dcae"}


def read(preset):
    return resolve(CompressionSettings, "compression", preset=preset).settings


def test_every_documented_configuration_is_there():
    assert set(list_presets("compression")) == set(DOCUMENTED) | DEMOS


@pytest.mark.parametrize(
    "preset",
    [
        # the import of diffusers takes seconds
        pytest.param(name, marks=[pytest.mark.slow] if name in PLANES_OF_DCAE else [])
        for name in DOCUMENTED
    ],
)
def test_a_documented_network_is_built(preset):
    """Without its numbers: on the meta device. Nothing is fetched."""
    from models.autoencoders.build import build_autoencoder

    settings, (latent, millions, _) = read(preset), DOCUMENTED[preset]
    with torch.device("meta"):
        model = build_autoencoder(settings.model, 1, load=False)
    assert model.latent_shape(settings.data.space(settings.model.spatial_dims)) == latent
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("preset", DOCUMENTED)
def test_the_terms_weigh_what_the_document_says(preset):
    settings = read(preset)
    first, *critic = SYSTEM.phases(settings, None)
    expected = DOCUMENTED[preset][2]
    steps = settings.train.steps
    for step in (0, steps):
        found = {k: v for k, v in first.composite.weights(step, steps).items() if v}
        assert found == expected
    assert bool(critic) == ("adversarial" in expected)
    if critic:
        rate = 1e-4 if settings.model.spatial_dims == 3 else 5e-4
        assert settings.critic_optimizer.lr == rate
        assert (settings.discriminator.width, settings.discriminator.layers) == (64, 3)


@pytest.mark.parametrize("preset", DOCUMENTED)
def test_lesions_count_from_the_documents_size_on(preset):
    settings = read(preset)
    is_volume = settings.model.spatial_dims == 3
    assert (settings.data.lesion_voxels if is_volume else settings.data.lesion_pixels) == (
        LEAST_PIXELS[settings.model.spatial_dims]
    )


@pytest.mark.parametrize("preset", DOCUMENTED)
def test_the_schedule_is_the_documents(preset):
    """A warm-up of 5 epochs from a tenth of the rate, then a cosine to 1e-6."""
    settings = read(preset)
    optimizer, steps = settings.optimizer, settings.train.steps
    epochs, peak = (125, 5e-5) if preset == "dcae_3d" else (100, 1e-4)
    assert learning_rate(optimizer, 0, steps) == pytest.approx(peak / 10)
    assert learning_rate(optimizer, 5 * steps // epochs, steps) == pytest.approx(peak)
    assert learning_rate(optimizer, steps, steps) == pytest.approx(1e-6)
    flat = flatten(settings)
    assert flat["train.batch_size"] == (1 if settings.model.spatial_dims == 3 else 16)
    assert flat["train.ema_decay"] == 0.999 and flat["train.clip_norm"] == 1.0
    assert flat["optimizer.kind"] == "adamw" and flat["optimizer.weight_decay"] == 0.0


@pytest.mark.parametrize("preset", sorted(DEMOS))
def test_the_other_presets_have_the_demos_size(preset):
    settings = read(preset)
    dims = settings.model.spatial_dims
    defaults = CompressionSettings()
    assert settings.data.space(dims) == defaults.data.space(dims)
    assert settings.train.steps == defaults.train.steps
    shortcut = {"model.vae.shortcut": "lapped"} if preset == "lapped" else {}
    expected = flatten(replace(defaults, shortcut))
    sizes = [key for key in expected if key.startswith(("model.vae", "model.vqvae", "model.dcae"))]
    assert {key: flatten(settings)[key] for key in sizes} == {key: expected[key] for key in sizes}
    assert dims == (3 if preset.startswith("demo_3d") else 2)


@pytest.mark.parametrize(
    ("smaller", "whole"),
    [("paper_vae_3d_128", "paper_vae_3d"), ("paper_vqvae_3d_128", "paper_vqvae_3d")],
)
def test_experiments_7_and_8_differ_from_the_larger_ones_in_what_the_document_says(smaller, whole):
    """160 x 128 x 128 with checkpoints; experiment 7 without a critic (`disable_gan`)."""
    flat, other = flatten(read(smaller)), flatten(read(whole))
    differing = {key for key in flat if flat[key] != other[key]}
    gan = {key for key in differing if key.startswith(("discriminator.", "critic_optimizer."))}
    assert differing - gan == {"data.volume_size"} | (
        {"loss.adversarial.enabled"} if smaller == "paper_vae_3d_128" else set()
    )
    assert flat["data.volume_size"] == (160, 128, 128)
    assert flat["model.checkpointing"] and flat["data.group"] == "multi_modality"
    has_critic = smaller == "paper_vqvae_3d_128"
    assert flat["discriminator.enabled"] is flat["loss.adversarial.enabled"] is has_critic
    assert bool(gan) is not has_critic
