"""Text, from its settings to the windows of a trial: read and cut into tokens once.

A split is one array, s d_1 s d_2 s ... d_n s, with the separator s around every document: what
stands before a document tells its first token, and nothing of another document does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.cache import cached_by, file_states, shaping
from data.files import DataError
from data.split import random_split, take_test
from data.text.settings import DataSettings
from data.text.sources import Document, Reading, find_files, named, read, version
from data.text.tokens import CONFIG, FILE, Tokenizer, open_tokenizer
from data.text.windows import TextWindows
from settings.words import counted

_FORMAT = 2
"""Version of the stored files; part of their name."""

_OPEN_ONLY = ("window", "validation_windows")
"""Settings that are applied on reading and do not change the stored files."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Prepared:
    """The place of the tokens; small and picklable.

    Attributes:
        folder: holds <split>.npy, uint16 or uint32.
        vocabulary: its size.
        separator: the token around documents.
        starts: of each split, where the separator before each document stands, and at the end the
            last separator of all.
        names: of each split, of its documents.
        invalid: names of documents with bytes that are no UTF-8.
        empty, repeated: names of those left out, for there is nothing in them, or for they stand
            in another one.
    """

    folder: str
    vocabulary: int
    separator: int
    starts: Mapping[str, Sequence[int]]
    names: Mapping[str, Sequence[str]]
    invalid: Sequence[str]
    empty: Sequence[str]
    repeated: Sequence[str]


def prepare(settings: DataSettings, cache: Path) -> Prepared:
    """Reads and splits the documents once, or finds their tokens in the cache.

    Raises:
        DataError: what `read` and `open_tokenizer` refuse, or too few documents for a split.
    """
    files = find_files(Path(settings.path).expanduser()) if settings.path else []
    folder = Path(settings.tokenizer).expanduser()
    vocabulary = [folder / FILE, folder / CONFIG] if settings.tokenizer else []

    def make(scratch: Path) -> dict[str, Any]:
        tokenizer, reading = open_tokenizer(settings.tokenizer), read(settings)
        starts, names = {}, {}
        for split, documents in split_documents(reading, settings).items():
            stream, starts[split] = tokens_of(documents, tokenizer)
            np.save(scratch / f"{split}.npy", stream)
            names[split] = [document.name for document in documents]
        return {
            "vocabulary": tokenizer.size,
            "separator": tokenizer.separator,
            "starts": starts,
            "names": names,
            "invalid": reading.invalid,
            "empty": reading.empty,
            "repeated": reading.repeated,
        }

    states = file_states([*files, *vocabulary])
    key = _FORMAT, shaping(settings, _OPEN_ONLY), states, version(settings)
    place, index = cached_by(cache, "text", key, make)
    return Prepared(folder=str(place), **index)


def split_documents(reading: Reading, settings: DataSettings) -> dict[str, list[Document]]:
    """Train, validation and test by document; a single one is cut into its beginning, its middle
    and its end, and each is a document of its own.

    Raises:
        DataError: there are 2, and a test is wanted as well, say.
    """
    documents = reading.documents
    if len(documents) == 1:
        return _cut(documents[0], settings)
    train, validation = random_split(
        len(documents), settings.validation_share, settings.seed, settings.fold
    )
    if (settings.fold + 1) * len(validation) > len(documents):
        raise DataError(
            f"{reading.place}: data.fold={settings.fold} asks for other "
            f"{counted(len(validation), 'document')} than the folds before it, and there are "
            f"{len(documents)}. Lower data.fold or data.validation_share."
        )
    try:
        train, test = take_test(
            reading.place, train, len(documents), settings.test_share, settings.seed
        )
    except ValueError as error:
        raise DataError(str(error)) from error
    rows = zip(SPLITS, (train, validation, test), strict=True)
    return {split: [documents[row] for row in chosen] for split, chosen in rows}


def _cut(document: Document, settings: DataSettings) -> dict[str, list[Document]]:
    if settings.fold:
        raise DataError(
            f"{document.name}: data.fold={settings.fold} turns a list of documents, and this one "
            "is alone and cut at its end. Set data.fold=0, or add documents."
        )
    length = len(document.text)
    test = length - round(settings.test_share * length)
    validation = test - max(1, round(settings.validation_share * length))
    if validation < 1:
        raise DataError(
            f"{document.name}: expected a text that can be split, found "
            f"{counted(length, 'character')}. Add text, or lower data.validation_share and "
            "data.test_share."
        )
    ends = {"train": (0, validation), "validation": (validation, test), "test": (test, length)}
    return {
        split: [Document(f"{document.name} [{a}, {b})", document.text[a:b])] if a < b else []
        for split, (a, b) in ends.items()
    }


def tokens_of(
    documents: Sequence[Document], tokenizer: Tokenizer
) -> tuple[NDArray[np.unsignedinteger[Any]], list[int]]:
    """All documents as one array with the separator around each, and the place of every separator
    before a document, with the last one of all at the end.
    """
    parts, starts, place = [np.array([tokenizer.separator])], [0], 0
    for document in documents:
        tokens = tokenizer.encode(document.text)
        parts += [tokens, np.array([tokenizer.separator])]
        place += len(tokens) + 1
        starts.append(place)
    kind = np.uint16 if tokenizer.size <= 1 << 16 else np.uint32
    return np.concatenate(parts).astype(kind), starts


def open_split(prepared: Prepared, split: str, settings: DataSettings) -> TextWindows:
    if split not in SPLITS:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}, not {split!r}")
    return TextWindows(
        Path(prepared.folder) / f"{split}.npy",
        prepared.starts[split],
        prepared.names[split],
        settings.window,
        prepared.separator,
        most=settings.validation_windows if split == "validation" else 0,
    )


def notes(prepared: Prepared, settings: DataSettings) -> dict[str, float]:
    """Counts of the data, for a trial's first report."""
    counts = {
        "data.invalid_utf8": len(prepared.invalid),
        "data.empty": len(prepared.empty),
        "data.repeated": len(prepared.repeated),
    }
    for split in SPLITS:
        lengths = np.diff(prepared.starts[split])
        counts[f"data.{split}_documents"] = len(lengths)
        counts[f"data.{split}_tokens"] = int(lengths.sum())
        counts[f"data.{split}_padded"] = int((lengths + 1 < settings.window).sum())
    return {name: float(count) for name, count in counts.items()}


def warnings(prepared: Prepared, settings: DataSettings) -> list[str]:
    """What was not as expected, in words."""
    short = [
        name
        for split in SPLITS
        for name, length in zip(
            prepared.names[split], np.diff(prepared.starts[split]), strict=True
        )
        if length + 1 < settings.window
    ]
    said = [
        (prepared.invalid, "with bytes that are no UTF-8, which became U+FFFD"),
        (prepared.empty, "without text, left out"),
        (short, f"shorter than a window of {settings.window} tokens, padded"),
    ]
    return [
        f"{counted(len(names), 'document')} {what}: {named(names)}"
        for names, what in said
        if names
    ]
