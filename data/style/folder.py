"""A folder of latents, `<root>/<style>/*`: what is read, refused and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import DataError, Float32, natural_key
from data.split import random_split, take_test
from data.style.files import FACTS_FILE, SUFFIXES, Facts, read_facts, read_latent
from data.style.sets import SPLITS, StyleSet, StyleSets
from data.style.settings import DataSettings
from settings.words import counted

STD_RANGE = (0.5, 2.0)
"""Of the latents of a style; outside, they were scaled twice or not at all (002-M22)."""

NAMED_FILES = 5  # how many bad files an error names


@dataclass(frozen=True)
class Stored:
    """The latents of one style: files in natural order, values [N, C, H, W] as stored."""

    files: Sequence[Path]
    values: Float32


def find_styles(root: Path) -> dict[str, list[Path]]:
    """The files of each style, in natural order; names that begin with a dot are no files of the
    user.

    Raises:
        DataError: no such folder, or a file that is no latent.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with a folder for each style, found none.")
    places = sorted((p for p in root.iterdir() if p.name[0] != "."), key=_by_name)
    strangers = [p for p in places if p.is_file() and p.name != FACTS_FILE]
    styles = {}
    for folder in (p for p in places if p.is_dir()):
        files = sorted((p for p in folder.iterdir() if p.name[0] != "."), key=_by_name)
        strangers += [p for p in files if p.suffix not in SUFFIXES or not p.is_file()]
        styles[folder.name] = files
    if strangers:
        raise DataError(
            f"{root}: expected folders of latents ({', '.join(SUFFIXES)}) alone, found "
            f"{_named(strangers)}. Move them elsewhere, or convert them."
        )
    empty = [name for name, files in styles.items() if not files]
    if empty:
        raise DataError(f"{root}: expected latents in each folder, found none in {empty[0]}.")
    return styles


def read_folder(settings: DataSettings) -> StyleSets:
    """All latents, split by file: the same files for the same seed.

    Raises:
        DataError: see `find_styles`, `read_latent` and what is checked here: shapes, numbers that
            are not finite, scale, deviation.
    """
    root = Path(settings.root).expanduser()
    found = find_styles(root)
    if len(found) < 2:  # before anything is read
        raise DataError(
            f"{root}: expected 2 styles or more, since a style is transferred to another, found "
            f"{', '.join(found) or 'none'} only. Add a folder for each."
        )
    values: dict[Path, Float32] = {}
    said: dict[Path, Facts] = {}
    for path in (path for files in found.values() for path in files):
        values[path], said[path] = read_latent(path)
    _check_values(root, values)
    facts = agreed_facts(root, said, settings)
    _check_deviation(root, found, values, facts, settings.multiply)
    factor = np.float32(settings.multiply)
    styles = {
        name: Stored(files, np.stack([values[path] for path in files]) * factor)
        for name, files in found.items()
    }
    return StyleSets(
        str(root), list(styles), _split(root, styles, settings), _as_read(facts, settings)
    )


def agreed_facts(root: Path, said: Mapping[Path, Facts], settings: DataSettings) -> Facts:
    """Scale and source: the settings', else the file's own, else those of the folder; all files
    must agree.

    Raises:
        DataError: they are not known, or differ.
    """
    common = read_facts(root)
    scales = Counter(said[p].scale if said[p].scale is not None else common.scale for p in said)
    sources = Counter(said[p].source or common.source for p in said)
    if settings.scale:
        known = {scale for scale in scales if scale is not None}
        if known - {settings.scale}:
            raise DataError(
                f"{root}: data.scale={settings.scale:g}, but the files say "
                f"{', '.join(f'{scale:g}' for scale in sorted(known))}. Leave it at 0, or mend "
                "the files."
            )
        scales = Counter([settings.scale])
    sources = Counter([settings.latent_source]) if settings.latent_source else sources
    if len(scales) > 1 or len(sources) > 1:
        kinds = [
            *(f"scale {s or 'unknown'}" for s in scales),
            *(f"source {s or 'unknown'}" for s in sources),
        ]
        raise DataError(
            f"{root}: expected latents of one autoencoder and one scale, found "
            f"{', '.join(kinds)}. Encode them anew, or put them into folders of their own."
        )
    facts = Facts(next(iter(scales)), next(iter(sources)))
    if facts.scale is None or not facts.source:
        raise DataError(
            f"{root}: expected the scale of the latents and their autoencoder, without which none "
            f"is decoded, found neither the one nor the other in the files and {FACTS_FILE}. Set "
            "data.scale (0.18215 for Stable Diffusion's, 1 for numbers as encoded) and "
            "data.latent_source."
        )
    return facts


