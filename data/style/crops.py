"""Crops of the images inside scikit-image: photographs, and six styles to give them.

Of each image the left part is for training, the next strip for validation and the last for a
test, so that no pixel is in two splits. scikit-image itself is not imported: its loaders fetch
from the network what its wheel lacks, and it has these.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from data.files import DataError, Float32
from data.style.sets import SPLITS, StyleSet, StyleSets
from data.style.settings import DataSettings
from settings.schema import SettingsError

IMAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "photo": ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg"),
        "retina": ("retina.jpg",),
        "ihc": ("ihc.png",),
        "hubble": ("hubble_deep_field.jpg",),
        "brick": ("brick.png",),
        "grass": ("grass.png",),
        "gravel": ("gravel.png",),
    }
)
"""Style -> its images. The last three are grey: colour alone must not tell styles apart, so
`data.grey` takes it from all.
"""

_WINDOWS = {"retina.jpg": (206, 206, 1205, 1205)}
"""Left, upper, right, lower: the square inside the disc, around which the image is black."""

_REDUCED = {"retina.jpg": 2}
"""Averaged over squares of so many pixels, else a crop has no more than one vessel."""


def read_crops(settings: DataSettings) -> StyleSets:
    """RGB crops [3, S, S] in [-1, 1] of every style and split."""
    found: dict[str, list[tuple[Float32, int, str]]] = {split: [] for split in SPLITS}
    folder = images_folder()
    for style, names in enumerate(IMAGES.values()):
        pixels = {name: read_image(folder / name, settings.grey) for name in names}
        for split in SPLITS:
            places = [
                (name, y, x)
                for name, image in pixels.items()
                for y, x in corners(image.shape[1], image.shape[2], split, settings)
            ]
            most = settings.crops if split == "train" else settings.held_out_crops
            kept = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
            side = settings.crop
            for name, y, x in (places[place] for place in kept):
                crop = pixels[name][:, y : y + side, x : x + side]
                found[split].append((crop, style, name.partition(".")[0]))
    splits = {
        split: StyleSet(
            np.stack([c for c, _, _ in of]) if of else np.empty((0, 3, side, side), np.float32),
            [style for _, style, _ in of],
            [unit for _, _, unit in of],
        )
        for split, of in found.items()
    }
    return StyleSets("the images of scikit-image", list(IMAGES), splits)


def strips(width: int, settings: DataSettings) -> dict[str, tuple[int, int]]:
    """First column and last + 1 of each split: those of validation and test have their share of
    the width, and at least the side of a crop.

    Raises:
        SettingsError: they leave less than a crop for training.
    """
    crop = settings.crop
    shares = (settings.validation_share, settings.test_share)
    held_out = [max(crop, round(share * width)) if share else 0 for share in shares]
    train = width - sum(held_out)
    if train < crop:
        raise SettingsError(
            f"data.crop={crop} leaves {train} of {width} columns of an image for training, less "
            "than a crop. Lower data.crop, data.validation_share or data.test_share."
        )
    ends = np.cumsum([0, train, *held_out]).tolist()
    return dict(zip(SPLITS, itertools.pairwise(ends), strict=True))


def corners(
    height: int, width: int, split: str, settings: DataSettings
) -> Iterator[tuple[int, int]]:
    """(y, x) of the crops of a split, in reading order."""
    first, end = strips(width, settings)[split]
    for y in range(0, height - settings.crop + 1, settings.stride):
        for x in range(first, end - settings.crop + 1, settings.stride):
            yield y, x


def read_image(path: Path, grey: bool = False) -> Float32:
    """[3, H, W] in [-1, 1]; with `grey` three times its luma by ITU-R 601."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("L").convert("RGB") if grey else file.convert("RGB")
    if path.name in _WINDOWS:
        image = image.crop(_WINDOWS[path.name])
    if path.name in _REDUCED:
        image = image.reduce(_REDUCED[path.name])
    pixels = np.asarray(image, np.float32) / np.float32(127.5) - np.float32(1.0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def images_folder() -> Path:
    """The folder of the images in the package.

    Raises:
        DataError: it is not installed, or lacks some.
    """
    spec = importlib.util.find_spec("skimage")
    remedy = "`pip install 'scikit-image>=0.22,<0.27'`"
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "data.source=embedded cuts the images inside the package scikit-image, which is not "
            f"installed: {remedy}. Or set data.source=fields, or folder with latents of yours."
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    missing = [n for names in IMAGES.values() for n in names if not (folder / n).is_file()]
    if missing:
        raise DataError(
            f"{folder}: expected the images that scikit-image 0.22 to 0.26 have, found no "
            f"{', '.join(missing)}: {remedy}."
        )
    return folder
