"""The two kinds of .npy files that are written piece by piece."""

from __future__ import annotations

import numpy as np
import pytest

from data.array_file import ArrayWriter, make_array, write_rows


def test_the_growing_file_is_a_plain_npy(tmp_path):
    pieces = [np.random.default_rng(i).random((i, 2, 3), np.float32) for i in (4, 0, 129)]
    with ArrayWriter(tmp_path / "a.npy", (2, 3)) as writer:
        for piece in pieces:
            writer.append(piece)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate(pieces))
    with (
        pytest.raises(ValueError, match="expected float32 of shape"),
        ArrayWriter(tmp_path / "b.npy", (2, 3)) as w,
    ):
        w.append(np.zeros((1, 3, 2), np.float32))


@pytest.mark.parametrize("rows", [0, 5])
def test_the_file_of_known_size_is_a_plain_npy(tmp_path, rows):
    whole = np.random.default_rng(0).random((rows, 2, 3), np.float32)
    make_array(tmp_path / "a.npy", whole.shape)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.zeros_like(whole))
    for first in (3, 0) if rows else ():
        write_rows(tmp_path / "a.npy", first, whole[first : first + 3])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), whole)
    np.save(tmp_path / "b.npy", whole)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
