"""Encodings against the published numbers and their own inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.hdr.exposure import PU21_BANDING_GLARE, PU21_RANGE_CD_M2, mu_law, pu21


def test_mu_law_fixed_points() -> None:
    x = torch.tensor([-1.0, 0.0, 1.25, 12.5], dtype=torch.float64)
    encoded = mu_law(x, mu=300.0, exposure=0.8)
    expected = [0.0, 0.0, 1.0, math.log(1 + 300 * 10) / math.log(301)]
    np.testing.assert_allclose(encoded.numpy(), expected, rtol=1e-12)


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(1.0, 5000.0))
def test_mu_law_is_monotone_without_an_upper_clip(a: float, b: float, mu: float) -> None:
    low, high = sorted((a, b))
    x = torch.tensor([low, high], dtype=torch.float64)
    encoded = mu_law(x, mu, exposure=0.8)
    assert encoded[0] <= encoded[1]
    if high - low > 1e-6 * high:
        assert encoded[0] < encoded[1]


def test_mu_law_keeps_a_gradient_among_highlights() -> None:
    x = torch.tensor([500.0], requires_grad=True)
    mu_law(x, 300.0, 0.8).sum().backward()
    assert x.grad.item() > 0


@pytest.mark.parametrize(
    ("cd_m2", "value", "tolerance"), [(0.005, 0.0, 1e-3), (100.0, 256.0, 1.0), (1e4, 595.39, 0.1)]
)
def test_pu21_published_points(cd_m2: float, value: float, tolerance: float) -> None:
    """Mantiuk & Azimi scaled the encoding so that 100 cd/m2, SDR white, is about 256."""
    encoded = pu21(torch.tensor(cd_m2, dtype=torch.float64))
    assert float(encoded) == pytest.approx(value, abs=tolerance)


def test_pu21_rises_over_its_whole_range_in_fp32() -> None:
    low, high = PU21_RANGE_CD_M2
    luminance = torch.logspace(math.log10(low), math.log10(high), 2000)
    assert (pu21(luminance).diff() > 0).all()


@given(st.floats(0.006, 9_900.0))
def test_pu21_inverts_in_closed_form(cd_m2: float) -> None:
    p1, p2, p3, p4, p5, p6, p7 = PU21_BANDING_GLARE
    value = float(pu21(torch.tensor(cd_m2, dtype=torch.float64)))
    root = max(value / p7 + p6, 0.0) ** (1.0 / p5)
    back = (max(root - p1, 0.0) / (p2 - p3 * root)) ** (1.0 / p4)
    assert back == pytest.approx(cd_m2, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_pu21_is_the_published_formula_between_the_ends_of_its_fit(scale: float) -> None:
    """Equation and constants as in the authors' pu21_encoder.m, luminance clipped to 0.005 ..
    10,000 cd/m2.
    """
    p = [0.353487901, 0.3734658629, 8.277049286e-05, 0.9062562627, 0.09150303166, 0.9099517204]
    ends = [0.0049, 0.005, 0.0051, 9_990.0, 10_000.0, 10_010.0]
    cd_m2 = np.array([0.0, *ends, 1e6, *np.geomspace(0.005, 1e4, 50)])
    power = np.minimum(np.maximum(cd_m2, 0.005), 1e4) ** p[3]
    expected = 596.3148142 * (((p[0] + p[1] * power) / (1 + p[2] * power)) ** p[4] - p[5])
    encoded = pu21(torch.tensor(cd_m2 / scale), cd_m2_per_unit=scale)
    np.testing.assert_allclose(encoded.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_pu21_clips_to_its_range_and_scales_radiance() -> None:
    outside = torch.tensor([0.0, 1e6], dtype=torch.float64)
    ends = torch.tensor(PU21_RANGE_CD_M2, dtype=torch.float64)
    torch.testing.assert_close(pu21(outside), pu21(ends))
    radiance = torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(pu21(radiance, cd_m2_per_unit=100.0), pu21(100.0 * radiance))
    assert float(pu21(radiance, cd_m2_per_unit=100.0)[-1]) == pytest.approx(256.0, abs=1.0)
