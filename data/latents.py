"""Latents of an autoencoder on disk: one Arrow file that is memory-mapped, a row per sample.

    latent      fixed-shape tensor of float32 [c, *s]
    split       name of the split
    modality    index in settings.mri.MODALITIES, one more for masks
    patient     index in the `patients` of the split
    slice       which slice of the patient, -1 for a volume

and, in files of this version (`ABOUT`), of the sample that was encoded, [C, *S]:

    spacing     float32, mm per pixel along each axis of *S
    affine      float64 [4, 4], from an index (d, h, w) to mm (right, anterior, superior); a slice
                is a volume of one slice here
    inside      int16 [2], first and last + 1 of the slices that the patient has, the others are
                padding
    mask        the lesions [*S], a bit a pixel as `numpy.packbits` has them; empty without lesion
    lesions_mm  list of float32, the longest diameters of the lesions of this sample

Bits and not the words of `data.mri.mask_codec`: as many bytes, but for sides of any length and for
volumes. What a network on these latents must know is in the metadata of the schema, as JSON:
`FACTS`.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError, Float32, Float64
from data.latent_scale import LatentScale, channel_scale, constant_channels, overall_scale
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
    "channel_mean": "[c], over the training latents",
    "channel_std": "[c]",
    "checkpoint": "path, step and fingerprint of the weights",
    "data": "settings of the data, by key",
    "patients": "their names, by split",
}
"""The metadata that every file has."""

_KEY = b"weighbridge_latents"
_COLUMNS = ("modality", "patient", "slice")
_TENSORS: Mapping[str, Any] = {"spacing": np.float32, "affine": np.float64, "inside": np.int16}

ABOUT = (*_TENSORS, "mask", "lesions_mm")
"""Columns that files of earlier versions lack."""


@dataclass(frozen=True)
class LatentBatch:
    """latent float32 [B, c, *s]; modality, patient, slice int64 [B], all of one split.

    Attributes:
        spacing: [B, axes of *S]; affine: [B, 4, 4]; inside: [B, 2]; mask: bool [B, *S];
            lesions_mm: [n] for each sample. What is None in every batch is no column.
    """

    split: str
    latent: Float32
    modality: NDArray[np.int64]
    patient: NDArray[np.int64]
    slice: NDArray[np.int64]
    spacing: Float32 | None = None
    affine: Float64 | None = None
    inside: NDArray[np.int16] | None = None
    mask: NDArray[np.bool_] | None = None
    lesions_mm: Sequence[NDArray[Any]] | None = None


@dataclass(frozen=True)
class Latents:
    """A file that is open for reading. A copy in another process is its path, opened again.

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

    @property
    def absent(self) -> tuple[str, ...]:
        """The columns of `ABOUT` that this file lacks: what asks for them gives None."""
        return tuple(name for name in ABOUT if name not in self.table.column_names)

    def need(self, *names: str) -> None:
        """Refuses a file without those columns."""
        absent = [name for name in names if name in self.absent]
        if absent:
            raise DataError(
                f"{self.path}: expected {', '.join(absent)} of every sample, found none, for an "
                f"earlier version wrote the file. Write it anew: {command('encode_latents')}."
            )

    @cached_property
    def spacing(self) -> Float32 | None:
        """[N, axes of *S]"""
        return self._tensors("spacing")

    @cached_property
    def affine(self) -> Float64 | None:
        """[N, 4, 4]"""
        return self._tensors("affine")

    @cached_property
    def inside(self) -> NDArray[np.int16] | None:
        """[N, 2]"""
        return self._tensors("inside")

    def _tensors(self, name: str) -> NDArray[Any] | None:
        if name in self.absent:
            return None
        return np.concatenate([chunk.to_numpy_ndarray() for chunk in self.table[name].chunks])

    def mask(self, row: int) -> NDArray[np.bool_] | None:
        """[*S], the lesions at the resolution of the image; None where the file has no masks."""
        if "mask" in self.absent:
            return None
        space = self.facts["image_shape"][1:]
        packed = np.frombuffer(self.table["mask"][row].as_buffer(), np.uint8)
        if not packed.size:
            return np.zeros(space, np.bool_)
        bits = np.unpackbits(packed)[: int(np.prod(space))]
        return bits.reshape(space).astype(np.bool_)

    def lesions_mm(self, row: int) -> Float32 | None:
        """[n], the longest diameters of the lesions of a sample; None where the file has none."""
        if "lesions_mm" in self.absent:
            return None
        return self.table["lesions_mm"][row].values.to_numpy()

    def patient_names(self) -> list[str]:
        """Of every row, for `Loaders.units`."""
        names = self.facts["patients"]
        pairs = zip(self.column("split"), self.column("patient"), strict=True)
        return [names[split][patient] for split, patient in pairs]

    def standardised(self, latent: Float32, per_channel: bool = False) -> Float32:
        """(latent - shift) x scale_factor: mean 0 and variance 1 over the training split, of all
        numbers together or of each channel. Latents [.., c, *s].
        """
        return self.scale(per_channel).standardised(latent)

    def restored(self, standard: Float32, per_channel: bool = False) -> Float32:
        """The latents that `standardised` gave those numbers for."""
        return self.scale(per_channel).restored(standard)

    def scale(self, per_channel: bool = False) -> LatentScale:
        """What `standardised` and `restored` compute with; a constant channel is shifted only
        (`channel_scale`).
        """
        facts = self.facts
        if per_channel:
            axes = len(self.table.schema.field("latent").type.shape) - 1
            return channel_scale(facts["channel_mean"], facts["channel_std"], axes)
        if facts["scale_factor"] is None:
            raise DataError(
                f"{self.path}: all training latents are the same number, so no scale brings them "
                "to variance 1. Train the autoencoder longer, or take another checkpoint."
            )
        return overall_scale(facts["shift"], facts["scale_factor"])

    @property
    def constant_channels(self) -> list[int]:
        """Those that have one value over the training split."""
        facts = self.facts
        is_constant = constant_channels(facts["channel_mean"], facts["channel_std"])
        return np.flatnonzero(is_constant).tolist()

    @property
    def _checksum(self) -> int:
        return zlib.crc32(self.table.schema.metadata[_KEY])

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.path.absolute(), self._checksum, len(self))


