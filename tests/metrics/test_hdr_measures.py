"""How the metrics of HDR hole filling encode radiance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metrics.hdr_measures import mu_encoded, pu_encoded


@given(st.lists(st.floats(0.0, 1e9), min_size=2, max_size=20))
def test_encodings_ascend_and_stop_at_the_limit(radiances):
    x = torch.tensor(sorted(radiances), dtype=torch.float64)
    mu = mu_encoded(x, 300.0, 0.8, 1e3)
    pu = pu_encoded(x, 1e4, 1e3)
    for encoded in (mu, pu):
        assert (encoded.diff() >= 0).all()
        assert encoded.min() >= -1e-9
    assert mu.max() <= 1.0
    top = torch.tensor([1e3, 1e8], dtype=torch.float64)
    assert mu_encoded(top, 300.0, 0.8, 1e3).tolist() == [1.0, 1.0]
    assert pu_encoded(top, 1e4, 1e3).diff().item() == 0.0


def test_encodings_against_closed_forms():
    x = torch.tensor([0.0, 0.01, 1.0, 50.0], dtype=torch.float64)
    expected = np.log1p(240 * x.numpy()) / np.log1p(240e3)
    np.testing.assert_allclose(mu_encoded(x, 300.0, 0.8, 1e3).numpy(), expected, rtol=1e-12)
    # Radiance 10 under a limit of 1000 shown at 10 000 cd/m2 is 100 cd/m2, which PU21 puts at 256.
    white = pu_encoded(torch.tensor([10.0]), 1e4, 1e3)
    assert float(white) == pytest.approx(256.0, abs=0.5)
