"""The sixteen masks, against ones drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.diffusion.score_aug.patterns import COUNT, masks

CPU = torch.device("cpu")

DRAWN = {  # by hand; the cells of 4 - 7 are the first numbers of RandomState(seed).permutation(16)
    0: "#.#. .#.# #.#. .#.#",
    1: ".#.# #.#. .#.# #.#.",
    4: "##.. .#.. .... ..#.",
    5: "#... #..# ..#. ....",
    6: "##.. .#.. ##.# .##.",
    7: "#... ##.# #### ....",
    8: "#... .... .... ...#",
    9: "...# .... .... #...",
    11: "#..# .... .... #..#",
}


def cells(text: str) -> np.ndarray:
    return np.array([[sign == "#" for sign in row] for row in text.split()])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (16, 40)])
@pytest.mark.parametrize("pattern", DRAWN)
def test_masks_of_four_by_four_cells(pattern, height, width):
    expected = np.kron(cells(DRAWN[pattern]), np.ones((height // 4, width // 4), dtype=bool))
    assert np.array_equal(masks(height, width, CPU)[pattern].numpy(), expected)


@pytest.mark.parametrize("offset", [0, 1])
def test_fields_of_eight_by_eight(offset):
    expected = np.add.outer(np.arange(24) // 3, np.arange(24) // 3) % 2 == offset
    assert np.array_equal(masks(24, 24, CPU)[2 + offset].numpy(), expected)


def test_three_holes():
    expected = np.zeros((16, 16), dtype=bool)
    expected[:4, 6:10] = expected[12:, :4] = expected[12:, 12:] = True
    assert np.array_equal(masks(16, 16, CPU)[10].numpy(), expected)


def test_patches_are_the_documents():
    """The first of RandomState(42).permutation(64) and of 123, in patches of 16 pixels."""
    first = {
        12: (52, 58, 0, 44, 5, 36, 16, 12, 25, 61, 56, 9, 40, 13, 34, 50),
        13: (51, 31, 63, 53, 23, 40, 44, 43, 27, 15, 24, 18, 39, 57, 13, 30),
    }
    drawn = masks(128, 128, CPU)
    for pattern, numbers in first.items():
        expected = np.zeros(64, dtype=bool)
        expected[list(numbers)] = True
        expected = np.kron(expected.reshape(8, 8), np.ones((16, 16), dtype=bool))
        assert np.array_equal(drawn[pattern].numpy(), expected)
        assert bool((drawn[pattern + 2] | ~drawn[pattern]).all())  # 50 % has the 25 % in it


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (48, 96), (256, 256)])
def test_shares_that_are_dropped(size):
    shares = masks(*size, CPU).flatten(1).double().mean(dim=1).tolist()
    expected = [0.5] * 4 + [0.25, 0.25, 0.5, 0.5] + [2 / 16, 2 / 16, 3 / 16, 4 / 16]
    assert shares == pytest.approx([*expected, 0.25, 0.25, 0.5, 0.5], abs=1e-12)
    assert len(masks(*size, CPU).flatten(1).unique(dim=0)) == COUNT


@pytest.mark.parametrize("size", [(9, 11), (13, 30), (31, 17), (30, 30)])
def test_any_size_has_them_to_its_end(size):
    """Sides that are no multiples: fields are a pixel larger or smaller, and none is left over."""
    drawn = masks(*size, CPU)
    assert drawn.shape == (COUNT, *size)
    assert bool((drawn[0] ^ drawn[1]).all()) and bool((drawn[2] ^ drawn[3]).all())
    shares = drawn.flatten(1).double().mean(dim=1)
    assert bool(((shares > 0.08) & (shares < 0.6)).all())


def test_the_global_generators_are_not_touched():
    masks.cache_clear()
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    masks(40, 40, CPU)
    assert np.array_equal(before, np.random.get_state()[1])


def test_sides_below_eight_are_refused():
    with pytest.raises(ValueError, match="8 or more, not 7 x 64"):
        masks(7, 64, CPU)
