"""Radiance .hdr pictures (RGBE: three 8-bit mantissas and one shared exponent), read and written
with numpy.

No library that the project depends on reads them without a download. Format: the Radiance file
formats reference, "Picture file format"; a pixel is mantissa * 2^(exponent - 136), and all zero
where the exponent is 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from data.files import Float32

_MIN_RLE_WIDTH, _MAX_RLE_WIDTH = 8, 0x7FFF
_EXPONENT_BIAS = 128 + 8  # 128 of the format, 8 because a mantissa counts 1/256


def read_hdr(path: Path) -> Float32:
    """The picture as linear RGB [H, W, 3].

    Raises:
        ValueError: not a Radiance picture, an orientation or colour space other than -Y +X and
            RGBE, or fewer pixels than the header says.
    """
    with path.open("rb") as file:
        exposure = _read_header(file)
        height, width = _read_resolution(file)
        rgbe = _decode_rows(np.frombuffer(file.read(), np.uint8), height, width)
    exponent = rgbe[..., 3:].astype(np.int32) - _EXPONENT_BIAS
    rgb = np.ldexp(rgbe[..., :3].astype(np.float32), exponent)
    rgb[rgbe[..., 3] == 0] = 0.0
    return (rgb / np.float32(exposure)).astype(np.float32)


def write_hdr(path: Path, image: Float32) -> None:
    """Writes [H, W, 3] >= 0. Rounding changes a channel by at most 1/256 of the pixel's largest
    channel.

    Rows are stored flat, which every reader takes: a normalised pixel has a mantissa of at least
    128, so no row can be mistaken for the start of a run-length code.
    """
    largest = image.max(axis=-1)
    exponent = np.frexp(largest)[1]
    # A largest mantissa of 255.5 and above would round to 256; such a pixel takes the next
    # exponent.
    exponent = exponent + (np.ldexp(largest, 8 - exponent) >= 255.5)
    mantissa = np.rint(np.ldexp(image, (8 - exponent)[..., None]))
    rgbe = np.zeros((*image.shape[:2], 4), np.uint8)
    stored = (largest > 0) & (exponent > -128)
    rgbe[stored, :3] = mantissa[stored].astype(np.uint8)
    rgbe[stored, 3] = (exponent[stored] + 128).astype(np.uint8)
    height, width = image.shape[:2]
    header = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n"
    path.write_bytes(header.encode("ascii") + rgbe.tobytes())


def _read_header(file: BinaryIO) -> float:
    """Reads up to the empty line; returns the product of the EXPOSURE lines, by which pixels were
    multiplied.
    """
    first = file.readline(256)
    if not first.startswith((b"#?RADIANCE", b"#?RGBE")):
        raise ValueError(
            f"a Radiance picture starts with #?RADIANCE or #?RGBE, this one with {first[:12]!r}"
        )
    exposure = 1.0
    while True:
        line = file.readline(4096)
        if not line:
            raise ValueError("the header has no end (an empty line)")
        text = line.strip().decode("ascii", errors="replace")
        if not text:
            return exposure
        key, _, value = text.partition("=")
        if key == "EXPOSURE":
            exposure *= float(value)
        if key == "FORMAT" and value.strip() != "32-bit_rle_rgbe":
            raise ValueError(f"only FORMAT=32-bit_rle_rgbe is read, not {value.strip()}")


def _read_resolution(file: BinaryIO) -> tuple[int, int]:
    words = file.readline(256).decode("ascii", errors="replace").split()
    if len(words) != 4 or words[0] != "-Y" or words[2] != "+X":
        raise ValueError(
            f"only pictures stored as '-Y height +X width' are read, not {' '.join(words)!r}"
        )
    return int(words[1]), int(words[3])


def _decode_rows(data: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rgbe = np.empty((height, width, 4), np.uint8)
    at = 0
    for row in rgbe:
        head = data[at : at + 4]
        coded = len(head) == 4 and head[0] == 2 and head[1] == 2 and head[2] < 128
        if coded and _MIN_RLE_WIDTH <= width <= _MAX_RLE_WIDTH:
            if (int(head[2]) << 8 | int(head[3])) != width:
                raise ValueError(f"a row says it has another width than the header's {width}")
            at = _decode_planes(data, at + 4, row)
        else:
            at = _decode_flat(data, at, row)
    return rgbe


def _decode_planes(data: NDArray[np.uint8], at: int, row: NDArray[np.uint8]) -> int:
    """Run-length code by component: a count c above 128 repeats the next byte c - 128 times."""
    width = len(row)
    for component in range(4):
        done = 0
        while done < width:
            if at >= len(data):
                raise ValueError("the file ends inside a row")
            count = int(data[at])
            repeat = count > 128
            count = count - 128 if repeat else count
            piece = data[at + 1 : at + 2] if repeat else data[at + 1 : at + 1 + count]
            if count == 0 or done + count > width or len(piece) < (1 if repeat else count):
                raise ValueError("a run-length code is damaged or cut off")
            row[done : done + count, component] = piece
            at += 1 + len(piece)
            done += count
    return at


def _decode_flat(data: NDArray[np.uint8], at: int, row: NDArray[np.uint8]) -> int:
    piece = data[at : at + row.size]
    if piece.size < row.size:
        raise ValueError(f"the file ends inside a row ({piece.size} of {row.size} bytes)")
    pixels = piece.reshape(row.shape)
    if bool(((pixels[:, :3] == 1).all(axis=1)).any()):
        raise ValueError(
            "the old run-length code (before 1991) is not read; save the picture again"
        )
    row[:] = pixels
    return at + row.size
