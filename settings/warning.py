"""The one form of a warning."""

from __future__ import annotations

import sys


def warn(text: str) -> None:
    """Writes `warning: <text>` to stderr, as one line and at once: what goes on otherwise than
    the user may think. An error that ends the process says `error:`.
    """
    sys.stderr.write(f"warning: {' '.join(text.splitlines())}\n")
    sys.stderr.flush()
