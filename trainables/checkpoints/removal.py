"""Checkpoints that a sweep keeps no longer are deleted, and their folder says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from settings.atomic_file import atomic_file
from trainables.checkpoints import checkpoint

_LEAVING = ".removed-"
"""What the name of a checkpoint begins with once it is being deleted."""


def trim(folder: Path, beside: Collection[int] | None, rule: str) -> int:
    """Deletes the checkpoints of a trial but for the best, the newest, those of every
    `train.keep_every` steps and those of some more steps.

    The first thing on disk is the note (`checkpoint.REMOVED`), and a checkpoint loses its name
    before its files: whoever is killed in between leaves nothing that looks whole, and the next
    call ends it. Nothing is deleted where the newest checkpoint is damaged.

    Args:
        folder: the trial's checkpoints.
        beside: the steps; None to keep none, neither the best nor the newest.
        rule: the option by which they are deleted, for the note.

    Returns:
        How many were deleted.

    Raises:
        OSError: one cannot be deleted.
    """
    for left_over in folder.glob(f"{_LEAVING}*"):
        shutil.rmtree(left_over)
    paths = checkpoint.available(folder)
    staying = _kept(paths, beside)
    gone = [path for path in paths if checkpoint.step_of(path) not in staying]
    if not gone:
        return 0
    _note(folder, [checkpoint.step_of(path) for path in gone], rule)
    for path in gone:
        leaving = path.with_name(f"{_LEAVING}{path.name}")
        try:
            path.rename(leaving)
        except FileNotFoundError:
            continue  # the trial, which goes on, has deleted it itself
        shutil.rmtree(leaving)
    return len(gone)


def _kept(paths: Sequence[Path], beside: Collection[int] | None) -> set[int]:
    """The steps that are kept."""
    if beside is None or not paths:
        return set()
    steps = {checkpoint.step_of(path) for path in paths}
    try:
        meta = checkpoint.read_meta(paths[-1])
    except checkpoint.CheckpointError:
        return steps
    if not all(_has_size(paths[-1] / name, size) for name, (size, _) in meta["files"].items()):
        return steps
    every = meta.get("settings", {}).get("train.keep_every", 0)
    asked = {step for step in steps if every and step % every == 0}
    return {max(steps), *(meta.get("best") or ())[:1], *beside, *asked}


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _note(folder: Path, steps: Sequence[int], rule: str) -> None:
    before = checkpoint.removed(folder)
    earlier = before["steps"] if before else []
    with atomic_file(folder / checkpoint.REMOVED) as scratch:
        scratch.write_text(json.dumps({"by": rule, "steps": sorted({*earlier, *steps})}) + "\n")
