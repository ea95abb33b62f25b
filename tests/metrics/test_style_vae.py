"""The metrics of the autoencoder of images against scikit-image and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from metrics.style.vae import style_vae_metrics


def measured(prediction, batch):
    values = {}
    for metric in style_vae_metrics():
        sums, count = metric.measure(prediction, batch, None)
        values[metric.name] = metric.finish(sums, float(count))
    return values


def test_they_are_those_of_scikit_image():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 3, 16, 16, generator=generator)
    noisy = image + 0.2 * torch.randn(image.shape, generator=generator)
    latents = 2.0 + 3.0 * torch.randn(3, 4, 4, 4, generator=generator)
    made = measured({"reconstruction": noisy, "mean": latents}, {"image": image})
    pairs = [
        (a.double().numpy(), b.double().numpy())
        for a, b in zip(image, noisy.clamp(0.0, 1.0), strict=True)
    ]
    psnr = np.mean([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs])
    ssim = np.mean(
        [
            structural_similarity(
                a,
                b,
                data_range=1.0,
                channel_axis=0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for a, b in pairs
        ]
    )
    assert made["psnr_db"] == pytest.approx(psnr, rel=1e-5)
    assert made["ssim"] == pytest.approx(ssim, rel=1e-4)
    assert made["latent_deviation"] == pytest.approx(float(latents.double().std(correction=0)))


def test_images_below_the_window_have_no_similarity():
    image = torch.zeros(1, 3, 8, 8)
    made = measured({"reconstruction": image, "mean": torch.ones(1, 1, 2, 2)}, {"image": image})
    assert np.isnan(made["ssim"])
    assert made["psnr_db"] == pytest.approx(100.0)
    assert made["latent_deviation"] == 0.0
