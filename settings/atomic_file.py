"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def force_to_disk(path: Path) -> None:
    """Waits until the disk has a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path, on_disk: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to. At the end of the block it becomes `path`; after an error
    it is gone, and `path` is what it was.

    `on_disk`: forced to disk first, so that a crash of the machine leaves no half of it either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield scratch
        if on_disk:
            force_to_disk(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
