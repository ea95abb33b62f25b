"""An image codec as a reference: WebP at a few rates, on the samples that the network is measured
on. Every image has a file of its own, at the highest quality that keeps it within the rate.

WebP is the codec of Pillow that spends least on small grey images, AVIF aside, whose container is
nine times the header here and which not every Pillow has. The rate is that of the file without its
first 30 bytes: by the format's definition (RFC 9649, simple file format; RFC 6386, section 9.1)
the container's chunks and the frame's tag, start code and size, where nothing is said of the
pixels. The tables of probabilities, which a file carries for its own image, are counted.

Images of one channel in bytes, which is what `data.mri.store` holds; masks are 0 and 255. There is
none for two channels, whose files would not know of each other, nor for volumes, of which a codec
of images sees single slices.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from metrics.rate import SCALE_BITS, bins_of, is_rounded
from trainables.api import Reference, Tensors
from trainables.compression.settings import CompressionSettings

HEADER_BYTES = 30
"""RIFF, its size and WEBP (12), the chunk's name and size (8), the frame's tag, start code, width
and height (10).
"""

_QUALITIES = 101
"""Of WebP, 0 to 100."""

_OCTAVES = 2
"""How far below the most that a latent can cost the rates go."""

_REMEMBERED = 256
"""Images, so that those of a batch are encoded once for their pixels and their rate."""

Coded = tuple[bytes, int]
"""(the decoded grey values, the bits of the file without its header)"""


def codec_references(
    settings: CompressionSettings, channels: int, space: tuple[int, ...]
) -> dict[str, Reference]:
    """WebP at each of `rates`; nothing for samples that are no images of one channel, or where
    Pillow was built without it.
    """
    from PIL import features

    if channels != 1 or len(space) != 2 or not features.check("webp"):
        return {}
    return {f"webp_{rate:.3g}bpp": _reference(settings, rate) for rate in rates(settings, space)}


def rates(settings: CompressionSettings, space: tuple[int, ...]) -> list[float]:
    """The rates at which the codec is measured, in bit/px: of 1 and 1.5 times the powers of 2
    those in the two octaves up to `most_bpp`, ascending.
    """
    most = most_bpp(settings, space)
    top = math.floor(math.log2(most))
    every = (step * 2.0**power for power in range(top - _OCTAVES, top + 1) for step in (1.0, 1.5))
    return [rate for rate in every if most / 2.0**_OCTAVES < rate <= most]


def most_bpp(settings: CompressionSettings, space: tuple[int, ...]) -> float:
    """The most that the latent of an image can cost: that of codes of equal frequency, or of
    rounded numbers of variance v = (1 / step)^2 in steps, log2(2 pi e (v + 1/12)) / 2 bits each
    (Cover and Thomas, Elements of Information Theory, theorem 8.6.5 and problem 8.7).
    """
    numbers, pixels = settings.model.latent_shape(space), math.prod(space)
    if not is_rounded(settings):
        return math.prod(numbers[1:]) * math.log2(settings.model.vqvae.codes) / pixels
    variance = settings.metric.rate_step**-2 + 1.0 / 12.0
    bits = 0.5 * math.log2(2.0 * math.pi * math.e * variance)
    return (math.prod(numbers) * bits + SCALE_BITS) / pixels


def _reference(settings: CompressionSettings, rate: float) -> Reference:
    bins = bins_of(settings)

    def predict(batch: Tensors) -> Tensors:
        image = batch["image"]
        values = [
            torch.frombuffer(bytearray(decoded), dtype=torch.uint8)
            for decoded, _ in _coded_images(image, rate)
        ]
        decoded = (torch.stack(values).view(image.shape).to(image.device) / 255.0).to(image.dtype)
        return {"reconstruction": decoded, "quantised_reconstruction": decoded}

    def measure(batch: Tensors) -> Mapping[str, tuple[Tensor, Tensor]]:
        image = batch["image"]
        bits = sum(bits for _, bits in _coded_images(image, rate))
        sums = torch.zeros(bins + 1, dtype=torch.float64)  # no symbols; all bits as they are
        sums[-1] = bits
        return {"rate_bpp": (sums, torch.tensor(image.numel(), dtype=torch.float64))}

    about = (
        f"WebP, each image at the highest quality that costs at most {rate:.3g} bit/px, or at its "
        f"lowest, without the {HEADER_BYTES} bytes of the header"
    )
    return Reference(predict, about, measure, costs=("rate_bpp",))


def _coded_images(image: Tensor, rate: float) -> Iterator[Coded]:
    for pixels in (image[:, 0].float().clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy():
        yield _within(pixels.tobytes(), pixels.shape, math.floor(rate * pixels.size))


@functools.lru_cache(maxsize=_REMEMBERED)
def _within(pixels: bytes, sides: tuple[int, int], most: int) -> Coded:
    """An image at the highest quality that costs at most so many bits, as bisection finds it, or
    at quality 0.
    """
    low, high = 0, _QUALITIES
    best = webp(pixels, sides, low)
    while high - low > 1:
        middle = (low + high) // 2
        file = webp(pixels, sides, middle)
        if bits_of(file) <= most:
            low, best = middle, file
        else:
            high = middle
    return decoded(best), bits_of(best)


def webp(pixels: bytes, sides: tuple[int, int], quality: int) -> bytes:
    """The file of an image of grey values, row by row."""
    from PIL import Image

    file = io.BytesIO()
    grey = Image.frombytes("L", sides[::-1], pixels)
    grey.save(file, "WEBP", quality=quality, method=6)
    return file.getvalue()


def bits_of(file: bytes) -> int:
    """What a WebP file costs without its header."""
    size = int.from_bytes(file[16:20], "little")
    if file[:4] != b"RIFF" or file[8:16] != b"WEBPVP8 " or len(file) != 20 + size + size % 2:
        raise ValueError(f"a WebP file of one lossy image is expected, not {file[:20]!r}")
    return 8 * (size - (HEADER_BYTES - 20))


def decoded(file: bytes) -> bytes:
    """The grey values of a file, row by row."""
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return image.convert("L").tobytes()
