"""Latents or images of several styles in memory, by split, before they are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data.files import DataError, Float32
from data.style.settings import DataSettings

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class StyleSet:
    """One split.

    Attributes:
        values: [N, C, H, W]
        styles: the number of each one's style.
        units: the image or file that each is of.
    """

    values: Float32
    styles: Sequence[int]
    units: Sequence[str]


@dataclass(frozen=True)
class StyleSets:
    """All splits, and what is known of them.

    Attributes:
        place: where they are from, in words.
        names: of the styles.
        facts: for the index: scale and source of latents.
    """

    place: str
    names: Sequence[str]
    splits: Mapping[str, StyleSet]
    facts: Mapping[str, str | float] = field(default_factory=dict)


def described(sets: StyleSets) -> str:
    """Styles, counts and the shape: `photo 256/32/32, ihc 256/32/32 of [3, 64, 64]`."""
    counts = {split: Counter(found.styles) for split, found in sets.splits.items()}
    styles = (
        f"{name} {'/'.join(str(counts[split][number]) for split in SPLITS)}"
        for number, name in enumerate(sets.names)
    )
    return f"{', '.join(styles)} of {list(sets.splits['train'].values.shape[1:])}"


def check_counts(
    place: str,
    names: Sequence[str],
    styles: Mapping[str, Sequence[int]],
    settings: DataSettings,
) -> None:
    """Refuses what no sample can be made of: `styles` has those of each split.

    Raises:
        DataError: one style only, an unknown content, a split of a style that is too small.
    """
    if len(names) < 2:
        raise DataError(
            f"{place}: expected 2 styles or more, since a style is transferred to another, "
            f"found {', '.join(names) or 'none'} only. Add a folder for each."
        )
    if settings.content and settings.content not in names:
        raise DataError(
            f"{place}: data.content={settings.content} is none of the styles, which are "
            f"{', '.join(names)}. Name one, or leave it empty."
        )
    needed = settings.references + 1
    for split in SPLITS if settings.test_share else SPLITS[:2]:
        counts = Counter(styles[split])
        short = {
            name: counts[number] for number, name in enumerate(names) if counts[number] < needed
        }
        if short:
            named = ", ".join(f"{name} has {count}" for name, count in list(short.items())[:5])
            raise DataError(
                f"{place}: expected {needed} latents or more of each style in {split}, "
                f"data.references={settings.references} beside the one that is transferred; "
                f"{named}. Add some, lower data.references, or raise the share of the split."
            )
