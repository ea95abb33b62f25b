"""Empties the cache of prepared data: `make clean-cache`."""

from __future__ import annotations

import fcntl
import re
import shutil
from pathlib import Path

from data.cache import INDEX, KIND, remove_abandoned, remove_folder

_COMPLETIONS = re.compile(r"[0-9a-f]{16}\.json")
"""Files in `completion/`: the settings that <TAB> completes."""


def clean(cache: Path) -> str:
    """Removes all that this project has put there, trained networks included, but for what a
    process uses; other files stay. Returns what it did, in words.
    """
    removed, size, in_use = 0, 0, []
    if cache.is_dir():
        remove_abandoned(cache)
    for path in sorted(cache.glob("*-*")):
        if KIND.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            held = _size(path)
            if _remove(path):
                removed, size = removed + 1, size + held
            else:
                in_use.append(path.name)
    for path in cache.glob("completion/*"):
        if _COMPLETIONS.fullmatch(path.name):
            path.unlink(missing_ok=True)
    told = f"{removed} folders removed from {cache} ({size / 1e6:.1f} MB)."
    return told + (f" In use, and left there: {', '.join(in_use)}." if in_use else "")


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _remove(path: Path) -> bool:
    """Removes a folder, unless somebody holds a lock below it."""
    if (path / INDEX).is_file():
        return remove_folder(path)
    for index in sorted(path.rglob(INDEX)):
        if not remove_folder(index.parent):
            return False
    if any(_is_locked(lock) for lock in path.rglob("lock")):
        return False  # a network is being trained
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
