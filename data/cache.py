"""Folders that are made once and then found, by any number of processes."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from settings.schema import Settings

INDEX = "index.json"

_WRITER = ".writer"
"""Suffix of the file that a writer keeps locked, beside its scratch folder of the same name."""


class CacheError(OSError):
    """A folder of the cache that cannot be used; the message says which, and what to do."""


def cached_by(
    cache: Path, kind: str, key: Sequence[Any], make: Callable[[Path], Any]
) -> tuple[Path, Any]:
    """The folder `<kind>-<hash of key>` of the cache, and what `make` returned when it filled it,
    as `cached_folder` gives it back.

    Args:
        key: all that the content is a function of, as JSON holds it: the version of the format,
            `shaping` settings, `file_states`.
    """
    folder = cache / f"{kind}-{cache_key(*key)}"
    return folder, cached_folder(folder, make)


def shaping(settings: Settings, unread: Collection[str]) -> dict[str, Any]:
    """The settings of a node that shape what is cached: all but those that `make` does not
    read.
    """
    values = dataclasses.asdict(settings)  # type: ignore[call-overload]  # a dataclass
    return {name: value for name, value in values.items() if name not in unread}


def cached_folder(folder: Path, make: Callable[[Path], Any]) -> Any:
    """Has `make` fill the folder unless it is there already; returns what `make` returned, read
    back from JSON. The folder appears under its name only when it is complete.

    Raises:
        CacheError: its index cannot be read.
    """
    index = folder / INDEX
    if not index.is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent)
        with _scratch(folder) as scratch:
            (scratch / INDEX).write_text(json.dumps(make(scratch), indent=1))
            try:
                os.rename(scratch, folder)
            except OSError:
                if not index.is_file():
                    raise
                # Another process finished the same work first; its files are the same.
    try:
        return json.loads(index.read_text())
    except ValueError as error:
        raise CacheError(
            f"{index} is damaged ({error}); a full disk or a lost machine may leave it so. Delete "
            f"the folder {folder}: it is made anew."
        ) from error


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that is gone afterwards; `remove_abandoned` sees by its
    writer's lock whether it is still in use.
    """
    while True:
        scratch = folder.parent / f".{folder.name}-{uuid.uuid4().hex}{_machine()}"
        writer = scratch.with_name(f"{scratch.name}{_WRITER}")
        descriptor = os.open(writer, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        with contextlib.suppress(OSError):  # no locks on this file system: nothing is removed
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # removed as abandoned before it was locked
    try:
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        writer.unlink(missing_ok=True)
        os.close(descriptor)


def _machine() -> str:
    """The end of a scratch folder's name: on a cache that machines share, a lock may be known to
    its own machine only.
    """
    return f"@{socket.gethostname()}"


def remove_abandoned(parent: Path) -> None:
    """Deletes the scratch folders there whose writers, on this machine, were killed."""
    for writer in parent.glob(f".*{glob.escape(_machine())}{_WRITER}"):
        try:
            descriptor = os.open(writer, os.O_RDWR)
        except OSError:
            continue  # its writer has just finished, or is another user
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its writer lives, or this file system has no locks
        else:
            shutil.rmtree(writer.with_name(writer.name.removesuffix(_WRITER)), ignore_errors=True)
            writer.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def cache_key(*parts: object) -> str:
    """A name for something that is a function of those parts (anything that JSON holds)."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_states(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of each file that exists: these change when its content does."""
    states = ((path, path.stat()) for path in files if path.is_file())
    return [(str(path.absolute()), state.st_size, state.st_mtime_ns) for path, state in states]
