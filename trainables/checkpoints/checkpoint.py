"""Checkpoints of a trial: written whole or not at all, read without unpickling code, kept as told.

`checkpoints/step-00000100/` holds `modules.safetensors`, `state.pt` (optimizers, EMA, scaler,
balancers) and `meta.json` (system, settings, step, the report of that step, size and CRC of each
file), written in this order into a temporary folder that is renamed last. All of it is forced to
disk, so that a machine that loses its power keeps whole checkpoints as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from settings.atomic_file import force_to_disk
from settings.command import command
from settings.paths import STAGES, TrainingPaths
from settings.systems import as_stored, current_name
from trainables.checkpoints import external
from trainables.checkpoints.error import CheckpointError, ExternalError
from trainables.external import External, read_tensors, write_tensors

FORMAT = 2
"""1 had all modules in the checkpoint, and every name its own tensor; it is read."""

TENSORS = "modules.safetensors"
_PREFIX = "step-"
STAGE = "stage-"
"""What the folders of a progressive training begin with."""

REMOVED = "removed.json"
"""The file beside the checkpoints that says which have been deleted, and by which option."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, on the CPU.

    Attributes:
        tensors: with those of its external modules, which lie beside it.
        external: these modules, each with the file in which its weights were found.
    """

    path: Path
    step: int
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    external: Mapping[str, External] = field(default_factory=dict)


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> Path:
    """Writes one checkpoint. A crash at any moment, of the process or the machine, leaves either
    all of it or nothing that is read.
    """
    target = at_step(folder, step)
    for left_over in folder.glob(f".{_PREFIX}*"):  # of a process that was killed while it wrote
        shutil.rmtree(left_over, ignore_errors=True)
    scratch = folder / f".{target.name}.{os.getpid()}"
    scratch.mkdir(parents=True)
    write_tensors(scratch / TENSORS, tensors)
    torch.save(dict(state), scratch / "state.pt")
    files = {path.name: _fingerprint(path) for path in sorted(scratch.iterdir())}
    (scratch / "meta.json").write_text(
        json.dumps({"format": FORMAT, "step": step, "files": files, **meta})
    )
    for path in (*sorted(scratch.iterdir()), scratch):
        force_to_disk(path)
    if target.exists():
        shutil.rmtree(target)
    scratch.rename(target)
    force_to_disk(folder)
    return target


def read_meta(path: Path) -> dict[str, Any]:
    """Reads the meta of a checkpoint: its system, settings and step, and the report of that step.
    """
    try:
        meta = json.loads((path / "meta.json").read_text())
    except (OSError, ValueError) as error:
        reason = "" if path.exists() else why_removed(path.parent)
        reason = reason or f"{path}: meta.json cannot be read ({error})."
        raise CheckpointError(reason) from error
    if not isinstance(meta, dict) or not {"system", "step", "files"} <= meta.keys():
        raise CheckpointError(f"{path}: meta.json lacks system, step or files; it is damaged.")
    if meta.get("format", FORMAT) > FORMAT:
        raise CheckpointError(
            f"{path} has format {meta['format']}, and this version reads up to {FORMAT}. Read it "
            "with the version that wrote it, or a newer one."
        )
    settings = as_stored(meta["system"], meta.get("settings", {}))
    return {**meta, "system": current_name(meta["system"]), "settings": settings}


def source(path: Path) -> dict[str, Any]:
    """Where weights are, for what is made of them to name: `path`, `step`, and `fingerprint`, size
    in bytes and CRC-32 of their file.
    """
    meta = read_meta(path)
    size, crc = meta["files"][TENSORS]
    return {
        "path": str(path.resolve()),
        "step": meta["step"],
        "fingerprint": f"{size}-{crc:08x}",
    }


def load(path: Path, system: str, moved: str = "") -> Checkpoint:
    """Reads one checkpoint.

    Args:
        moved: `train.external`, where the weights of external modules lie now.

    Raises:
        CheckpointError: a file is missing, short or altered, or the checkpoint is of another
            system.
    """
    meta = read_meta(path)
    if meta.get("system") != system:
        raise CheckpointError(
            f"{path} is a checkpoint of system {meta.get('system')!r}, not of {system!r}. "
            f"Name the system it was trained as."
        )
    for name, expected in meta["files"].items():
        fingerprint = _fingerprint(path / name) if (path / name).exists() else None
        if fingerprint != expected:
            raise CheckpointError(
                f"{path}: {name} is damaged (size and CRC {fingerprint}, written as {expected})."
            )
    try:
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: state.pt holds more than tensors and plain values. It is not opened, for it "
            "could run code."
        ) from None
    beside = external.load(path, meta.get("external", {}), moved)
    tensors = {**read_tensors(path / TENSORS), **beside.tensors}
    return Checkpoint(path, meta["step"], meta, tensors, state, beside.external)


def available(folder: Path) -> list[Path]:
    """The complete checkpoints of a trial, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def at_step(folder: Path, step: int) -> Path:
    """The path of the checkpoint of a step."""
    return folder / f"{_PREFIX}{step:08d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix(_PREFIX))


