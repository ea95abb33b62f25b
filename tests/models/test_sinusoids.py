"""Sinusoids against the paper's formula, on the scale of 1000 steps and on the unit interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.sinusoids import TIME_SCALE, sinusoids


@pytest.mark.parametrize("scale", [TIME_SCALE, 1.0])
def test_sinusoids_by_the_papers_formula(scale):
    times, width = torch.tensor([0.0, 0.001, 0.5, 1.0]), 8
    expected = np.empty((4, width))
    for row, time in enumerate(times.double().numpy()):
        for i in range(width // 2):
            angle = scale * time / 10000.0 ** (2 * i / width)
            expected[row, i], expected[row, width // 2 + i] = math.cos(angle), math.sin(angle)
    np.testing.assert_allclose(sinusoids(times, width, scale).numpy(), expected, atol=2e-4)


def test_on_the_unit_interval_most_frequencies_are_constant():
    times = torch.linspace(0.0, 1.0, 101)
    moving = {scale: sinusoids(times, 256, scale).std(dim=0) > 0.1 for scale in (1.0, TIME_SCALE)}
    assert moving[1.0].float().mean() < 0.25
    assert moving[TIME_SCALE].float().mean() > 0.75
