"""A folder of images as one array: their order, their size, and what makes one unusable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.files import DataError, natural_key
from settings.words import counted

if TYPE_CHECKING:
    from PIL import Image

ByteArray = NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg")

NAMED_FILES = 5  # how many bad files an error names

_LIGHT = 128  # mean grey of the border above which a background is no longer black


@dataclass(frozen=True)
class ImageRules:
    """How a picture becomes an image [S, S] of bytes.

    Attributes:
        side: S.
        fit: of a picture that is not square: `refuse`, `stretch`, or `pad` with black.
        invert: black becomes white first, for pictures with a light background.
        binarize_at: grey values above become 255, the others 0, after resizing; 0 keeps them.
        trained: whether these are the rules of a training that is over: its network is applied to
            images that have no targets, and only the images can change.
    """

    side: int
    fit: str = "refuse"
    invert: bool = False
    binarize_at: int = 0
    trained: bool = False


@dataclass
class ImageCounts:
    """What was found and changed in a folder of images."""

    other_files: int = 0
    resized: int = 0
    not_square: int = 0
    with_transparency: int = 0
    blank: int = 0
    light_border: int = 0


def find_images(folder: Path) -> tuple[list[Path], int]:
    """The images of a folder in natural order, which alone links them to their targets, and how
    many other files there are. Names that begin with a dot are no files of the user.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found no such folder.")
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        raise DataError(
            f"{folder}: expected images ({', '.join(SUFFIXES)}), found none among {len(files)} "
            "files."
        )
    images.sort(key=lambda path: natural_key(path.name))
    return images, len(files) - len(images)


def write_images(images: Sequence[Path], rules: ImageRules, path: Path) -> ImageCounts:
    """All images as one .npy file [P, 1, S, S] of bytes.

    Raises:
        DataError: images that cannot be read or are not square, with the names of the first.
    """
    counts, bad = ImageCounts(), []
    shape = (len(images), 1, rules.side, rules.side)
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for row, file in enumerate(images):
        try:
            stored[row, 0] = read_image(file, rules, counts)
        except DataError as error:
            bad.append(str(error))
    if bad:
        named = "".join(f"\n  {text}" for text in bad[:NAMED_FILES])
        way_out = (
            "mend them, or take them out of the folder"
            if rules.trained
            else "each belongs to a target: mend them, or leave out both"
        )
        raise DataError(
            f"{images[0].parent}: {len(bad)} of {counted(len(images), 'image')} cannot be used; "
            f"{way_out}. The first:{named}"
        )
    stored.flush()
    return counts


def read_image(path: Path, rules: ImageRules, counts: ImageCounts) -> ByteArray:
    """One image [S, S]: turned as its EXIF says, transparency over black, greyscale by ITU-R 601,
    16-bit values divided by 257, then resized by Pillow's bicubic filter, which unlike OpenCV's
    averages when it makes an image smaller.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            file.load()
            grey = _grey(ImageOps.exif_transpose(file), counts)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected a PNG or JPEG image, found {path.stat().st_size} bytes that cannot "
            f"be read ({error})."
        ) from error
    if rules.invert:
        grey = ImageOps.invert(grey)
    width, height = grey.size
    if width != height:
        grey = _squared(path, grey, rules, counts)
    if grey.size != (rules.side, rules.side):
        grey = grey.resize((rules.side, rules.side), Image.Resampling.BICUBIC)
        counts.resized += 1
    pixels = np.array(grey)
    if rules.binarize_at:
        pixels = np.where(pixels > rules.binarize_at, 255, 0).astype(np.uint8)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    counts.light_border += int(border.mean() > _LIGHT)
    counts.blank += int(pixels.min() == pixels.max())
    return pixels


def _grey(image: Image.Image, counts: ImageCounts) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        return Image.fromarray(np.round(np.array(image) / 257.0).astype(np.uint8))
    if image.has_transparency_data:
        counts.with_transparency += 1
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("L")


def _squared(
    path: Path, grey: Image.Image, rules: ImageRules, counts: ImageCounts
) -> Image.Image:
    from PIL import ImageOps

    counts.not_square += 1
    width, height = grey.size
    if rules.fit == "pad":
        side = max(width, height)
        return ImageOps.pad(grey, (side, side), color=0)
    if rules.fit == "stretch":
        return grey  # by the resizing that follows
    way_out = (
        "The network was trained on square images alone (data.fit=refuse): pad or crop it to a "
        "square."
        if rules.trained
        else "Say what to do with it: data.fit=pad or data.fit=stretch."
    )
    raise DataError(f"{path}: expected a square image, found {width}x{height} pixels. {way_out}")
