"""How the metrics of HDR hole filling encode radiance, and the change from frame to frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metrics import hdr_measures as measures
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


def of_sequence(seed=0, size=14):
    """Two frames of a surface that moves by whole pixels and drifts, and another beside it."""
    rng = np.random.default_rng(seed)
    canvas = np.exp(rng.normal(0, 1.5, (1, 3, size + 6, size + 6)))
    before = canvas[..., 3 : size + 3, 3 : size + 3]
    after = 1.02 * canvas[..., 2 : size + 2, 5 : size + 5]  # it moves by (-2, 1) in x, y
    motion = np.zeros((1, 2, size, size))
    motion[:, 0], motion[:, 1] = -2, 1
    after[..., 10:, :] = np.exp(rng.normal(0, 1.5, (1, 3, size - 10, size)))  # uncovered
    holes = rng.random((2, 1, 1, size, size)) < 0.3
    frames = [
        {"target": torch.tensor(target), "hole": torch.tensor(hole.astype(float))}
        for target, hole in ((before, holes[0]), (after, holes[1]))
    ]
    frames[1]["motion"] = torch.tensor(motion)
    return frames


def flicker_of(predicted, before, after):
    total, count = measures.flicker(predicted, before, after, 1e-4)
    return float(total / count), float(count)


def test_flicker_is_the_step_along_the_motion_less_that_of_the_targets():
    before, after = of_sequence()
    rng = np.random.default_rng(1)
    shape = before["target"].shape
    noise = [torch.tensor(np.exp(rng.normal(0, 0.5, shape))) for _ in range(2)]
    predicted = [before["target"] * noise[0], after["target"] * noise[1]]
    logs = [
        np.log(x.numpy() + 1e-4) for x in (*predicted, before["target"], after["target"])
    ]
    errors = []
    size = shape[-1]
    for y in range(size):
        for x in range(size):
            at = y - 1, x + 2
            if not (0 <= at[0] < size and 0 <= at[1] < size):
                continue
            step = logs[3][0, :, y, x] - logs[2][0, :, at[0], at[1]]
            is_hole = after["hole"][0, 0, y, x] > 0 or before["hole"][0, 0, at[0], at[1]] > 0
            if is_hole and np.abs(step).max() <= 0.1:
                errors += list(np.abs(logs[1][0, :, y, x] - logs[0][0, :, at[0], at[1]] - step))
    value, count = flicker_of(predicted, before, after)
    assert count == len(errors) > 50
    assert value == pytest.approx(np.mean(errors), rel=1e-9)


def test_what_is_right_or_wrong_alike_in_both_frames_does_not_flicker():
    before, after = of_sequence()
    targets = before["target"], after["target"]
    assert flicker_of(targets, before, after)[0] == 0.0
    brighter = [2.0 * target for target in targets]
    assert flicker_of(brighter, before, after)[0] < 1e-3
    assert flicker_of((brighter[0], targets[1]), before, after)[0] > 0.5


def test_without_a_hole_there_is_nothing_that_could_flicker():
    before, after = of_sequence()
    for frame in (before, after):
        frame["hole"] = torch.zeros_like(frame["hole"])
    total, count = measures.flicker((before["target"], after["target"]), before, after, 1e-4)
    assert (float(total), float(count)) == (0.0, 0.0)
