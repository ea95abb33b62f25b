"""The data of a style transfer, from its settings to the samples of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.cache import cached_by, file_states, shaping
from data.style.crops import read_crops
from data.style.fields import draw_fields
from data.style.files import FACTS_FILE
from data.style.folder import find_styles, read_folder
from data.style.samples import StyleSamples
from data.style.sets import SPLITS, check_counts, described
from data.style.settings import DataSettings, PairSettings

_FORMAT = 1
"""Version of the stored files; part of their name."""

_OPEN_ONLY = ("validation_samples", "content", "references")
"""Settings that are applied on reading and do not change the stored files."""


@dataclass(frozen=True)
class Prepared:
    """The place of the latents, or of images that an autoencoder is to encode; small and
    picklable.

    Attributes:
        folder: holds <split>.npy and index.json.
        names: of the styles.
        shape: [C, H, W] of each.
        styles, units: of each latent of a split.
        scale, source: of the latents, as `data.style.files.Facts`; 1 and "" of images.
        are_images: RGB in [-1, 1], and no latents.
        described: styles, counts and shape, in words.
    """

    folder: str
    names: Sequence[str]
    shape: Sequence[int]
    styles: Mapping[str, Sequence[int]]
    units: Mapping[str, Sequence[str]]
    scale: float
    source: str
    are_images: bool
    described: str


def prepare(settings: DataSettings, cache: Path) -> Prepared:
    """Reads, checks and splits the latents once, or finds them in the cache. The index names every
    file of every split.

    Raises:
        DataError: what `read_folder` and `check_counts` refuse.
    """
    states = []
    if settings.source == "folder":
        root = Path(settings.root).expanduser()
        files = [path for of in find_styles(root).values() for path in of]
        states = file_states([root / FACTS_FILE, *files])

    def make(scratch: Path) -> dict[str, Any]:
        read = {"folder": read_folder, "embedded": read_crops, "fields": draw_fields}
        sets = read[settings.source](settings)
        for split, found in sets.splits.items():
            np.save(scratch / f"{split}.npy", found.values)
        return {
            "format": _FORMAT,
            "place": sets.place,
            "names": list(sets.names),
            "shape": list(sets.splits["train"].values.shape[1:]),
            "styles": {split: list(found.styles) for split, found in sets.splits.items()},
            "units": {split: list(found.units) for split, found in sets.splits.items()},
            "scale": sets.facts.get("scale", 1.0),
            "source": sets.facts.get("source", ""),
            "described": described(sets),
        }

    shapes = settings.of_crops if settings.source == "embedded" else settings
    key = _FORMAT, settings.source, shaping(shapes, _OPEN_ONLY), states
    folder, index = cached_by(cache, "style", key, make)
    check_counts(index["place"], index["names"], index["styles"], settings)
    made = {name: value for name, value in index.items() if name not in ("format", "place")}
    return Prepared(folder=str(folder), are_images=settings.source == "embedded", **made)


def open_split(
    prepared: Prepared, split: str, settings: DataSettings, drawn: PairSettings | None = None
) -> StyleSamples:
    """`train` by latents or pairs, as `pairs.target_by` says; the others by pairs of every latent
    and every other style, so that their targets never change.

    Args:
        drawn: what a training sample gets; None for the defaults.
    """
    if split not in SPLITS:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}, not {split!r}")
    drawn = PairSettings() if drawn is None else drawn
    return StyleSamples(
        Path(prepared.folder) / f"{split}.npy",
        prepared.styles[split],
        prepared.units[split],
        list(prepared.names),
        settings,
        drawn,
        pairs=split != "train" or drawn.target_by == "pair",
        most=settings.validation_samples if split == "validation" else 0,
    )
