"""Folders that are made once and then found, by any number of processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

INDEX = "index.json"


def cached_folder(folder: Path, make: Callable[[Path], Any]) -> Any:
    """What `make` wrote into that folder, or had written; returns what it returned, read back from
    JSON. The folder appears under its name only when it is complete.
    """
    if not (folder / INDEX).is_file():
        # A name of its own: pids repeat across the machines that may share this cache.
        scratch = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        try:
            (scratch / INDEX).write_text(json.dumps(make(scratch), indent=1))
            try:
                os.rename(scratch, folder)
            except OSError:
                if not (folder / INDEX).is_file():
                    raise
                # Another process finished the same work first; its files are the same.
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return json.loads((folder / INDEX).read_text())


def cache_key(*parts: Any) -> str:
    """A name for what is a function of those parts (anything that JSON holds)."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_states(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of each file that is there: what changes when its content does."""
    states = ((path, path.stat()) for path in files if path.is_file())
    return [(str(path.absolute()), state.st_size, state.st_mtime_ns) for path, state in states]
