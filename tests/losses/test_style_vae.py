"""The absolute error of the autoencoder of images; its other terms are those of `compression`."""

from __future__ import annotations

import numpy as np
import torch

from losses.style.vae import TERMS


def test_the_absolute_error_is_a_sum_over_values():
    first, second = torch.rand(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    batch = {"image": second}
    made = TERMS["l1"].sum({"reconstruction": first}, batch, None)
    expected = np.abs(first.numpy().astype(np.float64) - second.numpy()).sum()
    np.testing.assert_allclose(float(made), expected, rtol=1e-6)
    assert float(TERMS["l1"].count(batch, None)) == first.numel()
