"""Crops of the images inside scikit-image: photographs, and six styles to give them.

Each image is cut into strips, two of them for validation and for a test and those around them for
training: no pixel is in two splits, and each split has some of all that an image shows (of `ihc`
the right edge is another tissue than the rest). scikit-image itself is not imported: its loaders
fetch from the network what its wheel lacks, and it has these.
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
from data.style.settings import CropSettings
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


def read_crops(settings: CropSettings) -> StyleSets:
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


def strips(length: int, settings: CropSettings) -> dict[str, list[tuple[int, int]]]:
    """First row or column and last + 1 of the strips of each split along an image. Validation and
    test have one each, of their share of the length and at least the side of a crop; training has
    what lies before, between and behind them, where that is enough for crops.

    Raises:
        SettingsError: less than a crop is left for training.
    """
    crop = settings.crop
    validation, test = (
        max(crop, round(share * length)) if share else 0
        for share in (settings.validation_share, settings.test_share)
    )
    train = length - validation - test
    parts = min(3, train // crop)
    if parts < 1:
        raise SettingsError(
            f"data.crop={crop} leaves {train} of {length} pixels along an image for training, "
            "less than a crop. Lower data.crop, data.validation_share or data.test_share."
        )
    cuts = [train * part // parts for part in range(parts + 1)]
    lengths = [(SPLITS[0], end - first) for first, end in itertools.pairwise(cuts)]
    lengths.insert(1, (SPLITS[1], validation))
    lengths.insert(3, (SPLITS[2], test))
    ends = [0, *itertools.accumulate(size for _, size in lengths)]
    found: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    for (split, _), place in zip(lengths, itertools.pairwise(ends), strict=True):
        found[split].append(place)
    return found


def corners(
    height: int, width: int, split: str, settings: CropSettings
) -> Iterator[tuple[int, int]]:
    """(y, x) of the crops of a split; the strips lie along the longer side, rows if both are
    equal.
    """
    step, reach = settings.stride, settings.crop
    for first, end in strips(max(height, width), settings)[split]:
        for along in range(first, end - reach + 1, step):
            for across in range(0, min(height, width) - reach + 1, step):
                yield (along, across) if height >= width else (across, along)


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