def _check_values(root: Path, values: Mapping[Path, Float32]) -> None:
    shapes = Counter(array.shape for array in values.values())
    if len(shapes) > 1:
        usual = shapes.most_common(1)[0][0]
        odd = [path for path, array in values.items() if array.shape != usual]
        listed = ", ".join(f"{list(s)} in {counted(n, 'file')}" for s, n in shapes.most_common())
        raise DataError(
            f"{root}: expected latents of one shape, found {listed}: {_named(odd)}. Encode images "
            "of one size."
        )
    bad = [path for path, array in values.items() if not np.isfinite(array).all()]
    if bad:
        raise DataError(
            f"{root}: expected finite numbers, found NaN or infinity in "
            f"{counted(len(bad), 'file')}: {_named(bad)}. Encode them anew, in float32, "
            "or take them out."
        )


def _check_deviation(
    root: Path,
    found: Mapping[str, Sequence[Path]],
    values: Mapping[Path, Float32],
    facts: Facts,
    multiply: float,
) -> None:
    """Refuses latents that were scaled twice, or not at all."""
    scale = facts.scale if facts.scale is not None else 1.0
    if multiply != 1.0 and scale != 1.0 and np.isclose(multiply, scale, rtol=1e-2):
        raise DataError(
            f"{root}: data.multiply={multiply:g} would scale the latents twice: their numbers are "
            f"multiplied by {scale:g} already. Set data.multiply=1."
        )
    low, high = STD_RANGE
    for name, files in found.items():
        std = float(np.std(np.stack([values[path] for path in files]), dtype=np.float64))
        if not low <= std * multiply <= high:
            what = f"{std * multiply:.3g}"
            if std == 0.0:
                raise DataError(f"{root}: all latents of {name} are the same number.")
            twice = scale != 1.0 and np.isclose(std * multiply, scale, rtol=0.3)
            why = f", as of latents that were scaled by {scale:g} twice" if twice else ""
            raise DataError(
                f"{root}: expected latents with a standard deviation of {low:g} to {high:g}, "
                f"found {what} in {name}{why}. data.multiply={1.0 / std:.3g} brings it to 1."
            )


def _split(
    root: Path, styles: Mapping[str, Stored], settings: DataSettings
) -> dict[str, StyleSet]:
    """Each style by itself; styles with as many files, in pairs, are split alike."""
    parts: dict[str, list[tuple[Float32, int, str]]] = {split: [] for split in SPLITS}
    for number, (name, stored) in enumerate(styles.items()):
        count = len(stored.files)
        if count < 2:
            raise DataError(
                f"{root}: expected latents of {name} for training and for validation, found "
                f"{counted(count, 'file')}. Add some."
            )
        train, validation = random_split(count, settings.validation_share, settings.seed)
        train, test = take_test(f"{root}/{name}", train, count, settings.test_share, settings.seed)
        for split, rows in zip(SPLITS, (train, validation, test), strict=True):
            parts[split] += [
                (stored.values[row], number, f"{name}/{stored.files[row].name}") for row in rows
            ]
    shape = next(iter(styles.values())).values.shape[1:]
    return {
        split: StyleSet(
            np.stack([array for array, _, _ in found]) if found else np.empty((0, *shape), "f4"),
            [style for _, style, _ in found],
            [unit for _, _, unit in found],
        )
        for split, found in parts.items()
    }


def _as_read(facts: Facts, settings: DataSettings) -> dict[str, str | float]:
    """Of the numbers after `data.multiply`."""
    scale = (facts.scale if facts.scale is not None else 1.0) * settings.multiply
    return {"scale": scale, "source": facts.source}


def _by_name(path: Path) -> tuple[list[str | int], str]:
    return natural_key(path.name)


def _named(paths: Sequence[Path]) -> str:
    names = [f"{path.parent.name}/{path.name}" for path in paths[:NAMED_FILES]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
