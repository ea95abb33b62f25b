"""Latents of an autoencoder on disk: one Arrow file that is memory-mapped, a row per sample.

    latent     fixed-shape tensor of float32 [c, *s]
    split      name of the split
    modality   index in settings.mri.MODALITIES, one more for masks
    patient    index in the `patients` of the split
    slice      which slice of the patient, -1 for a volume

What a network on these latents must know is in the metadata of the schema, as JSON: `FACTS`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError, Float32
from settings.atomic_file import atomic_file
from settings.command import command

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
SUFFIX = ".arrow"

FACTS: Mapping[str, str] = {
    "kind": "of the autoencoder",
    "group": "what a sample is made of, a key of settings.mri.GROUPS",
    "image_shape": "[C, *S]",
    "latent_shape": "[c, *s]",
    "factors": "pixels per cell along each axis of *S",
    "shift": "mean over all numbers of the training latents",
    "scale_factor": "1 / their standard deviation; null where it is 0",
    "channel_mean": "[c]",
    "channel_std": "[c]",
    "checkpoint": "path, step and fingerprint of the weights",
    "data": "settings of the data, by key",
    "patients": "their names, by split",
}
"""The metadata that every file has."""

_KEY = b"weighbridge_latents"
_COLUMNS = ("modality", "patient", "slice")


@dataclass(frozen=True)
class LatentBatch:
    """latent float32 [B, c, *s]; modality, patient, slice int64 [B], all of one split."""

    split: str
    latent: Float32
    modality: NDArray[np.int64]
    patient: NDArray[np.int64]
    slice: NDArray[np.int64]


@dataclass(frozen=True)
class Latents:
    """A file that is open for reading.

    Attributes:
        facts: see `FACTS`.
        table: of pyarrow; its columns lie in the file, not in memory.
    """

    path: Path
    facts: Mapping[str, Any]
    table: Any

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def blocks(self) -> list[Float32]:
        """All latents in order, as read-only views [n, c, *s] of the file."""
        return [chunk.to_numpy_ndarray() for chunk in self.table["latent"].chunks]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *map(len, self.blocks)])

    def latent(self, row: int) -> Float32:
        """[c, *s], a view of the file."""
        if not 0 <= row < len(self):
            raise IndexError(f"{self.path} has rows 0 .. {len(self) - 1}, not {row}")
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.blocks[block][row - self._starts[block]]

    def column(self, name: str) -> NDArray[Any]:
        """`split`, `modality`, `patient` or `slice` of every row."""
        return self.table[name].to_numpy()

    def standardised(self, latent: Float32) -> Float32:
        """(latent - shift) x scale_factor: mean 0 and variance 1 over the training split."""
        scale = self.facts["scale_factor"]
        if scale is None:
            raise DataError(
                f"{self.path}: all training latents are the same number, so no scale brings them "
                "to variance 1. Train the autoencoder longer, or take another checkpoint."
            )
        return ((latent - self.facts["shift"]) * scale).astype(np.float32)


def write_latents(
    path: Path, batches: Iterable[LatentBatch], describe: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Writes a file, whole or not at all; returns its facts. `describe` is called after the last
    batch, because only then is the scale known; until then the rows are in a second file.
    """
    import pyarrow as pa
    from pyarrow import ipc

    with (
        atomic_file(path) as whole,
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as rows,
    ):
        with pa.OSFile(rows.name, "wb") as file:
            _write_rows(file, batches)
        facts = {"format": FORMAT, **describe()}
        with pa.memory_map(rows.name) as source, pa.OSFile(str(whole), "wb") as file:
            reader = ipc.open_file(source)
            schema = reader.schema.with_metadata({_KEY: json.dumps(facts).encode()})
            with ipc.new_file(file, schema) as writer:
                for number in range(reader.num_record_batches):
                    writer.write_batch(reader.get_batch(number))
    return facts


def _write_rows(file: pa.NativeFile, batches: Iterable[LatentBatch]) -> None:
    from pyarrow import ipc

    writer = None
    for batch in batches:
        record = _record(batch)
        if writer is None:
            writer = ipc.new_file(file, record.schema)
        writer.write_batch(record)
    if writer is None:
        raise DataError("expected latents to write, found no sample. Name a split that has some.")
    writer.close()


def _record(batch: LatentBatch) -> pa.RecordBatch:
    import pyarrow as pa

    latent = np.ascontiguousarray(batch.latent, np.float32)
    kind = pa.fixed_shape_tensor(pa.float32(), latent.shape[1:])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(latent.reshape(-1)), latent[0].size)
    columns = {
        "latent": pa.ExtensionArray.from_storage(kind, flat),
        "split": pa.array([batch.split] * len(latent)),
        **{name: pa.array(getattr(batch, name)) for name in _COLUMNS},
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def read_latents(path: Path) -> Latents:
    """Opens a file that `write_latents` wrote, without reading its latents.

    Raises:
        DataError: it is no Arrow file, or lacks the metadata.
    """
    import pyarrow as pa
    from pyarrow import ipc

    try:
        reader = ipc.open_file(pa.memory_map(str(path)))
        table = reader.read_all()
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path}: expected a complete Arrow file of latents, found none ({error})."
        ) from error
    said = (table.schema.metadata or {}).get(_KEY)
    way_out = f"Write it anew: {command('encode_latents')}."
    if said is None:
        raise DataError(
            f"{path}: expected latents with their scale and source in the schema's metadata, "
            f"found columns {', '.join(table.column_names)} without. {way_out}"
        )
    facts = json.loads(said)
    missing = [name for name in FACTS if name not in facts]
    if facts.get("format") != FORMAT or missing:
        raise DataError(
            f"{path}: expected latents of format {FORMAT}, found format {facts.get('format')}"
            f"{' without ' if missing else ''}{', '.join(missing)}. {way_out}"
        )
    return Latents(path, facts, table)
