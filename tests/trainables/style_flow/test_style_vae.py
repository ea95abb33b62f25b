"""The autoencoder of images as a system: where it begins, what it has to beat, that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metrics.image import psnr_db
from settings.flat import replace
from settings.schema import SettingsError
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.style_flow.style_vae import CHANNELS, StyleVae
from trainables.system import load_system

SYSTEM = StyleVae()
SMALL = {
    **SYSTEM.small,
    "data.crop": 16,
    "data.crops": 16,
    "train.tensorboard": False,
}


def settings_of(**changes):
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(SYSTEM.Settings(), {**SMALL, **values})


@pytest.fixture(scope="module")
def prepared(shared_cache):
    return SYSTEM.prepare(settings_of(), shared_cache)


def images_of(prepared, split="validation"):
    crops = np.load(Path(prepared.folder) / f"{split}.npy")
    return torch.from_numpy(0.5 * (crops + 1.0))


def restored_by_components(images, train, side=4, most=4):
    """Principal components of cells, by numpy."""

    def cells(x):
        count, _, height, width = x.shape
        parts = x.reshape(count, 3, height // side, side, width // side, side)
        return parts.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * side**2)

    rows = cells(train.double().numpy())
    mean = rows.mean(axis=0)
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:most]
    made = mean + (cells(images.double().numpy()) - mean) @ axes.T @ axes
    count, _, height, width = images.shape
    parts = made.reshape(count, height // side, width // side, 3, side, side)
    return parts.transpose(0, 3, 1, 4, 2, 5).reshape(images.shape)


def test_it_begins_as_the_principal_components_of_cells(prepared):
    torch.manual_seed(0)
    model = SYSTEM.build(settings_of(), prepared).modules["vae"].eval()
    images, train = images_of(prepared), images_of(prepared, "train")
    with torch.no_grad():
        made, latents = model(images)["reconstruction"].numpy(), model.encode(train)
    expected = restored_by_components(images, train)
    # the mean of a cell is held by one number for each colour
    np.testing.assert_allclose(made, expected, atol=0.02)
    np.testing.assert_allclose(latents.mean(dim=(0, 2, 3)), 0.0, atol=1e-3)
    np.testing.assert_allclose(latents.std(dim=(0, 2, 3), correction=0), 1.0, rtol=1e-3)


def test_the_linear_reference_is_the_principal_components(prepared):
    images = images_of(prepared)
    reference = SYSTEM.references(settings_of(), prepared)["cell_components"]
    made = reference.predict({"image": images})["reconstruction"].numpy()
    expected = restored_by_components(images, images_of(prepared, "train"))
    np.testing.assert_allclose(made, expected, atol=1e-4)


def test_the_mean_reference_is_the_mean(prepared):
    images, train = images_of(prepared), images_of(prepared, "train")
    made = SYSTEM.references(settings_of(), prepared)["mean"].predict({"image": images})
    assert torch.allclose(made["reconstruction"], train.mean(dim=0).expand_as(images), atol=1e-6)


def test_crops_that_the_network_cannot_halve_are_refused():
    with pytest.raises(SettingsError, match="sides are multiples of 4 x 4, not 18 x 18"):
        settings_of(data__crop=18)


@pytest.mark.slow
def test_it_learns_more_than_the_components(shared_cache, tmp_path):
    """They are where it begins, and the best that is linear in a cell."""
    settings = settings_of(
        model__vae__widths=(8, 16, 16), data__crops=128, train__steps=200, train__batch_size=16
    )
    prepared = SYSTEM.prepare(settings, shared_cache)
    report = fit(load_system("style_vae"), settings, LocalRun(tmp_path), prepared)
    images = images_of(prepared)
    linear = torch.from_numpy(restored_by_components(images, images_of(prepared, "train")))
    floor = float(psnr_db(linear.clamp(0.0, 1.0), images.double(), 1.0).mean())
    assert report["val.psnr_db"] > floor + 0.2
    assert 0.5 < report["val.latent_deviation"] < 2.0
    assert images.shape[1] == CHANNELS
