"""How a text names a verb to whoever reads it."""

from __future__ import annotations

import os
import sys

PROGRAM = "weighbridge"
"""The console script, `ray_jobs/console.py`."""


def command(verb: str) -> str:
    """`weighbridge VERB` where that is how this process was started, else
    `python -m ray_jobs.VERB`.

    For what is read at once: help, errors, hints. A worker of Ray was started by neither, and says
    the second, which works wherever the code is; a file that outlives the process says that too.
    """
    typed = bool(sys.argv) and os.path.basename(sys.argv[0]) == PROGRAM
    return f"{PROGRAM} {verb}" if typed else f"python -m ray_jobs.{verb}"
