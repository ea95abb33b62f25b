"""Frozen modules whose weights come from a file elsewhere, and the files that tensors lie in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from settings.schema import SettingsError

_TIED = "tied"
"""The entry of a file's metadata with the names that share a tensor of another name."""


@dataclass(frozen=True)
class External:
    """The weights of a frozen module of `Built.external`.

    Attributes:
        file: a safetensors file that holds the module's state dict and nothing else.
        fingerprint: of these weights (`fingerprint`), by which they are known wherever they lie.
    """

    file: Path
    fingerprint: str


def external_file(file: Path) -> External:
    """A file of weights with its fingerprint; `prepare` makes it, for all of it is read.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return External(file, fingerprint(read_tensors(file)))
    except (OSError, SafetensorError) as error:
        raise SettingsError(
            f"the weights of a frozen module cannot be read from {file}: {error}. It is a "
            "safetensors file with the state dict of the module (safetensors.torch.save_file). "
            "Bring it there, or mend the setting that names it."
        ) from error


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of the names, precisions, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file. A tensor that goes by several names (tied weights) is stored
    under the first of them, and the file's metadata has the others.
    """
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[object, str] = {}
    storages: set[object] = set()
    for name, tensor in tensors.items():
        storage = tensor.device, tensor.untyped_storage().data_ptr()
        view = tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        owner = first.setdefault((storage, view), name) if tensor.numel() else name
        if owner != name:
            tied[name] = owner
            continue
        shares = bool(tensor.numel()) and storage in storages  # a part of another tensor
        storages.add(storage)
        kept[name] = (tensor.detach().clone() if shares else tensor.detach()).contiguous()
    save_file(kept, path, metadata={_TIED: json.dumps(tied)} if tied else None)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; the names of tied weights share one tensor.

    Raises:
        OSError, SafetensorError: it cannot be read.
    """
    with safe_open(path, framework="pt", device="cpu") as file:
        tied = json.loads((file.metadata() or {}).get(_TIED, "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {**tensors, **{name: tensors[owner] for name, owner in tied.items()}}
