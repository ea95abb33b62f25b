"""The VAE: how it samples, and the documented sizes."""

from __future__ import annotations

import pytest
import torch

from models.autoencoders.build import build_autoencoder
from models.autoencoders.settings import ModelSettings, VaeSettings
from models.draws import draw_normal

TINY = VaeSettings(widths=(8, 16), norm_groups=4)
PLANE = ModelSettings(
    vae=VaeSettings(widths=(64, 128, 256, 512), res_blocks=2, attention=1, norm_groups=32)
)
PLANE_4X = ModelSettings(
    vae=VaeSettings(widths=(64, 128, 256), res_blocks=2, attention=1, norm_groups=32)
)
VOLUME = ModelSettings(
    spatial_dims=3,
    vae=VaeSettings(widths=(32, 64, 128, 128), res_blocks=2, attention=0, norm_groups=32),
)


def test_the_sample_is_mean_plus_deviation_times_noise_of_the_images_seed() -> None:
    torch.manual_seed(0)
    model = build_autoencoder(ModelSettings(vae=TINY), 1).train()
    image = torch.rand(4, 1, 16, 16)
    seeds = torch.tensor([9, 3, 5, 1])
    found = model(image, seeds)
    noise = torch.cat([draw_normal(seed[None], "model.vae", (3, 8, 8)) for seed in seeds])
    expected = found["mean"] + found["deviation"] * noise
    torch.testing.assert_close(found["latent"], expected)
    assert bool((found["deviation"] > 0).all())
    torch.testing.assert_close(found["reconstruction"], model.decode(expected))


def test_a_forward_of_training_without_seeds_is_refused() -> None:
    model = build_autoencoder(ModelSettings(vae=TINY), 1).train()
    with pytest.raises(ValueError, match="draws from the seeds of its samples"):
        model(torch.rand(2, 1, 16, 16))


def test_the_mean_is_decoded_in_evaluation() -> None:
    model = build_autoencoder(ModelSettings(vae=TINY), 1).eval()
    image = torch.rand(2, 1, 16, 16)
    found = model(image)
    torch.testing.assert_close(found["latent"], found["mean"])
    torch.testing.assert_close(found["mean"], model.encode(image))


@pytest.mark.parametrize(
    ("settings", "sides", "latent"),
    [
        (PLANE, (256, 256), (3, 32, 32)),
        (PLANE_4X, (256, 256), (3, 64, 64)),
        (VOLUME, (160, 256, 256), (3, 20, 32, 32)),
    ],
    ids=["2d", "2d_4x", "3d"],
)
def test_documented_sizes(
    settings: ModelSettings, sides: tuple[int, ...], latent: tuple[int, ...]
):
    with torch.device("meta"):
        model = build_autoencoder(settings, 1)
        found = model(torch.zeros(1, 1, *sides), torch.zeros(1, dtype=torch.int64))
    assert found["latent"].shape[1:] == model.latent_shape(sides) == latent
    assert found["reconstruction"].shape[2:] == sides


@pytest.mark.parametrize(("attention", "blocks"), [(0, 0), (1, 4), (2, 6)])
def test_attention_is_at_the_coarsest_levels_or_nowhere(attention: int, blocks: int) -> None:
    """One in each middle, one after each residual block of encoder and decoder."""
    shape = VaeSettings(widths=(8, 16, 16), norm_groups=4, attention=attention, res_blocks=1)
    model = build_autoencoder(ModelSettings(vae=shape), 1)
    found = [m for m in model.modules() if type(m).__name__ == "SpatialAttentionBlock"]
    assert len(found) == blocks