def at_stage(directory: Path, number: int) -> Path:
    """The directory of one stage of a progressive training, counted from 1."""
    return directory / f"{STAGE}{number}"


def _stages(directory: Path) -> list[Path]:
    """The stages of a progressive training that have begun, the last one first."""
    number = {path: path.name.removeprefix(STAGE) for path in directory.glob(f"{STAGE}*")}
    return sorted((p for p in number if number[p].isdecimal()), key=lambda p: -int(number[p]))


def find(path: Path, best: bool = False) -> Path:
    """The checkpoint at `path`: itself, or the newest of a training; with `best` the training's
    best one by its objective, the newest where none is known. A progressive training has it in its
    last stage with a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "meta.json").exists():
        return path
    folder = TrainingPaths(path).checkpoints
    folder = path if path.name == folder.name else folder
    folders = [folder, *(TrainingPaths(stage).checkpoints for stage in _stages(path))]
    steps = next(filter(None, map(available, folders)), [])
    if not steps:
        at = path.parent if path.name.startswith(_PREFIX) else folder
        raise CheckpointError(
            why_removed(at)
            or _why_none_yet(folder.parent)
            or f"{path} is neither a checkpoint (step-*/meta.json) nor a folder with some."
        )
    noted = read_meta(steps[-1]).get("best") if best else None
    at_steps = {step_of(step): step for step in steps}
    return at_steps.get(noted[0], steps[-1]) if noted else steps[-1]


def _why_none_yet(directory: Path) -> str:
    """That a training has not come to its first checkpoint, and what to do; "" where there is no
    training.
    """
    files = TrainingPaths(directory).settings, directory / STAGES
    if not any(file.exists() for file in files):
        return ""
    return (
        f"{directory} is a training without a checkpoint yet: the first comes with a report, "
        "after train.report_every steps at the earliest. Wait for it where the training runs; "
        "where it has stopped, let it go on with --resume."
    )


def removed(folder: Path) -> dict[str, Any] | None:
    """What is noted of checkpoints that were deleted from a folder: `by`, `steps`; None where
    nothing is.
    """
    try:
        note = json.loads((folder / REMOVED).read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and {"by", "steps"} <= note.keys() else None


def why_removed(folder: Path) -> str:
    """Why checkpoints of a sweep's trial are gone, and the way out; "" where none was deleted."""
    note = removed(folder)
    if note is None:
        return ""
    left = [path.name for path in available(folder)]
    there = f"It has {', '.join(left)}" if left else "It has none left: name another trial"
    steps, trial = ", ".join(map(str, note["steps"])), folder.resolve().parent
    return (
        f"{folder}: the checkpoints of the steps {steps} were deleted by {note['by']}, an option "
        f"of the sweep. {there}, or train its settings again: {command('train')} --from-sweep "
        f"{trial.parents[1]} --trial {trial.name} --dir DIR."
    )


def newest_good(
    folder: Path, system: str, warn: Callable[[str], None], moved: str = ""
) -> Checkpoint | None:
    """The newest checkpoint that can be read; damaged ones are named through `warn` and passed
    over.

    Raises:
        CheckpointError: every checkpoint there is damaged, one is of another system, or its
            external modules cannot be had.
    """
    paths = available(folder)
    problems = []
    for path in reversed(paths):
        try:
            return load(path, system, moved)
        except ExternalError:
            raise
        except CheckpointError as error:
            if "is a checkpoint of system" in str(error):
                raise
            problems.append(str(error))
            warn(f"{error} Falling back to the previous one.")
    if problems:
        raise CheckpointError(f"no readable checkpoint below {folder}: {' '.join(problems)}")
    return None


def prune(
    folder: Path,
    best_step: int | None,
    keep_every: int,
    ends: int = 0,
    steps: Collection[int] = (),
) -> None:
    """Deletes all checkpoints but the last two (one to fall back to), the best, those of every
    `keep_every` steps (0: none) and of `steps`, and the last `ends` of those at which a segment
    ended.
    """
    paths = available(folder)
    lent = _segment_ends(paths)[-ends:] if ends else []
    for path in paths[:-2]:
        step = step_of(path)
        is_kept = step in (best_step, *steps) or (keep_every and step % keep_every == 0)
        if not is_kept and path not in lent:
            shutil.rmtree(path, ignore_errors=True)


def _segment_ends(paths: Iterable[Path]) -> list[Path]:
    ends = []
    for path in paths:
        with contextlib.suppress(CheckpointError):
            if read_meta(path).get("ends_segment"):
                ends.append(path)
    return ends


def _fingerprint(path: Path) -> list[int]:
    data = path.read_bytes()
    return [len(data), zlib.crc32(data)]
