"""Masks as words and planes: round trips, the order of bits by hand, words read as floats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.mri.mask_codec import LAYOUTS, bit_planes, channels_of, decode, encode

SIZE = 256


def disc(diameter: float, centre: tuple[float, float] = (100.3, 61.8)) -> torch.Tensor:
    at = torch.arange(SIZE).float()
    return (at[:, None] - centre[0]) ** 2 + (at - centre[1]) ** 2 <= (0.5 * diameter) ** 2


def checkerboard(height: int, width: int) -> torch.Tensor:
    return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 1


def by_hand(mask: np.ndarray, block: int) -> np.ndarray:
    """The words of one mask, pixel by pixel, from the definition; integers of any length."""
    height, width = mask.shape
    words = np.zeros((block * block // 32, height // block, width // block), dtype=object)
    for y, x in np.argwhere(mask):
        place = (y % block) * block + x % block
        words[place // 32, y // block, x // block] += 1 << (place % 32)
    return words


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("f32", (32, 8, 8)), ("f64", (128, 4, 4)), ("f128", (512, 2, 2)), ("k8x8", (2, 32, 32))],
)
def test_a_mask_of_256_has_2048_words_in_the_shape_of_the_latent(layout, shape):
    words = encode(disc(40.0), layout)
    assert words.shape == shape
    assert words.numel() == 2048
    assert words.dtype == torch.int32
    assert channels_of(layout) == shape[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(SIZE, SIZE, dtype=torch.bool),
        torch.ones(SIZE, SIZE, dtype=torch.bool),
        checkerboard(SIZE, SIZE),
        disc(200.0),
        disc(1.9),
    ],
    ids=["empty", "full", "checkerboard", "large disc", "small disc"],
)
def test_round_trips_of_notable_masks(layout, mask):
    assert torch.equal(decode(encode(mask, layout), layout), mask)


@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    leading=st.lists(st.integers(1, 3), max_size=2),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    share=st.sampled_from([0.001, 0.1, 0.5, 0.999]),
    seed=st.integers(0, 2**32),
)
def test_round_trips_of_random_masks(layout, leading, rows, columns, share, seed):
    block = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(*leading, rows * block, columns * block, generator=generator) < share
    words = encode(mask, layout)
    assert words.shape == (*leading, channels_of(layout), rows, columns)
    assert torch.equal(decode(words, layout), mask)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_words_are_what_the_definition_says(layout):
    block = LAYOUTS[layout]
    mask = torch.rand(block, 2 * block, generator=torch.Generator().manual_seed(3)) < 0.5
    unsigned = encode(mask, layout).numpy().astype(np.int64) % 2**32
    assert (unsigned == by_hand(mask.numpy(), block)).all()


@given(block=st.integers(1, 9), rows=st.integers(1, 4), columns=st.integers(1, 4), data=st.data())
def test_plane_k_holds_pixel_k_of_every_block(block, rows, columns, data):
    seed = data.draw(st.integers(0, 2**32))
    mask = torch.rand(
        2, rows * block, columns * block, generator=torch.Generator().manual_seed(seed)
    )
    mask = mask < 0.5
    planes = bit_planes(mask, block)
    assert planes.dtype == torch.float32
    assert planes.shape == (2, block * block, rows, columns)
    for k in range(block * block):
        assert torch.equal(planes[:, k].bool(), mask[:, k // block :: block, k % block :: block])
    assert torch.equal(planes, torch.pixel_unshuffle(mask[:, None].float(), block))


def test_a_plane_is_a_bit_of_the_words():
    mask = torch.rand(64, 96, generator=torch.Generator().manual_seed(0)) < 0.3
    words, planes = encode(mask, "f32"), bit_planes(mask, 32, torch.uint8)
    for k in (0, 1, 31, 32, 777, 1023):
        assert torch.equal((words[k // 32] >> (k % 32)) & 1, planes[k].int())


def test_the_words_read_as_floats_are_nan_and_do_not_survive_half_precision():
    """001-M1: bits 23 to 30 all one are NaN or infinity, and a lesion sets whole runs of bits."""
    for diameter in (20.0, 40.0):
        mask = disc(diameter)
        as_floats = encode(mask, "f32").view(torch.float32)
        assert as_floats.isnan().any()
        assert as_floats.mean().isnan()
        through = as_floats.to(torch.bfloat16).float().view(torch.int32)
        assert not torch.equal(decode(through, "f32"), mask)
    full = encode(torch.ones(SIZE, SIZE, dtype=torch.bool), "f32")
    assert (full == -1).all()
    assert full.view(torch.float32).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
def test_words_of_another_type_are_refused(dtype):
    words = encode(disc(30.0), "f32").to(dtype)
    with pytest.raises(ValueError, match=r"int32, not torch\.\w+: .* NaN, .*bit_planes"):
        decode(words, "f32")


@pytest.mark.parametrize(
    "make", [lambda mask: encode(mask, "f32"), lambda mask: bit_planes(mask, 8)]
)
def test_masks_of_another_type_are_refused(make):
    with pytest.raises(ValueError, match=r"bool here, not torch.float32: .*`mask > 0.5`"):
        make(torch.zeros(64, 64))


def test_sizes_and_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"multiples of the block's 64 px, .*\[96, 64\]"):
        encode(torch.zeros(96, 64, dtype=torch.bool), "f64")
    with pytest.raises(ValueError, match=r"multiples of the block's 8 px, .*\[64\]"):
        bit_planes(torch.zeros(64, dtype=torch.bool), 8)
    with pytest.raises(ValueError, match=r"at least 1 px a side, not 0"):
        bit_planes(torch.zeros(8, 8, dtype=torch.bool), 0)
    with pytest.raises(ValueError, match=r"one of f32, f64, f128, k8x8, not 'f16'"):
        encode(torch.zeros(64, 64, dtype=torch.bool), "f16")
    with pytest.raises(ValueError, match=r"\[\.\., 128, h, w\], not \[32, 8, 8\]"):
        decode(torch.zeros(32, 8, 8, dtype=torch.int32), "f64")
