"""Files of simulation fields and of latents: layouts, and what makes one unusable.

    fields   .npy      [P, T, N]
             .npz      array `fields` (or the only one), optionally `names` [P]
             .parquet  a row per sample: column `field`, T lists of N numbers; optionally `name`
             .pickle   (.pkl) one numpy array [P, T, N]; only where pickles are allowed
    latents  a folder  main.npy [P, M] and hier.npy [P, K, h], optionally names.npy [P]
             .npz      arrays `main`, `hier`, optionally `names`
             .parquet  columns `main`, M numbers; `hier`, K lists of h; optionally `name`

Legend: P samples, T time steps, N mesh nodes, M main latent size, K hierarchical codes of size h.
The order of the samples is that of the images; names are only checked against theirs.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError

if TYPE_CHECKING:
    import pyarrow as pa

AXES: Mapping[str, str] = {
    "fields": "samples, time steps, nodes",
    "main": "samples, size",
    "hier": "samples, codes, size",
}
"""The axes of each array of targets."""

_KINDS: Mapping[str, tuple[str, ...]] = {"fields": ("fields",), "latents": ("main", "hier")}

_COLUMNS = {"fields": "field", "names": "name"}
"""Names in Parquet, where a row is one sample, that differ from those of the arrays."""

_FOLDER = "a folder"

_BLOCK_VALUES = 1 << 24


@dataclass(frozen=True)
class Targets:
    """The targets of a folder of images.

    Attributes:
        arrays: `fields`, or `main` and `hier`; fields may be a memory map.
        names: of the samples where the file has them.
    """

    path: Path
    arrays: Mapping[str, NDArray[Any]]
    names: Sequence[str] | None

    @property
    def count(self) -> int:
        return len(next(iter(self.arrays.values())))


def target_files(path: Path, kind: str) -> list[Path]:
    """The files that hold the targets."""
    if kind == "latents" and path.is_dir():
        return [path / f"{name}.npy" for name in ("main", "hier", "names")]
    return [path]


def read_targets(path: Path, kind: str, allow_pickle: bool = False) -> Targets:
    """Reads and checks `fields` or `latents`.

    Raises:
        DataError: a file that is missing or damaged, a layout or shape other than the above, or
            values that are not finite.
    """
    if not path.exists():
        raise DataError(f"{path}: expected a file of {kind}, found no such file.")
    if path.is_dir() and kind == "fields":
        raise DataError(f"{path}: expected a file of fields, found a folder.")
    suffix = _FOLDER if path.is_dir() else path.suffix.lower()
    readers: Mapping[str, Callable[[Path, str], Mapping[str, NDArray[Any]]]] = {
        _FOLDER: _read_folder,
        ".npz": _read_npz,
        ".parquet": _read_parquet,
    }
    if kind == "fields":
        unpickle = _read_pickle if allow_pickle else _refuse_pickle
        readers = {**readers, ".npy": _read_npy, ".pickle": unpickle, ".pkl": unpickle}
    if suffix not in readers:
        readable = ", ".join(name for name in readers if name != _FOLDER or kind == "latents")
        raise DataError(f"{path}: {kind} are read from {readable}, not from {suffix!r}.")
    try:
        arrays = dict(readers[suffix](path, kind))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({error}).") from error
    names = arrays.pop("names", None)
    for name, values in arrays.items():
        _check(path, name, values)
    targets = Targets(path, arrays, None if names is None else [str(name) for name in names])
    counts = {name: len(values) for name, values in arrays.items()}
    if names is not None:
        counts["names"] = len(names)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise DataError(f"{path}: expected the same number of samples in all, found {listed}.")
    return targets


def check_pairs(folder: Path, images: Sequence[Path], targets: Targets) -> None:
    """One target for each image, and where the targets have names, each its image's (with or
    without the suffix). The order is the only other link.
    """
    if len(images) != targets.count:
        raise DataError(
            f"expected one target for each image, found {len(images)} images in {folder} and "
            f"{targets.count} samples in {targets.path}."
        )
    for row, (image, name) in enumerate(zip(images, targets.names or (), strict=False)):
        if name not in (image.name, image.stem):
            raise DataError(
                f"expected the samples in the natural order of the images: image {row} of "
                f"{folder} is {image.name}, and sample {row} of {targets.path} is named {name}. "
                "Order the samples as the images (2 before 10)."
            )


def _check(path: Path, name: str, values: NDArray[Any]) -> None:
    axes = AXES[name]
    if values.dtype.kind not in "fiu" or values.ndim != axes.count(",") + 1 or 0 in values.shape:
        raise DataError(
            f"{path}: expected real numbers in {name} [{axes}], found {values.dtype} "
            f"{list(values.shape)}."
        )
    block = max(1, _BLOCK_VALUES // max(1, int(np.prod(values.shape[1:]))))
    bad: list[int] = []
    for start in range(0, len(values), block):
        with np.errstate(over="ignore"):  # too large for float32, in which they are used
            part = np.asarray(values[start : start + block]).astype(np.float32)
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        bad.extend((start + np.flatnonzero(~finite)).tolist())
    if bad:
        first = ", ".join(str(row) for row in bad[:5])
        raise DataError(
            f"{path}: expected finite numbers in {name}, found NaN or infinity (in float32) in "
            f"{len(bad)} of {len(values)} samples, the first at rows {first} (from 0)."
        )


def _read_npy(path: Path, _kind: str) -> Mapping[str, NDArray[Any]]:
    return {"fields": np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_folder(path: Path, kind: str) -> Mapping[str, NDArray[Any]]:
    missing = [f"{name}.npy" for name in _KINDS[kind] if not (path / f"{name}.npy").is_file()]
    if missing:
        raise DataError(f"{path}: expected main.npy and hier.npy, found no {missing[0]}.")
    present = [name for name in (*_KINDS[kind], "names") if (path / f"{name}.npy").is_file()]
    return {name: np.load(path / f"{name}.npy", allow_pickle=False) for name in present}


def _read_npz(path: Path, kind: str) -> Mapping[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: expected an archive of arrays, found a single one.")
        held = [name for name in file.files if name != "names"]
        wanted = _KINDS[kind]
        if kind == "fields" and len(held) == 1:
            wanted = (held[0],)
        if missing := [name for name in wanted if name not in held]:
            raise DataError(
                f"{path}: expected {' and '.join(_KINDS[kind])}, found "
                f"{', '.join(file.files) or 'nothing'}, no {missing[0]}."
            )
        arrays = dict(zip(_KINDS[kind], (file[name] for name in wanted), strict=True))
        return {**arrays, "names": file["names"]} if "names" in file.files else arrays


def _read_parquet(path: Path, kind: str) -> Mapping[str, NDArray[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        held = file.schema_arrow.names
        wanted = [name for name in (*_KINDS[kind], "names") if _COLUMNS.get(name, name) in held]
        if missing := [name for name in _KINDS[kind] if name not in wanted]:
            column = _COLUMNS.get(missing[0], missing[0])
            raise DataError(f"{path}: expected a column {column}, found {', '.join(held)}.")
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
        columns = [_COLUMNS.get(name, name) for name in wanted]
        for batch in file.iter_batches(batch_size=64, columns=columns):
            for name, column in zip(wanted, columns, strict=True):
                values = batch.column(column)
                dense = (
                    np.array(values.cast(pa.string()).to_pylist(), dtype=str)
                    if name == "names"
                    else _dense(path, column, values)
                )
                parts[name].append(dense)
    if not any(parts.values()):
        raise DataError(f"{path}: expected a row for each sample, found none.")
    return {name: _joined(path, name, arrays) for name, arrays in parts.items()}


def _dense(path: Path, column: str, values: pa.Array) -> NDArray[Any]:
    """A nested list column as one array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.null_count:
        raise DataError(f"{path}: expected a value in every row of {column}, found nulls.")
    if not (pa.types.is_list(values.type) or _is_other_list(values.type)):
        return values.to_numpy(zero_copy_only=False)
    lengths = pc.unique(pc.list_value_length(values)).to_pylist()
    if len(lengths) != 1:
        raise DataError(
            f"{path}: expected lists of one length in {column}, found lengths {lengths}."
        )
    inner = _dense(path, column, values.flatten())
    return inner.reshape(len(values), lengths[0], *inner.shape[1:])


def _is_other_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _joined(path: Path, name: str, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    shapes = sorted({array.shape[1:] for array in arrays})
    if len(shapes) > 1:
        raise DataError(f"{path}: expected one shape in all rows of {name}, found {shapes}.")
    return np.concatenate(arrays)


def _refuse_pickle(path: Path, _kind: str) -> Mapping[str, NDArray[Any]]:
    raise DataError(
        f"{path}: a pickle is a program, and reading one runs it: whoever wrote the file decides "
        "what it does on this machine. Save the array with numpy.save as .npy; or, where you made "
        "the file yourself, set data.allow_pickle=true."
    )


def _read_pickle(path: Path, _kind: str) -> Mapping[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            array = _ArraysOnly(file, encoding="latin1").load()
    except (AttributeError, ImportError, IndexError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected a pickled array, found a damaged one.") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected one numpy array, found {type(array).__name__}.")
    return {"fields": array}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that calls nothing but what rebuilds a numpy array: even with the flag a
    foreign file cannot run code.
    """

    _NEEDED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # as numpy 1 wrote it
        if (module, name) not in self._NEEDED:
            raise pickle.UnpicklingError(
                f"a pickled array needs no {module}.{name}: this one holds something else"
            )
        return super().find_class(module, name)
