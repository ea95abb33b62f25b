"""Counts in messages: `1 image has`, `2 images have`."""

from __future__ import annotations


def counted(count: int, one: str, several: str = "") -> str:
    """The count, and the words that follow it.

    Args:
        one, several: see `worded`.
    """
    return f"{count} {worded(count, one, several)}"


def worded(count: int, one: str, several: str = "") -> str:
    """The words for a count.

    Args:
        one: those for 1, a noun or a verb.
        several: those for any other count; `one` with an s where it is left out.
    """
    return one if count == 1 else several or f"{one}s"
