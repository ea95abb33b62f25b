"""What the linear classifier of styles sees, and how the two are joined."""

from __future__ import annotations

import numpy as np
import torch

from models.style_flow.classifier import StyleClassifier, statistics


def test_statistics_are_those_of_numpy():
    latents = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    made = statistics(latents).numpy()
    for row, latent in zip(made, latents.double().numpy(), strict=True):
        expected = [latent.mean(axis=(1, 2))]
        for size in (1, 3):
            windows = np.lib.stride_tricks.sliding_window_view(latent, (size, size), (1, 2))
            numbers = windows.transpose(0, 3, 4, 1, 2).reshape(3 * size**2, -1)
            expected.append(0.5 * np.log(numbers.var(axis=1) + 1e-3))
            # the floor of the variance is 1e-3 of it, and so is what a correlation lacks
            full = np.corrcoef(numbers)
            expected.append(full[np.triu_indices(len(full), 1)])
        np.testing.assert_allclose(row, np.concatenate(expected), rtol=5e-3, atol=2e-4)


def test_a_constant_latent_has_finite_statistics():
    assert bool(statistics(torch.ones(1, 4, 8, 8)).isfinite().all())


def test_the_probabilities_of_both_parts_are_multiplied():
    torch.manual_seed(0)
    model = StyleClassifier(2, 3, 4).eval()
    with torch.no_grad():
        model.linear.weight.normal_()
    latents = torch.randn(5, 2, 8, 8)
    product = model.by_statistics(latents).softmax(1) * model.by_convolutions(latents).softmax(1)
    expected = product / product.sum(dim=1, keepdim=True)
    torch.testing.assert_close(model(latents).softmax(dim=1), expected)
