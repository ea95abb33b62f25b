"""The weights of external modules (`Built.external`), once in the directory of a training or a
sweep: `external/<fingerprint>.safetensors`, or above `POINTER_ABOVE_BYTES`
`external/<fingerprint>.json`, which says where they lie. A checkpoint has their fingerprints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from settings.atomic_file import atomic_file, force_to_disk
from settings.paths import TrainingPaths
from settings.schema import SettingsError
from trainables.checkpoints.error import ExternalError
from trainables.external import External, fingerprint, read_tensors, write_tensors
from trainables.parts import Built, Phase

POINTER_ABOVE_BYTES = 2 * 2**30
"""Weights larger than this stay where they are: a copy in every sweep would fill the disk."""

KEY = "train.external"
"""The setting that names where weights lie that have moved."""

SUFFIX = ".safetensors"
_SHOWN = 12
"""Characters of a fingerprint that a message shows."""


def held(
    built: Built,
    data_of: Mapping[str, External],
    phases: Sequence[Phase],
    follows: Mapping[str, Any],
) -> Mapping[str, External]:
    """The external modules of a training that begins, frozen and in eval mode.

    Args:
        data_of: those that its data were prepared with.
        follows: the meta of the checkpoint that the training goes on from; which modules are
            external then, it says itself.

    Raises:
        SettingsError: there is no such module, or a phase updates it.
        ExternalError: the checkpoint was trained with other weights of it.
    """
    stored: Mapping[str, str] = follows.get("external", {})
    for name, declared in data_of.items():
        if name not in built.modules:
            raise SettingsError(
                f"Built.external names {name!r}, and the modules are {', '.join(built.modules)}. "
                "Mend the name."
            )
        if not isinstance(declared, External):
            raise SettingsError(
                f"Built.external[{name!r}] is a {type(declared).__name__}, and it is what "
                "`external_file(path)` makes in `prepare`. Give that."
            )
        if declared.fingerprint != stored.get(name, declared.fingerprint):
            raise ExternalError(
                f"the training goes on from a checkpoint whose {name} is "
                f"{_short(stored[name])}, and {declared.file} holds {_short(declared.fingerprint)}"
                ": its data were made with another network. Go on with the files that it was "
                "begun with, or begin anew."
            )
    external = stored if follows else built.external
    for phase in phases:
        if updated := sorted(external.keys() & set(phase.modules)):
            raise SettingsError(
                f"phase {phase.name} updates {', '.join(updated)}, whose weights come from a file "
                "elsewhere (Built.external) and are in no checkpoint. Take it out of the phase's "
                "modules, or out of Built.external."
            )
    for name in external:
        built.modules[name].eval().requires_grad_(False)
    return {} if follows else built.external


def stored(
    training: Path, modules: Mapping[str, nn.Module], external: Mapping[str, External]
) -> dict[str, str]:
    """The fingerprints by module, for the meta of a checkpoint; their weights lie beside it then.
    Several processes may write the same at the same time.

    Raises:
        SettingsError: a module has other weights than its file.
    """
    if not external:
        return {}
    folder = TrainingPaths(training).external
    for name, one in external.items():
        if not any(path.exists() for path in _places(folder, one.fingerprint)):
            _store(folder, name, modules[name].state_dict(), one)
    return {name: one.fingerprint for name, one in external.items()}


def _store(folder: Path, name: str, tensors: Mapping[str, Tensor], external: External) -> None:
    computed = fingerprint(tensors)
    if computed != external.fingerprint:
        raise SettingsError(
            f"external module {name} has the weights {_short(computed)}, and {external.file} is "
            f"declared to hold {_short(external.fingerprint)}. Let `build` load them from the "
            "file as they are, in the same precision, and let nothing change them."
        )
    storages = [tensor.untyped_storage() for tensor in tensors.values()]
    if sum({s.data_ptr(): s.nbytes() for s in storages}.values()) <= POINTER_ABOVE_BYTES:
        with atomic_file(folder / f"{computed}{SUFFIX}", on_disk=True) as scratch:
            write_tensors(scratch, tensors)
    else:
        content = {"module": name, "file": str(external.file.absolute()), "fingerprint": computed}
        with atomic_file(folder / f"{computed}.json", on_disk=True) as scratch:
            scratch.write_text(json.dumps(content) + "\n")
    force_to_disk(folder)


@dataclass(frozen=True)
class Loaded:
    """The external modules of a checkpoint, and their weights by `module.<name>.<key>`."""

    external: Mapping[str, External]
    tensors: Mapping[str, Tensor]


def load(checkpoint: Path, needed: Mapping[str, str], moved: str = "") -> Loaded:
    """Reads what a checkpoint needs beside its own file.

    Args:
        needed: module -> fingerprint, of its meta.
        moved: `train.external`, a file or a folder to look at beside the checkpoint's own places.

    Raises:
        ExternalError: weights are not found, or damaged, or others.
    """
    external: dict[str, External] = {}
    tensors: dict[str, Tensor] = {}
    for name, wanted in needed.items():
        external[name], weights = _find(checkpoint, name, wanted, moved)
        tensors |= {f"module.{name}.{key}": tensor for key, tensor in weights.items()}
    return Loaded(external, tensors)


def _find(
    checkpoint: Path, name: str, wanted: str, moved: str
) -> tuple[External, dict[str, Tensor]]:
    folders = TrainingPaths(checkpoint.resolve().parents[1]).external_folders
    paths = [path for folder in folders for path in _places(folder, wanted)]
    others = []
    for path in (*paths, *_moved(moved, wanted)):
        if not path.exists():
            others.append(f"{path} is not there")
            continue
        try:
            tensors = read_tensors(path)
        except (OSError, ValueError, SafetensorError) as error:
            others.append(f"{path} cannot be read ({error})")
            continue
        computed = fingerprint(tensors)
        if computed == wanted:
            return External(path, wanted), tensors
        others.append(f"{path} holds others, {_short(computed)}")
    raise ExternalError(
        f"{checkpoint} needs the weights {_short(wanted)} of its frozen module {name}, which lie "
        f"beside a training or sweep once, and cannot be had: {'; '.join(others)}. Bring them "
        f"back as {folders[0] / wanted}{SUFFIX}, or name their file or folder by "
        f"{KEY}=PATH."
    )


def _places(folder: Path, wanted: str) -> Iterator[Path]:
    """Where weights lie: in the folder, or where its pointer says."""
    yield folder / f"{wanted}{SUFFIX}"
    pointer = folder / f"{wanted}.json"
    if pointer.exists():
        try:
            yield Path(json.loads(pointer.read_text())["file"])
        except (ValueError, LookupError, TypeError, OSError):
            yield pointer  # damaged, which its reader says


def _moved(named: str, wanted: str) -> list[Path]:
    """The files that `train.external` names: those of a folder, that of the same name first."""
    if not named:
        return []
    path = Path(named).expanduser()
    if not path.is_dir():
        return [path]
    beside = path / f"{wanted}{SUFFIX}"
    return [beside, *(other for other in sorted(path.glob(f"*{SUFFIX}")) if other != beside)]


def _short(fingerprint: str) -> str:
    return f"sha256 {fingerprint[:_SHOWN]}"
