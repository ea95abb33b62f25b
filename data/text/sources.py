"""Documents: of Python's own manual, or of a user's files."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.files import DataError, natural_key
from data.text.settings import DataSettings
from settings.words import counted

PARQUET, JSON_LINES = (".parquet", ".pq"), (".jsonl", ".ndjson")

NAMED = 5
"""How many documents a warning names."""


_TELLING = 20
"""Characters of a line that is not alike in many texts by chance."""


@dataclass(frozen=True)
class Document:
    """A text that belongs together: the unit of splits and of claims."""

    name: str
    text: str


@dataclass
class Reading:
    """What was read, and what was not as expected, by name.

    Attributes:
        invalid: documents with bytes that are no UTF-8, each of which became U+FFFD.
        empty: documents without a character but white space, which are left out.
        repeated: topics that stand in another one, which are left out.
    """

    place: str
    documents: list[Document] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def add(self, name: str, text: str) -> None:
        if text.strip():
            self.documents.append(Document(name, text))
        else:
            self.empty.append(name)

    def decode(self, name: str, content: bytes) -> str:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            self.invalid.append(name)
            return content.decode("utf-8", errors="replace")


def read(settings: DataSettings) -> Reading:
    """All documents, in natural order of their names.

    Raises:
        DataError: there is no text.
    """
    reading = _read_topics() if settings.source == "topics" else _read_files(settings)
    if not reading.documents:
        raise DataError(
            f"{reading.place}: expected text, found "
            f"{counted(len(reading.empty), 'empty document')} and no other. Put .txt, .parquet or "
            ".jsonl files there."
        )
    return reading


def find_files(path: Path) -> list[Path]:
    """The file, or the files of the folder and those below it; names that begin with a dot are
    no files of the user.

    Raises:
        DataError: there is no such place.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: expected a file or a folder of texts, found nothing.")
    files = (p for p in path.rglob("*") if p.is_file())
    shown = [p for p in files if not any(n[0] == "." for n in p.relative_to(path).parts)]
    return sorted(shown, key=lambda p: natural_key(str(p.relative_to(path))))


def version(settings: DataSettings) -> str:
    """What embedded documents change with: their text is of the Python that runs."""
    return sys.version if settings.source == "topics" else ""


def _read_topics() -> Reading:
    """What `help("while")` prints, by topic: 79 topics and 466 KB of English in Python 3.11, some
    more or fewer in others. Those that stand in another one (`while` in `compound`) are left out,
    for they would be on both sides of a split: 57 topics and 373 KB are read.
    """
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    reading = Reading("pydoc_data.topics", repeated=repeated(topics))
    for name in sorted(topics.keys() - reading.repeated):
        reading.add(name, topics[name])
    return reading


def repeated(texts: Mapping[str, str]) -> list[str]:
    """The names of texts that stand in a longer one: half of their lines or more do, of those
    that say something.
    """
    lines = {
        name: {line.strip() for line in text.splitlines() if len(line.strip()) >= _TELLING}
        for name, text in texts.items()
    }
    ascending = sorted(texts, key=lambda name: (len(texts[name]), name))
    return sorted(
        name
        for place, name in enumerate(ascending)
        if any(
            2 * len(lines[name] & lines[longer]) >= max(1, len(lines[name]))
            for longer in ascending[place + 1 :]
        )
    )


def _read_files(settings: DataSettings) -> Reading:
    root = Path(settings.path).expanduser()
    reading = Reading(str(root))
    for path in find_files(root):
        name = path.name if path == root else str(path.relative_to(root))
        if path.suffix in PARQUET:
            for row, text in enumerate(_parquet(path, settings.column)):
                reading.add(f"{name}:{row}", text)
        elif path.suffix in JSON_LINES:
            _read_json_lines(path, name, settings.column, reading)
        else:
            reading.add(name, reading.decode(name, path.read_bytes()))
    return reading


def _parquet(path: Path, column: str) -> Iterator[str]:
    """The texts of a column; a null is an empty one."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names: Sequence[str] = file.schema_arrow.names
        if column not in names:
            raise DataError(
                f"{path}: expected a column {column!r}, found {', '.join(names)}. Set data.column."
            )
        for batch in file.iter_batches(columns=[column]):
            for value in batch.column(0).to_pylist():
                yield _text(value, path, column)
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"{path}: expected a Parquet file, found none ({error}). Write it anew, or take it "
            "out."
        ) from error


def _read_json_lines(path: Path, name: str, column: str, reading: Reading) -> None:
    for row, line in enumerate(path.read_bytes().splitlines()):
        if not line.strip():
            continue
        where = f"{name}:{row}"
        try:
            value = json.loads(reading.decode(where, line))
        except ValueError as error:
            raise DataError(
                f"{path}: expected JSON in line {row + 1}, found none ({error}). Mend the line."
            ) from error
        if not isinstance(value, dict) or column not in value:
            raise DataError(
                f"{path}: expected an object with {column!r} in line {row + 1}, found "
                f"{', '.join(value) if isinstance(value, dict) else type(value).__name__}. Set "
                "data.column."
            )
        reading.add(where, _text(value[column], path, column))


def _text(value: object, path: Path, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{path}: expected text in column {column!r}, found {type(value).__name__}. Set "
            "data.column."
        )
    return value


def named(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
