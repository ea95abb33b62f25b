"""MS-SSIM against the paper's formulas in numpy and scipy, and what sizes it takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from metrics.ms_ssim import check_sides, ms_ssim, ms_ssim_of_slices, scales
from settings.schema import SettingsError

PAPER = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def windowed(image, taps):
    """Gaussian means where the window fits."""
    offsets = np.arange(taps) - taps // 2
    weights = np.exp(-0.5 * (offsets / 1.5) ** 2)
    for axis in range(image.ndim):
        image = correlate1d(image, weights / weights.sum(), axis=axis)
    inner = slice(taps // 2, -(taps // 2))
    return image[(inner,) * image.ndim]


def halved(image):
    sizes = [side // 2 for side in image.shape]
    image = image[tuple(slice(0, 2 * side) for side in sizes)]
    split = list(itertools.chain.from_iterable((side, 2) for side in sizes))
    return image.reshape(split).mean(axis=tuple(range(1, 2 * len(sizes), 2)))


def reference(prediction, target, taps, count):
    """Wang, Simoncelli & Bovik 2003, one image [C, *S]."""
    weights = np.array(PAPER[:count]) / sum(PAPER[:count])
    value = 1.0
    for scale, weight in enumerate(weights):
        similarity, structure = [], []
        for x, y in zip(prediction, target, strict=True):
            mean_x, mean_y = windowed(x, taps), windowed(y, taps)
            var_x = windowed(x * x, taps) - mean_x**2
            var_y = windowed(y * y, taps) - mean_y**2
            covariance = windowed(x * y, taps) - mean_x * mean_y
            contrast = (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2)
            luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
            structure.append(contrast)
            similarity.append(contrast * luminance)
        last = scale == count - 1
        value *= max(np.mean(similarity if last else structure), 0.0) ** weight
        prediction = np.stack([halved(x) for x in prediction])
        target = np.stack([halved(x) for x in target])
    return value


def pair(shape, noise, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.random(shape).cumsum(-1).cumsum(-2)
    target /= target.max()
    prediction = np.clip(target + noise * rng.normal(size=shape), 0, 1)
    return torch.tensor(prediction, dtype=torch.float32), torch.tensor(target, dtype=torch.float32)


@pytest.mark.parametrize(
    ("shape", "taps", "count"),
    [
        ((2, 1, 15, 17), 11, 1),
        ((2, 2, 30, 41), 11, 2),
        ((2, 1, 64, 64), 11, 3),
        ((1, 1, 101, 99), 11, 4),
        ((1, 1, 176, 180), 11, 5),
        ((2, 1, 9, 16, 16), 7, 1),
        ((1, 2, 17, 16, 20), 7, 2),
        ((1, 1, 28, 32, 30), 7, 3),
    ],
)
@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_it_is_the_papers_measure(shape, taps, count, noise):
    prediction, target = pair(shape, noise)
    expected = [
        reference(p.double().numpy(), t.double().numpy(), taps, count)
        for p, t in zip(prediction, target, strict=True)
    ]
    found = ms_ssim(prediction, target)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_the_number_of_scales():
    sides = (10, 11, 21, 22, 43, 44, 98, 99, 175, 176, 1000)
    assert [scales(side, 11) for side in sides] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    sides = (6, 7, 13, 14, 27, 28, 62, 63, 111, 112, 160)
    assert [scales(side, 7) for side in sides] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("side", [11, 12, 21, 22, 43, 44, 45, 87, 88, 89, 98, 99, 160, 175, 176])
def test_every_size_is_measured(side):
    """MONAI's own check refuses some of what would fit, and lets through what does not."""
    prediction, target = pair((1, 1, side, side), 0.1)
    assert 0.0 < float(ms_ssim(prediction, target)) < 1.0
    assert ms_ssim(target, target).tolist() == pytest.approx([1.0], abs=1e-6)


def test_what_is_too_small_is_refused():
    for shape, words in (((1, 1, 10, 64), "11 px a side"), ((1, 1, 6, 32, 32), "7 px a side")):
        image = torch.zeros(shape)
        with pytest.raises(ValueError, match=rf"at least {words}.*metric.ms_ssim=false"):
            ms_ssim(image, image)


@pytest.mark.parametrize(
    "space",
    [(11, 11), (10, 64), (64, 10), (7, 11, 11), (6, 11, 11), (7, 10, 11), (7, 11, 10)],
)
def test_settings_are_refused_where_measuring_would_be(space):
    image = torch.zeros(1, 1, *space)
    measures = [ms_ssim] if len(space) == 2 else [ms_ssim, ms_ssim_of_slices]
    try:
        for measure in measures:
            measure(image, image)
    except ValueError:
        size = "image_size" if len(space) == 2 else "volume_size"
        with pytest.raises(
            SettingsError, match=rf"11 x 11 px or more.*data\.{size}.*ms_ssim=false"
        ):
            check_sides(space)
    else:
        check_sides(space)


def test_volumes_by_slice():
    prediction, target = pair((2, 1, 5, 24, 25), 0.1)
    each = [
        [float(ms_ssim(prediction[b : b + 1, :, d], target[b : b + 1, :, d])) for d in range(5)]
        for b in range(2)
    ]
    expected = np.mean(each, axis=1)
    assert ms_ssim_of_slices(prediction, target).tolist() == pytest.approx(expected, rel=1e-6)


def test_no_image_has_no_value():
    for shape in ((0, 1, 24, 25), (0, 1, 9, 24, 25)):
        assert ms_ssim(torch.zeros(shape), torch.zeros(shape)).shape == (0,)
    assert ms_ssim_of_slices(torch.zeros(shape), torch.zeros(shape)).shape == (0,)


def test_the_layout_and_the_precision_of_the_prediction_do_not_matter():
    prediction, target = pair((2, 2, 32, 32), 0.1)
    expected = ms_ssim(prediction, target)
    laid = prediction.contiguous(memory_format=torch.channels_last)
    assert torch.equal(ms_ssim(laid, target), expected)
    half = prediction.bfloat16()
    assert torch.equal(ms_ssim(half, target), ms_ssim(half.float(), target))


def test_a_prediction_that_is_not_a_number_is_not_a_number():
    prediction, target = pair((2, 1, 32, 32), 0.1)
    prediction[1, 0, 16, 16] = torch.nan
    found = ms_ssim(prediction, target)
    assert torch.isfinite(found).tolist() == [True, False]
