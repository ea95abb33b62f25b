"""Crops as the images of an autoencoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2yuv

from data.style.images import CropImages, from_unit, grey, to_unit


def test_images_are_between_0_and_1_and_alike_whatever_the_seed(tmp_path):
    crops = np.random.default_rng(0).uniform(-1, 1, (3, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "train.npy", crops)
    samples = CropImages(tmp_path / "train.npy")
    assert len(samples) == 3
    plain, drawn = samples[2]["image"], samples[(2, 7)]["image"]
    assert torch.equal(plain, drawn)
    np.testing.assert_allclose(plain.numpy(), (crops[2] + 1) / 2, atol=1e-6)
    torch.testing.assert_close(from_unit(to_unit(torch.from_numpy(crops))), torch.tensor(crops))
    with pytest.raises(IndexError, match=r"samples 0 \.\. 2, not 3"):
        samples[3]


def test_grey_is_the_luma():
    images = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    made = grey(images)
    expected = rgb2yuv(images.movedim(1, 3).double().numpy())[..., 0]
    for channel in made.movedim(1, 0):
        np.testing.assert_allclose(channel.numpy(), expected, atol=2e-4)
