"""The affine map onto [-reach, reach]: its ends, its way back, constants, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.fields.range_scaler import RangeScaler

VALUES = arrays.arrays(
    np.float32, (9, 3), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)


@given(values=VALUES, reach=st.floats(0.1, 0.95))
def test_each_column_spans_the_reach_and_comes_back(values, reach):
    known = torch.from_numpy(values)
    scaler = RangeScaler((3,), reach).fit(known)
    scaled = scaler(known)
    size = float(np.abs(values).max()) + 1.0
    for column in range(3):
        low, high = float(values[:, column].min()), float(values[:, column].max())
        if high - low > 1e-3 * size:
            assert float(scaled[:, column].min()) == pytest.approx(-reach, rel=1e-2)
            assert float(scaled[:, column].max()) == pytest.approx(reach, rel=1e-2)
    torch.testing.assert_close(scaler.inverse(scaled), known, atol=1e-5 * size, rtol=1e-5)


def test_one_range_for_all():
    values = torch.tensor([[0.0, 1.0], [2.0, 10.0]])
    scaled = RangeScaler((), 0.7).fit(values)(values)
    torch.testing.assert_close(scaled, 0.7 * (values - 5.0) / 5.0)


def test_a_constant_column_maps_to_zero_and_back_to_its_constant():
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    scaler = RangeScaler((2,), 0.7).fit(values)
    assert scaler.constant_columns == 1
    assert torch.equal(scaler(torch.tensor([[2.0, 9.0]])), torch.tensor([[0.0, 0.0]]))
    assert float(scaler.inverse(torch.tensor([[0.3, 0.9]]))[0, 1]) == 5.0


def test_values_beyond_the_range_are_not_clipped():
    scaler = RangeScaler((1,), 0.5).fit(torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(scaler(torch.tensor([[3.0]])), torch.tensor([[2.5]]))


def test_it_is_differentiable_both_ways_and_stored():
    scaler = RangeScaler((2,), 0.7).fit(torch.tensor([[0.0, 1.0], [4.0, 2.0]]))
    x = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    double = scaler.double()
    assert torch.autograd.gradcheck(double, (x,))
    assert torch.autograd.gradcheck(double.inverse, (x,))
    again = RangeScaler((2,), 0.1)
    again.load_state_dict(scaler.state_dict())
    assert torch.equal(again.double()(x), scaler(x))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not all finite"):
        RangeScaler((), 0.7).fit(torch.tensor([[1.0, float("nan")]]))
