"""Parquet files of a sweep's frames, and whether they are up to date with the raw files."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from results.reports import report_files
from settings.atomic_file import atomic_file
from settings.paths import SweepPaths
from settings.schema import tupled

LAYOUT = 4
"""Version of the columns; of a file with another one the raw files are read instead."""

_META = b"weighbridge"
_AS_JSON = b"weighbridge_json"


@dataclass(frozen=True)
class Sources:
    """State of the raw files that a Parquet file was made from.

    Attributes:
        digest: of their names and sizes. Sizes are part of it because the newest change alone
            misses a report that came while the file was written.
        newest_ns: time of the newest change among them.
    """

    digest: str
    newest_ns: int

    @classmethod
    def of(cls, directory: Path) -> Sources:
        """The present state of the raw files."""
        digest = hashlib.sha256()
        newest = 0
        sweep = SweepPaths(directory)
        paths = [sweep.document, sweep.log, sweep.references]
        for path in [*paths, *(path for _, path in report_files(directory))]:
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            digest.update(f"{path.name} {status.st_size}\n".encode())
            newest = max(newest, status.st_mtime_ns)
        return cls(digest.hexdigest(), newest)


def write(frame: pd.DataFrame, path: Path, sources: Sources, held: bool) -> None:
    """Writes a frame atomically.

    Args:
        held: whether the sweep's lock was held, on which the state of open trials depends.
    """
    table = pa.Table.from_pandas(_encoded(frame), preserve_index=False)
    encoded = [name for name in frame.columns if _needs_json(frame[name])]
    facts = {"layout": LAYOUT, "sources": sources.digest, "held": held}
    metadata = {
        **(table.schema.metadata or {}),
        _META: json.dumps(facts).encode(),
        _AS_JSON: json.dumps(encoded).encode(),
    }
    with atomic_file(path) as scratch:
        parquet.write_table(table.replace_schema_metadata(metadata), scratch, compression="zstd")


def read_fresh(path: Path, sources: Sources, held: bool | None) -> pd.DataFrame | None:
    """The frame in a Parquet file; None where it is absent, unreadable, or older than the raw
    files.

    Args:
        held: whether the lock is held; None where nothing in the frame depends on it.
    """
    try:
        if path.stat().st_mtime_ns < sources.newest_ns:
            return None
        metadata = parquet.read_schema(path).metadata or {}
        facts = json.loads(metadata[_META])
        encoded = json.loads(metadata[_AS_JSON])
        if facts["layout"] != LAYOUT or facts["sources"] != sources.digest:
            return None
        if held is not None and facts["held"] != held:
            return None
        table = parquet.read_table(path)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    frame = table.to_pandas(split_blocks=True, self_destruct=True)
    for name in encoded:
        frame[name] = pd.Series([_decoded(text) for text in frame[name]], dtype=object)
    return frame


def _needs_json(column: pd.Series) -> bool:
    """Whether a column has tuples or mixed types, which Parquet cannot store; text of older pandas
    is an object column, too, and needs no JSON.
    """
    return column.dtype == np.dtype(object) and not all(
        isinstance(value, str) or value is None for value in column
    )


def _encoded(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy(deep=False)
    for name in [name for name in frame.columns if _needs_json(frame[name])]:
        frame[name] = [None if value is None else json.dumps(value) for value in frame[name]]
    return frame


def _decoded(text: object) -> object:
    if not isinstance(text, str):
        return None
    return tupled(json.loads(text))
