"""The reduction of bit planes: against a 1 x 1 convolution, and what it starts from."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.autoencoders.bit_planes import BitPlaneReduction

BLOCK, WIDTH = 8, 12


@pytest.fixture
def reduction() -> BitPlaneReduction:
    torch.manual_seed(0)
    return BitPlaneReduction(BLOCK, WIDTH)


def planes(*shape: int, share: float = 0.5, seed: int = 0) -> torch.Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share).float()


def test_it_is_a_convolution_over_the_planes(reduction):
    torch.nn.init.normal_(reduction.reduce.bias)
    x = planes(3, BLOCK**2, 4, 5)
    weight = reduction.reduce.weight[:, :, None, None]
    torch.testing.assert_close(reduction(x), F.conv2d(x, weight, reduction.reduce.bias))


def test_a_stack_of_slices_is_reduced_slice_by_slice(reduction):
    x = planes(2, 7, BLOCK**2, 3, 3)
    whole = reduction(x)
    assert whole.shape == (2, 7, WIDTH, 3, 3)
    for number in range(7):
        torch.testing.assert_close(whole[:, number], reduction(x[:, number]))


def test_it_starts_from_orthonormal_rows_and_an_empty_block_is_0(reduction):
    weight = reduction.reduce.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(WIDTH), atol=1e-5, rtol=0)
    assert (reduction(torch.zeros(1, BLOCK**2, 2, 2)) == 0).all()


def test_distances_of_masks_are_kept_on_average(reduction):
    a, b = planes(64, BLOCK**2, 4, 4), planes(64, BLOCK**2, 4, 4, seed=1)
    kept = (reduction(a) - reduction(b)).square().sum() / (a - b).square().sum()
    assert kept.item() == pytest.approx(WIDTH / BLOCK**2, rel=0.1)


def test_it_learns_which_pixels_matter(reduction):
    """Least squares on a linear function of the pixels: gradient descent finds it."""
    x = planes(16, BLOCK**2, 4, 4)
    target = x[:, 5:6] - 2.0 * x[:, 40:41]
    optimizer = torch.optim.Adam(reduction.parameters(), lr=0.05)
    for _ in range(100):
        loss = F.mse_loss(reduction(x)[:, :1], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3 * target.square().mean().item()


def test_words_wrong_planes_and_wrong_widths_are_refused(reduction):
    with pytest.raises(ValueError, match=r"floating-point zeros and ones, not torch.int32"):
        reduction(torch.zeros(1, BLOCK**2, 4, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"have 64 planes .* these are \[1, 32, 4, 4\]"):
        reduction(torch.zeros(1, 32, 4, 4))
    with pytest.raises(ValueError, match=r"reduced to 1 \.\. 64 channels, not 65"):
        BitPlaneReduction(BLOCK, 65)
