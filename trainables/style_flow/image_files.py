"""Images that a user gives to a trained flow, and those that come out of it.

Shapes: B images [B, 3, H, W] in [-1, 1]; latents [B, c, h, w].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.files import DataError
from data.image_folder import SUFFIXES, find_images
from data.style.images import from_unit, to_unit
from trainables.api import Modules
from trainables.drawing import rows, write_png
from trainables.style_flow.codec import ImageCodec


def codec_of(modules: Modules) -> ImageCodec | None:
    """None of a training on latents."""
    codec = modules.get("codec")
    return codec if isinstance(codec, ImageCodec) else None


def read_images(source: Path, divisor: int) -> list[Tensor]:
    """An image, or those of a folder in the order of their names, [3, H, W] each; of sides that
    are no multiples of `divisor` the middle.

    Raises:
        DataError: there is none, one cannot be read, is too small, or has another size.
    """
    if not source.is_dir() and source.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{source}: expected an image ({', '.join(SUFFIXES)}) or a folder of images, for this "
            "network was trained on images. Convert it."
        )
    images: list[Tensor] = []
    for path in find_images(source)[0] if source.is_dir() else [source]:
        image = _middle(_read(path), divisor)
        if not image.numel():
            raise DataError(
                f"{path}: expected an image of {divisor} pixels a side or more, found less. "
                "Enlarge it."
            )
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{path}: expected images of one size in a folder, found {list(image.shape[1:])} "
                f"after {list(images[0].shape[1:])}. Give them one by one, or bring them to one "
                "size."
            )
        images.append(image)
    return images


def _read(path: Path) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"), np.float32)
    except OSError as error:
        raise DataError(
            f"{path}: expected an image, found what cannot be read ({error}). Save it anew, or "
            "take it out of the folder."
        ) from error
    return from_unit(torch.from_numpy(pixels / np.float32(255.0)).movedim(2, 0))


def _middle(image: Tensor, divisor: int) -> Tensor:
    height, width = (side // divisor * divisor for side in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def draw_images(
    codec: ImageCodec,
    content: Tensor,
    latents: Tensor,
    style: int,
    indices: Sequence[int],
    folder: Path,
) -> Tensor:
    """Writes `<index>.png` of every latent, and returns rows of the contents, of a training crop
    of the style as the autoencoder has it, and of the results: [3, 3 H, n W] in [0, 1].
    """
    results = to_unit(codec.decode(latents)).cpu()
    for index, image in zip(indices, results, strict=True):
        write_png(folder / f"{index:06d}.png", image)
    example = to_unit(codec.decode(codec.examples[style, None]))
    size = (results.shape[2], results.shape[3])
    shown = F.interpolate(example, size, mode="bilinear", antialias=True).cpu()
    return rows(to_unit(content).cpu(), shown.expand(len(results), -1, -1, -1), results)
