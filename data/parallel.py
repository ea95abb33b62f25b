"""The same work on many items by threads, with a line that says how far it is.

Threads, since what takes long in a conversion (decoding, copying) leaves the interpreter to the
others: two read EXR files with zip compression as fast as two processes, which would take a
second to start.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = 16
"""Each has a frame or two in memory."""

_QUIET_SECONDS = 2.0
"""What is done within it says nothing."""

_EVERY_SECONDS = 0.5


def each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    doing: str,
    workers: int | None = None,
) -> list[Result]:
    """The results in the order of the items. An error of one ends all.

    Args:
        doing: of the line on a terminal's standard error.
        workers: threads; as many as there are processors (16 at most) where None.
    """
    workers = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
    if workers == 1:
        return list(_told((work(item) for item in items), len(items), doing))
    pool = ThreadPoolExecutor(workers)
    try:
        return list(_told(pool.map(work, items), len(items), doing))
    finally:
        pool.shutdown(cancel_futures=True)


def _told(results: Iterable[Result], count: int, doing: str) -> Iterator[Result]:
    """The results, while one line of a terminal's standard error says how many there are."""
    began = told = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        now = time.monotonic()
        is_shown = now - began > _QUIET_SECONDS and sys.stderr.isatty()
        if is_shown and (now - told > _EVERY_SECONDS or done == count):
            told = now
            end = "\n" if done == count else ""
            sys.stderr.write(f"\r{doing}: {done} of {count}{end}")
            sys.stderr.flush()
