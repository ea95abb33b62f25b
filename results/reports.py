"""The raw reports of all trials as one frame, read with pyarrow in batches of files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from results.directory import History
from results.store import complete_lines
from settings.paths import SweepPaths
from settings.warning import warn

KEYS = ("trial", "step", "segment", "seconds")
"""The columns of every reports frame that are no metrics."""

_BATCH_BYTES = 8 << 20
_STOP_REASON = "stop_reason"
"""The column with the reason why a training ended by itself, in its last report. It is dropped
here, where all columns are numbers: the frame of the trials has it, from the log.
"""
_TYPES = {
    "step": pa.int64(),
    "segment": pa.int64(),
    "seconds": pa.float64(),
    _STOP_REASON: pa.string(),
}


def report_files(directory: Path) -> list[tuple[int, Path]]:
    """The report file of every trial, by number."""
    folder = SweepPaths(directory).reports
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        stems = [
            entry.name.removesuffix(".jsonl") for entry in entries if entry.name.endswith(".jsonl")
        ]
    return sorted((int(stem), folder / f"{stem}.jsonl") for stem in stems if stem.isdecimal())


def missing_reports(directory: Path, history: History) -> list[int]:
    """The trials that reported, according to the log, and whose report files have been deleted."""
    there = {trial for trial, _ in report_files(directory)}
    return [t.number for t in history.trials if t.step > 0 and t.number not in there]


def read_raw(directory: Path) -> pd.DataFrame:
    """One row a report: trial, step, segment, seconds, metrics (float64, NaN where not finite or
    not reported).

    Incomplete last lines are left out, and so are reports that a resumed trial has made again.
    """
    tables = [_read_batch(batch) for batch in _batches(report_files(directory))]
    if not tables:
        return pd.DataFrame({name: pd.Series(dtype=_numpy_type(name)) for name in KEYS})
    table = pa.concat_tables(tables, promote_options="permissive")
    del tables
    frame = _typed(table).to_pandas(split_blocks=True, self_destruct=True)
    return without_superseded(frame)


def _numpy_type(name: str) -> str:
    return "float64" if name == "seconds" else "int64"


def _typed(table: pa.Table) -> pa.Table:
    """The key columns first and in their types; every other number as float64."""
    count = table.num_rows
    columns: dict[str, Any] = {}
    for name in KEYS:
        kind = pa.int64() if name == "trial" else _TYPES[name]
        if name in table.column_names:
            columns[name] = table[name].cast(kind, safe=False)
        else:
            columns[name] = pa.array(np.zeros(count), kind)
    for name in table.column_names:
        if name in (*KEYS, _STOP_REASON):
            continue
        kind = table.schema.field(name).type
        is_number = (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
        )
        columns[name] = table[name].cast(pa.float64()) if is_number else table[name]
    return pa.table(columns)


def without_superseded(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not superseded by a later row of the same trial.

    A trial that resumes from an earlier checkpoint reports steps again, and its last run counts:
    a row supersedes every earlier row at its step or beyond. The rows that stay ascend in step.
    Rows come in the order of the files: by trial, then as written.
    """
    if frame.empty:
        return frame
    # A trial's rank, not its number: keys of a later trial then lie above all earlier ones.
    ranks = np.cumsum(
        np.diff(frame["trial"].to_numpy(), prepend=frame["trial"].to_numpy()[0]) != 0
    )
    steps = frame["step"].to_numpy()
    keys = ranks.astype(np.int64) * (int(steps.max()) + 1) + steps
    later = np.minimum.accumulate(keys[::-1])[::-1]
    keep = np.append(keys[:-1] < later[1:], True)
    return frame if keep.all() else frame.loc[keep].reset_index(drop=True)


Batch = list[tuple[int, list[bytes], Path]]


def _batches(files: Sequence[tuple[int, Path]]) -> Iterator[Batch]:
    """Files with their complete lines, about `_BATCH_BYTES` at a time: memory stays bounded by one
    batch.
    """
    batch: Batch = []
    size = 0
    for trial, path in files:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # deleted since it was listed; `missing_reports` names its trial
        lines, _ = complete_lines(data)
        if not lines:
            continue
        batch.append((trial, lines, path))
        size += len(data)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_batch(batch: Batch) -> pa.Table:
    counts = [len(lines) for _, lines, _ in batch]
    data = b"\n".join(b"\n".join(lines) for _, lines, _ in batch) + b"\n"
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            read_options=arrow_json.ReadOptions(block_size=1 << 20),
            parse_options=arrow_json.ParseOptions(explicit_schema=pa.schema(list(_TYPES.items()))),
        )
    except pa.ArrowInvalid:
        return _read_slowly(batch)
    if table.num_rows != sum(counts):
        return _read_slowly(batch)
    trials = np.repeat([trial for trial, _, _ in batch], counts)
    return table.append_column("trial", pa.array(trials, pa.int64()))


def _read_slowly(batch: Batch) -> pa.Table:
    """Parses a batch line by line; a line that is no report is left out with a warning that names
    it.
    """
    rows: list[dict[str, Any]] = []
    for trial, lines, path in batch:
        for number, line in enumerate(lines, 1):
            row = _parse(line)
            if row is None:
                warn(f"{path}, line {number} is no report and is left out: {line[:60]!r}")
            else:
                rows.append({**row, "trial": trial})
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    return pa.table(columns or {"trial": pa.array([], pa.int64())})


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        return {**row, "step": int(row["step"])}
    except (ValueError, TypeError, KeyError):
        return None


def _column(name: str, values: list[Any]) -> pa.Array:
    kind = pa.int64() if name == "trial" else _TYPES.get(name)
    if kind is None and all(value is None or isinstance(value, (int, float)) for value in values):
        kind = pa.float64()
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)
