"""Prefills against scipy's distance transform, closed forms, and the properties that all share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from models.hdr.prefill import PREFILLS, nearest_valid, prefill

EPS = 1e-6


def random_patch(
    seed: int, hole_share: float, shape: tuple[int, int, int] = (2, 17, 24)
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    samples, height, width = shape
    hole = (torch.rand(samples, 1, height, width, generator=generator) < hole_share).float()
    image = (2.0 * torch.randn(samples, 3, height, width, generator=generator)).exp()
    return image * (1.0 - hole), hole


@given(st.integers(0, 2**31 - 1), st.floats(0.0, 0.97))
def test_nearest_is_as_near_as_scipy_finds(seed: int, hole_share: float) -> None:
    _, hole = random_patch(seed, hole_share)
    valid = hole[:, 0] < 0.5
    pixels, rows, columns, squared = nearest_valid(valid)
    assert len(pixels) == int((~valid).sum())
    for sample in range(len(hole)):
        if not valid[sample].any():
            continue
        distance = ndimage.distance_transform_edt(~valid[sample].numpy())
        mine = pixels[:, 0] == sample
        y, x = pixels[mine, 1].numpy(), pixels[mine, 2].numpy()
        row, column = rows[mine].numpy(), columns[mine].numpy()
        assert valid[sample].numpy()[row, column].all()
        np.testing.assert_allclose(np.hypot(y - row, x - column), distance[y, x])
        np.testing.assert_allclose(np.sqrt(squared[mine].numpy()), distance[y, x], rtol=1e-6)


def test_nearest_takes_the_pixel_that_scipy_takes_where_it_is_the_only_one() -> None:
    warped, hole = random_patch(3, 0.6)
    filled = prefill("nearest", warped, hole, EPS)
    compared = 0
    for sample in range(2):
        invalid = hole[sample, 0].numpy() > 0.5
        _, (rows, columns) = ndimage.distance_transform_edt(invalid, return_indices=True)
        expected = warped[sample].numpy()[:, rows, columns]
        same = filled[sample].numpy() == expected
        # Other pixels have several nearest ones; then both must lie equally far (tested above).
        compared += int(same.all(axis=0)[invalid].sum())
        assert same.all(axis=0)[~invalid].all()
    assert compared > 0.6 * int(hole.sum())


def test_nearest_in_small_portions_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    warped, hole = random_patch(5, 0.5)
    whole = prefill("nearest", warped, hole, EPS)
    monkeypatch.setattr("models.hdr.prefill._COSTS_AT_ONCE", 24 * 7)
    assert torch.equal(prefill("nearest", warped, hole, EPS), whole)


@pytest.mark.parametrize("kind", ["nearest", "push_pull", "median_log"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 33, 17), (1, 1, 40), (1, 5, 1)])
@pytest.mark.parametrize("value", [1e-4, 0.7, 900.0])
def test_a_constant_image_is_filled_exactly(
    kind: str, shape: tuple[int, int, int], value: float
) -> None:
    _, hole = random_patch(1, 0.7, shape)
    hole[..., 0] = 0.0
    warped = torch.full((shape[0], 3, *shape[1:]), value) * (1.0 - hole)
    filled = prefill(kind, warped, hole, EPS)
    torch.testing.assert_close(filled, torch.full_like(filled, value), rtol=5e-6, atol=1e-9)


@pytest.mark.parametrize("kind", PREFILLS)
@given(seed=st.integers(0, 2**31 - 1), hole_share=st.floats(0.0, 1.0))
@settings(max_examples=min(20, settings.default.max_examples))
def test_valid_pixels_stay_and_holes_lie_between_the_extremes(
    kind: str, seed: int, hole_share: float
) -> None:
    warped, hole = random_patch(seed, hole_share)
    filled = prefill(kind, warped, hole, EPS)
    valid = (hole < 0.5).expand_as(filled)
    assert torch.equal(filled[valid], warped[valid])
    assert filled.isfinite().all()
    for sample in range(len(hole)):
        for channel in range(3):
            known = warped[sample, channel][hole[sample, 0] < 0.5]
            guessed = filled[sample, channel][hole[sample, 0] > 0.5]
            if kind == "zero" or not len(known):
                assert not guessed.any()
            elif len(guessed):
                assert guessed.min() >= known.min() * (1 - 1e-4) - 1e-9
                assert guessed.max() <= known.max() * (1 + 1e-4)


@pytest.mark.parametrize("kind", PREFILLS)
def test_a_patch_that_is_all_hole_stays_black_and_spoils_no_other(kind: str) -> None:
    warped, hole = random_patch(2, 0.4)
    alone = prefill(kind, warped[1:], hole[1:], EPS)
    hole[0], warped[0] = 1.0, 0.0
    filled = prefill(kind, warped, hole, EPS)
    assert not filled[0].any()
    assert torch.equal(filled[1:], alone)


def test_median_is_that_of_the_ring_in_log() -> None:
    warped, hole = random_patch(4, 0.0, (1, 9, 9))
    hole[0, 0, 3:6, 3:6] = 1.0
    warped = warped * (1.0 - hole)
    filled = prefill("median_log", warped, hole, EPS)
    touching = ndimage.binary_dilation(hole[0, 0].numpy() > 0, np.ones((3, 3)))
    touching &= hole[0, 0].numpy() == 0
    assert touching.sum() == 16
    for channel in range(3):
        # 16 values: the lower of the two middle ones, as torch has it.
        expected = np.sort(warped[0, channel].numpy()[touching])[7]
        assert float(filled[0, channel, 4, 4]) == pytest.approx(expected, rel=1e-5)


def test_push_pull_of_a_log_ramp_is_near_the_ramp() -> None:
    ramp = torch.linspace(-4, 4, 64).exp().view(1, 1, 1, 64).expand(1, 3, 64, 64)
    hole = torch.zeros(1, 1, 64, 64)
    hole[..., 24:36, 28:40] = 1.0
    filled = prefill("push_pull", ramp * (1.0 - hole), hole, EPS)
    error = (filled.log() - ramp.log()).abs().max()
    assert error < 0.8  # the ramp rises by 1.5 across the hole; a black hole is off by 14


def coarser(value: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gortler et al. 1996, push: the mean of the pixels of each 2x2 block that have a value, and
    how far it is trusted: wholly from one pixel on, by the sum of their weights below that.
    """
    rows, columns = (-(-side // 2) for side in value.shape)
    means, trust = np.zeros((rows, columns)), np.zeros((rows, columns))
    for row, column in np.ndindex(rows, columns):
        block = np.s_[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        # A block that the image's edge cuts stands for four pixels all the same.
        share = weight[block].sum() * 4 / weight[block].size
        if share > 0:
            means[row, column] = np.average(value[block], weights=weight[block])
            trust[row, column] = min(1.0, share)
    return means, trust


def enlarged(coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear between the centres of the coarse pixels; beyond the outermost as they are."""
    for axis, side in enumerate(shape):
        count = coarse.shape[axis]
        places = np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, count - 1)
        below = np.floor(places).astype(int)
        above, share = np.minimum(below + 1, count - 1), places - below
        share = share[:, None] if axis == 0 else share
        coarse = (1 - share) * coarse.take(below, axis) + share * coarse.take(above, axis)
    return coarse


def pulled(value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pull: what a pixel is not trusted for comes from the coarser level."""
    if max(value.shape) == 1:
        return value
    beyond = pulled(*coarser(value, weight))
    return weight * value + (1 - weight) * enlarged(beyond, value.shape)


@pytest.mark.parametrize("shape", [(16, 16), (13, 22), (1, 9)])
@pytest.mark.parametrize("hole_share", [0.3, 0.8, 0.95])
def test_push_pull_is_that_of_the_paper(shape: tuple[int, int], hole_share: float) -> None:
    """In numpy, pixel by pixel."""
    warped, hole = random_patch(7, hole_share, (2, *shape))
    hole[..., 0, 4] = 0.0
    filled = prefill("push_pull", warped, hole, EPS).double().numpy()
    for sample, channel in np.ndindex(2, 3):
        weight = 1.0 - hole[sample, 0].double().numpy()
        log = np.log(warped[sample, channel].double().numpy() + EPS)
        expected = np.exp(pulled(log * weight, weight)) - EPS
        np.testing.assert_allclose(filled[sample, channel], expected, rtol=1e-4, atol=1e-9)


def test_an_unknown_kind_is_refused() -> None:
    warped, hole = random_patch(0, 0.5)
    with pytest.raises(ValueError, match="zero, nearest, push_pull, median_log, not 'grey'"):
        prefill("grey", warped, hole, EPS)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", PREFILLS)
def test_a_gpu_gives_what_the_cpu_gives(kind: str) -> None:
    warped, hole = random_patch(6, 0.5)
    there = prefill(kind, warped.cuda(), hole.cuda(), EPS).cpu()
    torch.testing.assert_close(there, prefill(kind, warped, hole, EPS), rtol=1e-5, atol=1e-8)
