"""The reason of a training that ill health ended: written, and read back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settings.stop_reasons import HEALTH, PATIENCE, HealthStop

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.from_regex(r"([a-z]{1,8}\.)?[a-z_]{1,20}", fullmatch=True)
steps = st.integers(0, 10**9)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (
            HealthStop("gradient_norm_high", 73.2, 50.0, 40),
            "health: gradient_norm_high 73.2 > 50 at step 40",
        ),
        (
            HealthStop("critic.gradient_norm_low", 0.0, 1e-5, 7),
            "health: critic.gradient_norm_low 0 < 1e-05 at step 7",
        ),
    ],
)
def test_what_it_says(stop, text):
    assert str(stop) == text
    assert text.startswith(HEALTH)
    assert HealthStop.parse(text) == stop


@given(name=names, value=finite, threshold=finite, step=steps)
def test_what_is_written_is_read_back(name, value, threshold, step):
    stop = HealthStop(name, value, threshold, step)
    assert HealthStop.parse(str(stop)) == stop


@given(value=finite, threshold=finite)
def test_a_shortened_value_is_close_and_on_its_own_side(value, threshold):
    stop = HealthStop.shortened("sign", value, threshold, 1)
    assert math.isclose(stop.value, value, rel_tol=1e-5)
    if value != threshold:
        assert (stop.value > threshold) == (value > threshold)
        assert (stop.value < threshold) == (value < threshold)


def test_a_value_that_six_digits_would_put_on_its_threshold_keeps_all():
    stop = HealthStop.shortened("gradient_norm_high", 50.00000001, 50.0, 4)
    assert str(stop) == "health: gradient_norm_high 50.00000001 > 50 at step 4"
    assert HealthStop.shortened("gradient_norm_high", 73.213467, 50.0, 4).value == 73.2135


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "patience: val.mse was best with 0.3 at step 10, 2 validations ago",
        "asha: place 3 of 4 at step 60, 1 pass",
        "overfit: the validation loss is 12 times the training loss (train.overfit_ratio=10)",
        "health: gradient_norm_high high > 50 at step 40",
        "health: gradient_norm_high 73.2 > 50 at step 40 and more",
    ],
)
def test_other_reasons_are_none_of_it(reason):
    assert HealthStop.parse(reason) is None
    assert not PATIENCE.startswith(HEALTH)
