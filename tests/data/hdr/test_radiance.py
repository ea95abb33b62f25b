"""The Radiance codec against bytes written by hand from the format's description."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data.hdr.radiance import read_hdr, write_hdr


def header(height: int, width: int, extra: str = "") -> bytes:
    return f"#?RADIANCE\n{extra}FORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()


def test_a_flat_row_is_mantissa_times_two_to_the_exponent(tmp_path):
    # 128/256 * 2^1 = 1, 64/256 * 2^1 = .5; exponent 0 is black whatever the mantissas say.
    path = tmp_path / "a.hdr"
    path.write_bytes(header(1, 2) + bytes([128, 64, 0, 129, 9, 9, 9, 0]))
    np.testing.assert_array_equal(read_hdr(path), [[[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]])


def test_a_run_length_row(tmp_path):
    path = tmp_path / "a.hdr"
    red = bytes([128 + 8, 128])  # eight times 128
    green = bytes([4, 1, 2, 3, 4, 128 + 4, 200])  # four as they are, then four times 200
    blue = bytes([128 + 8, 0])
    exponent = bytes([8, *[129] * 8])
    path.write_bytes(header(1, 8) + bytes([2, 2, 0, 8]) + red + green + blue + exponent)
    expected = np.zeros((1, 8, 3))
    expected[0, :, 0] = 1.0
    expected[0, :, 1] = np.array([1, 2, 3, 4, 200, 200, 200, 200]) / 128
    np.testing.assert_array_equal(read_hdr(path), expected)


def test_exposure_is_divided_out(tmp_path):
    path = tmp_path / "a.hdr"
    path.write_bytes(header(1, 1, "EXPOSURE=2\nEXPOSURE=4\n") + bytes([128, 128, 128, 129]))
    np.testing.assert_array_equal(read_hdr(path), np.full((1, 1, 3), 1 / 8))


@given(
    image=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12).map(lambda shape: (*shape, 3)),
        elements=st.floats(0.0, 2.0**100, width=32, allow_subnormal=False),
    )
)
def test_round_trip_to_half_a_step_of_the_largest_channel(tmp_path_factory, image):
    path = tmp_path_factory.mktemp("hdr") / "a.hdr"
    write_hdr(path, image)
    # The largest mantissa is at least 128 (127.75 before rounding), half a step is .5 of it.
    bound = np.maximum(image.max(axis=-1, keepdims=True) / 255.0, 1e-37)
    assert (np.abs(read_hdr(path) - image) <= bound).all()


def test_zero_stays_exactly_zero(tmp_path):
    image = np.zeros((9, 9, 3), np.float32)
    image[4, 4] = 5.0
    write_hdr(tmp_path / "a.hdr", image)
    np.testing.assert_array_equal(read_hdr(tmp_path / "a.hdr") == 0, image == 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P6 1 1 255\n", "starts with #"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "no end"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n-Y 1 +X 1\n", "32-bit_rle_xyze"),
        (b"#?RADIANCE\n\n+X 1 -Y 1\n" + bytes(4), "-Y height"),
        (header(2, 1) + bytes(4), "ends inside a row"),
        (header(1, 8) + bytes([2, 2, 0, 8, 128 + 8]), "damaged or cut off"),
        (header(1, 8) + bytes([2, 2, 0, 8, 128 + 9, 1]), "damaged or cut off"),
        (header(1, 8) + bytes([2, 2, 0, 9]), "another width"),
        (header(1, 2) + bytes([9, 9, 9, 129, 1, 1, 1, 1]), "old run-length"),
    ],
)
def test_damaged_pictures_are_refused(tmp_path, content, message):
    path = tmp_path / "a.hdr"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_hdr(path)
