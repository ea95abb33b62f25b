"""PSNR and SSIM against scikit-image, over the whole image and inside a mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from metrics.image import (
    PSNR_LIMIT_DB,
    over_images,
    psnr_db,
    ssim,
    ssim_map,
)


def pair(seed, shape=(2, 3, 23, 31), noise=0.2):
    rng = np.random.default_rng(seed)
    target = rng.random(shape).cumsum(-1) / 20
    prediction = target + noise * rng.normal(size=shape)
    return torch.tensor(prediction), torch.tensor(target)


@pytest.mark.parametrize("data_range", [1.0, 256.0])
def test_psnr(data_range):
    prediction, target = pair(0)
    found = psnr_db(prediction * data_range, target * data_range, data_range)
    expected = [
        peak_signal_noise_ratio(t.numpy(), p.numpy(), data_range=1.0)
        for p, t in zip(prediction, target, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_psnr_inside_a_mask():
    prediction, target = pair(1)
    mask = torch.zeros(2, 1, 23, 31)
    mask[:, :, 4:9, 10:22] = 1
    found = psnr_db(prediction, target, 1.0, mask)
    expected = [
        peak_signal_noise_ratio(t[:, 4:9, 10:22].numpy(), p[:, 4:9, 10:22].numpy(), data_range=1.0)
        for p, t in zip(prediction, target, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_psnr_of_identical_images_is_the_limit():
    _, target = pair(2)
    assert psnr_db(target, target, 1.0).tolist() == [PSNR_LIMIT_DB] * 2


@pytest.mark.parametrize("data_range", [1.0, 256.0])
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_ssim_and_its_map(data_range, noise):
    prediction, target = (x * data_range for x in pair(3, noise=noise))
    full = ssim_map(prediction, target, data_range)
    means = ssim(prediction, target, data_range)
    for index in range(2):
        mean, expected = structural_similarity(
            prediction[index].numpy(),
            target[index].numpy(),
            channel_axis=0,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        np.testing.assert_allclose(full[index].numpy(), expected, atol=1e-10)
        assert float(means[index]) == pytest.approx(mean, rel=1e-10)


def test_ssim_inside_a_mask_is_the_mean_of_the_map():
    prediction, target = pair(4)
    mask = torch.zeros(2, 1, 23, 31)
    mask[0, :, :3, :5] = 1  # at the border
    found = ssim(prediction, target, 1.0, mask)
    _, full = structural_similarity(
        prediction[0].numpy(),
        target[0].numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert float(found[0]) == pytest.approx(full[:, :3, :5].mean(), rel=1e-9)


def test_ssim_of_identical_images_is_one():
    _, target = pair(5)
    assert ssim(target, target, 1.0).tolist() == pytest.approx([1.0, 1.0])


def test_ssim_refuses_images_smaller_than_its_window():
    small = torch.zeros(1, 3, 10, 40)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, not 10 x 40"):
        ssim(small, small, 1.0)


def test_over_images_leaves_out_the_unknown_and_keeps_a_nan():
    values = torch.tensor([1.0, float("nan"), 3.0])
    known = torch.tensor([True, False, True])
    assert [float(x) for x in over_images(values, known)] == [4.0, 2.0]
    total, count = over_images(values)
    assert np.isnan(float(total)) and float(count) == 3.0
