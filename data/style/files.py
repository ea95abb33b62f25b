"""One latent in a file: `.pt`, `.npy` or `.safetensors`, none of which can run code here.

.pt            a tensor, or {"latent": tensor, "scale": number, "source": text}
.safetensors   one tensor; scale and source in the metadata
.npy           an array; scale and source in `latents.json` beside the folders of the styles
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.files import DataError, Float32

SUFFIXES = (".pt", ".npy", ".safetensors")

FACTS_FILE = "latents.json"
"""{"scale": number, "source": text} for the files that do not say it themselves."""

_WAY_OUT = 'torch.save({"latent": tensor, "scale": 0.18215, "source": "..."}, path)'


@dataclass(frozen=True)
class Facts:
    """What is said of a latent.

    Attributes:
        scale: the factor that its numbers were multiplied by when it was encoded; None where
            nothing says it.
        source: the autoencoder; "" where nothing says it.
    """

    scale: float | None = None
    source: str = ""


def read_latent(path: Path) -> tuple[Float32, Facts]:
    """A latent [C, H, W] and what its file says of it.

    Raises:
        DataError: the file has another suffix, holds code or no such array, or is damaged.
    """
    readers = {".pt": _read_pt, ".npy": _read_npy, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise DataError(
            f"{path}: expected a latent in one of {', '.join(SUFFIXES)}, found "
            f"{path.suffix or 'no suffix'}. Take it out of the folder, or convert it."
        )
    values, said = readers[path.suffix](path)
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim != 3 or values.dtype.kind != "f" or not values.size:
        raise DataError(
            f"{path}: expected one latent [C, H, W] of floating-point numbers, found "
            f"{values.dtype} {list(values.shape)}. Store each latent in a file of its own."
        )
    return np.ascontiguousarray(values, np.float32), facts_of(said, path)


def read_facts(root: Path) -> Facts:
    """What `FACTS_FILE` says; nothing where there is none."""
    path = root / FACTS_FILE
    if not path.is_file():
        return Facts()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found what cannot be read ({error}).") from error
    if not isinstance(said, dict):
        raise DataError(f'{path}: expected {{"scale": number, "source": text}}, found {said!r}.')
    return facts_of(said, path)


def facts_of(said: Mapping[str, object], path: Path) -> Facts:
    """Scale and source of what a file says, all else left out."""
    scale = said.get("scale")
    try:
        number = None if scale is None else float(str(scale))
    except ValueError as error:
        raise DataError(f"{path}: expected a number as scale, found {scale!r}.") from error
    if number is not None and not 0.0 < number < float("inf"):
        raise DataError(f"{path}: expected a scale above 0, found {number:g}.")
    return Facts(number, str(said.get("source", "")))


def _read_pt(path: Path) -> tuple[np.ndarray, Mapping[str, object]]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: expected a tensor, found code or objects, which are not run. Store the "
            f"tensor alone: {_WAY_OUT}."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"{path}: expected a tensor, found a damaged file ({str(error).splitlines()[0]})."
        ) from error
    said = found if isinstance(found, dict) else {"latent": found}
    latent = said.get("latent")
    if not isinstance(latent, torch.Tensor):
        raise DataError(
            f"{path}: expected a tensor, alone or under 'latent', found "
            f"{', '.join(map(repr, said)) if said is found else type(found).__name__}. "
            f"Store it so: {_WAY_OUT}."
        )
    return _array(latent), said


def _array(tensor: torch.Tensor) -> np.ndarray:
    """In float32 where it is floating-point, since NumPy has no bfloat16."""
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()


def _read_npy(path: Path) -> tuple[np.ndarray, Mapping[str, object]]:
    try:
        return np.load(path, allow_pickle=False), {}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: expected an array of numbers, found code or a damaged file ({error}). "
            "numpy.save(path, array) stores one."
        ) from error


def _read_safetensors(path: Path) -> tuple[np.ndarray, Mapping[str, object]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) != 1:
                raise DataError(
                    f"{path}: expected one tensor, found {len(names)}"
                    f"{': ' * bool(names)}{', '.join(names[:5])}. Store each latent in a file of "
                    "its own."
                )
            return _array(file.get_tensor(names[0])), dict(file.metadata() or {})
    except SafetensorError as error:
        raise DataError(
            f"{path}: expected safetensors, found a damaged file ({error})."
        ) from error
