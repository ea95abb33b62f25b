"""Bent latents, against scipy's interpolation at the displaced places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from models.style_flow.elastic import bent, displacements

SEED = torch.tensor([3, 4, 5])


def test_a_bent_latent_is_the_latent_at_the_displaced_places(latents):
    x = latents().double()
    moved = displacements(SEED, (8, 8), 1.0).double().numpy()
    found = bent(x, SEED, 1.0).numpy()
    rows, columns = np.mgrid[:8, :8]
    for i in range(3):
        for c in range(2):
            places = [rows + moved[i, 0], columns + moved[i, 1]]
            expected = map_coordinates(x[i, c].numpy(), places, order=1, mode="mirror")
            np.testing.assert_allclose(found[i, c], expected, atol=1e-5)


def test_displacements_are_smooth_of_their_deviation_and_by_the_seed(latents):
    many = displacements(torch.arange(4_000), (13, 13), 3.0)
    assert many[:, :, ::4, ::4].std().item() == pytest.approx(3.0, rel=0.02)  # at the knots
    second = many.diff(dim=-1).diff(dim=-1).abs().mean()
    assert second < 0.5 * many.diff(dim=-1).abs().mean()
    assert torch.equal(
        displacements(SEED[1:2], (8, 8), 1.0)[0], displacements(SEED, (8, 8), 1.0)[1]
    )
    x = latents()
    assert bent(x, SEED, 0.0) is x
    assert not torch.equal(bent(x, SEED, 3.0), bent(x, SEED + 1, 3.0))
