"""A 2-D autoencoder on the slices of volumes."""

from __future__ import annotations

import pytest
import torch

from models.autoencoders.build import build_autoencoder
from models.autoencoders.settings import ModelSettings, VaeSettings, VqvaeSettings
from models.autoencoders.slicewise import Slicewise

SHAPE = VaeSettings(widths=(8, 8), norm_groups=4)
DEPTH = 5


@pytest.fixture(scope="module")
def volume() -> torch.Tensor:
    return torch.rand(2, 2, DEPTH, 16, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Slicewise:
    torch.manual_seed(0)
    return Slicewise(build_autoencoder(ModelSettings(vae=SHAPE), 2).eval())


@torch.no_grad()
def test_every_slice_is_what_the_autoencoder_makes_of_it(
    model: Slicewise, volume: torch.Tensor
) -> None:
    latent, made = model.encode(volume), model(volume)
    assert latent.shape[1:] == model.latent_shape((DEPTH, 16, 12)) == (3, DEPTH, 8, 6)
    for sample in range(2):
        for depth in range(DEPTH):
            plane = volume[sample, :, depth][None]
            own = model.autoencoder.encode(plane)
            torch.testing.assert_close(latent[sample, :, depth], own[0])
            torch.testing.assert_close(
                made[sample, :, depth], model.autoencoder(plane)["reconstruction"][0]
            )


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3, 10, 100])
def test_the_chunk_does_not_show(model: Slicewise, volume: torch.Tensor, chunk: int) -> None:
    small = Slicewise(model.autoencoder, chunk)
    torch.testing.assert_close(small.encode(volume), model.encode(volume))
    torch.testing.assert_close(small(volume), model(volume))


@torch.no_grad()
def test_masks_are_decoded_to_logits_and_returned_as_images(volume: torch.Tensor) -> None:
    settings = ModelSettings(kind="vqvae", seg_mode=True, vqvae=VqvaeSettings(widths=(8,)))
    model = Slicewise(build_autoencoder(settings, 1).eval())
    masks = (volume[:, :1] > 0.5).float()
    logits = model.decode(model.encode(masks))
    torch.testing.assert_close(model(masks), logits.sigmoid())


def test_what_it_refuses(model: Slicewise) -> None:
    volumes = build_autoencoder(ModelSettings(spatial_dims=3, vae=SHAPE), 1)
    with pytest.raises(ValueError, match=r"only a 2-D autoencoder.*not one of 3"):
        Slicewise(volumes)
    with pytest.raises(ValueError, match="at least 1 slice, not 0"):
        Slicewise(model.autoencoder, 0)
    with pytest.raises(ValueError, match=r"five axes.*\[2, 1, 16, 16\]"):
        model.encode(torch.zeros(2, 1, 16, 16))
