"""A .npy file that grows, and one of known size that many write to."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


class ArrayWriter:
    """Appends arrays to one .npy file whose length is known only at the end.

    numpy pads the header of a .npy file so that its first axis can grow; it is written again on
    closing. After an error it is not, and the file has no arrays.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._file = path.open("wb")
        self.count = 0
        self._data_start = self._write_header()

    def append(self, arrays: np.ndarray) -> None:
        """arrays: [N, *shape], of a type that the file's can hold up to rounding."""
        fits = np.can_cast(arrays.dtype, self.dtype, "same_kind")
        if arrays.shape[1:] != self.shape or not fits:
            raise ValueError(
                f"expected {self.dtype} of shape [N, {self.shape}], not {arrays.dtype} of shape "
                f"{arrays.shape}"
            )
        self._file.write(np.ascontiguousarray(arrays, self.dtype).tobytes())
        self.count += len(arrays)

    def _write_header(self) -> int:
        header: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.count, *self.shape),
        }
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None and self._write_header() != self._data_start:
                raise OSError("the header of the array grew; this numpy does not pad it")


def make_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> None:
    """A .npy file of zeros, to be filled by `write_rows`."""
    with ArrayWriter(path, shape[1:], dtype) as writer:
        writer.count = shape[0]
    os.truncate(path, path.stat().st_size + math.prod(shape) * np.dtype(dtype).itemsize)


def write_rows(path: Path, first: int, rows: np.ndarray) -> None:
    """Puts rows [N, *shape] into the file of `make_array`, from its row `first` on. Any number of
    threads and processes may write, each its own rows.
    """
    array = np.load(path, mmap_mode="r+")
    array[first : first + len(rows)] = rows