def _opened_again(path: Path, checksum: int, rows: int) -> Latents:
    found = read_latents(path)
    if (found._checksum, len(found)) != (checksum, rows):
        raise DataError(
            f"{path}: expected the latents that the process which sent them has open, found a "
            "file of others. Keep a file while it is read: give the new one another name."
        )
    return found


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

    columns = {
        "latent": _tensor(np.asarray(batch.latent, np.float32)),
        "split": pa.array([batch.split] * len(batch.latent)),
        **{name: pa.array(getattr(batch, name)) for name in _COLUMNS},
        **{
            name: _tensor(np.asarray(getattr(batch, name), kind))
            for name, kind in _TENSORS.items()
            if getattr(batch, name) is not None
        },
    }
    if batch.mask is not None:
        packed = [np.packbits(mask).tobytes() if mask.any() else b"" for mask in batch.mask]
        columns["mask"] = pa.array(packed, pa.binary())
    if batch.lesions_mm is not None:
        sizes = [np.asarray(found, np.float32) for found in batch.lesions_mm]
        columns["lesions_mm"] = pa.array(sizes, pa.list_(pa.float32()))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _tensor(values: NDArray[Any]) -> pa.Array:
    """[B, *shape] as a column of tensors."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    kind = pa.fixed_shape_tensor(flat.type, values.shape[1:])
    storage = pa.FixedSizeListArray.from_arrays(flat, values[0].size)
    return pa.ExtensionArray.from_storage(kind, storage)


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
