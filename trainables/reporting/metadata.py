"""`metadata.json` of a training: versions, machine and data, beside its `settings.json`."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from settings.atomic_file import atomic_file
from settings.versions import versions
from trainables.parts import Loaders

NAME = "metadata.json"

_VERSIONED = ("weighbridge", "torch", "accelerate")


def write_metadata(
    directory: Path,
    system: str,
    precision: str,
    accelerator: Accelerator,
    modules: Mapping[str, nn.Module],
    loaders: Loaders,
    prepared: object,
    init_from: Mapping[str, Any],
) -> None:
    """Writes the file, anew where a training goes on, which may be on another machine.

    Args:
        init_from: what `trainables.checkpoints.initial.begun` has returned.
    """
    metadata = {
        "system": system,
        "versions": {**versions(_VERSIONED), "python": platform.python_version()},
        "device": device_name(accelerator.device),
        "workers": accelerator.num_processes,
        "precision": precision,
        "parameters": {name: parameters(module) for name, module in modules.items()},
        "data": data(loaders, prepared),
        **({"init_from": dict(init_from)} if init_from else {}),
    }
    with atomic_file(directory / NAME) as scratch:
        scratch.write_text(json.dumps(metadata, indent=1) + "\n")


def device_name(device: torch.device) -> str:
    """The device in words: `cpu`, or `cuda (NVIDIA H100 80GB HBM3)`."""
    if device.type != "cuda":
        return device.type
    return f"cuda ({torch.cuda.get_device_name(device)})"


def parameters(module: nn.Module) -> dict[str, Any]:
    """The number of a module's parameters, of those that learn, and their precisions."""
    tensors = list(module.parameters())
    return {
        "all": sum(p.numel() for p in tensors),
        "learning": sum(p.numel() for p in tensors if p.requires_grad),
        "precisions": sorted({str(p.dtype).removeprefix("torch.") for p in tensors}),
    }


def data(loaders: Loaders, prepared: object) -> dict[str, Any]:
    """The samples of each split, the counts of what was left out, and `fingerprint`: the name of
    what `prepare` made, a hash of the files and of the settings that shape the samples (null where
    it has none).
    """
    splits: dict[str, Any] = {
        name: getattr(loaders, name) for name in ("train", "validation", "test")
    }
    folder = getattr(prepared, "folder", None)
    return {
        "samples": {name: len(split) for name, split in splits.items() if split is not None},
        "counts": dict(loaders.notes),
        "fingerprint": Path(folder).name if isinstance(folder, (str, Path)) else None,
    }
