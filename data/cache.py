"""Folders that are made once and then found, by any number of processes; old ones are removed."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from settings.schema import Settings

INDEX = "index.json"

_WRITER = ".writer"
"""Suffix of the file that a writer keeps locked, beside its scratch folder of the same name."""


KEPT = 8
"""Folders of a kind (the data of a system) that are kept in any case, those used last. A sweep
uses one, or one for each value of what shapes its data, and people go to and fro between a few;
each may have gigabytes.
"""

UNUSED_SECONDS = 24 * 3600.0
"""A folder that was used within this time is kept as well. Locks show who uses one, but where
machines share a cache, a lock may be known to its own machine only.
"""

KIND = re.compile(r"(.+)-[0-9a-f]{16}")
"""Name of a folder that `cached_by` has named."""


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

    It is in use until this process ends, or has asked for `KEPT` others since. After a new one,
    those named by `cached_by` beside it that are of its kind are removed, unless they are in use,
    were used lately (`UNUSED_SECONDS`), or are the `KEPT` that were used last.

    Raises:
        CacheError: its index cannot be read.
    """
    index = folder / INDEX
    while not _use(index):
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
        _remove_unused(folder)
    try:
        return json.loads(index.read_text())
    except ValueError as error:
        raise CacheError(
            f"{index} is damaged ({error}); a full disk or a lost machine may leave it so. Delete "
            f"the folder {folder}: it is made anew."
        ) from error


_used: dict[Path, int] = {}
"""The folders that this process uses, the one asked for last at the end; each with the descriptor
by which it holds a shared lock on the folder's index.
"""


def _use(index: Path) -> bool:
    """Marks a folder as used now and by this process; False where there is none."""
    try:
        descriptor = os.open(index, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):  # no locks on this file system
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for who is removing it
    if not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        return False
    with contextlib.suppress(OSError):  # another user's
        os.utime(descriptor)
    before = _used.pop(index.parent, None)
    _used[index.parent] = descriptor
    if before is None and len(_used) > KEPT:
        before = _used.pop(next(iter(_used)))
    if before is not None:
        os.close(before)
    return True


def _remove_unused(folder: Path) -> None:
    """Removes the folders beside a new one that are of its kind and no longer used."""
    kind = KIND.fullmatch(folder.name)
    if kind is None:
        return
    used = {
        path: _used_at(path)
        for path in folder.parent.iterdir()
        if (other := KIND.fullmatch(path.name)) and other[1] == kind[1]
    }
    newest_first = sorted(used, key=lambda path: used[path], reverse=True)
    for path in newest_first[KEPT:]:
        if time.time() - used[path] > UNUSED_SECONDS:
            remove_folder(path)


def _used_at(folder: Path) -> float:
    """When it was last used, in seconds since the epoch; infinite for what is no such folder."""
    try:
        return (folder / INDEX).stat().st_mtime
    except OSError:
        return float("inf")


def remove_folder(folder: Path) -> bool:
    """Removes a folder of the cache; False where somebody uses it, or it is not ours to remove.

    Whoever asks for it meanwhile waits, and makes it anew.
    """
    try:
        descriptor = os.open(folder / INDEX, os.O_RDWR)
    except OSError:
        return False  # removed by another process, or another user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_nlink:
            return False  # removed by another process; what has its name is new
        with _scratch(folder) as scratch:
            os.rename(folder, scratch / folder.name)
    except OSError:
        return False  # it is used, or there are no locks on this file system
    finally:
        os.close(descriptor)
    return True


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
