"""The verbs, a module each.

Importing this package looks where Python finds each of our top-level packages, for the current
folder or PYTHONPATH may have a `models` or a `data` that hides ours. It is the one exception to
the rule that no module does work when it is imported: later, an import of ours would already have
failed, with an error that does not show why. It takes 1.2 ms (`python -X importtime -c
"import ray_jobs"`).
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType


def refuse_where_ours_are_hidden() -> None:
    """Ends in words where a verb or a program would import another's packages for ours.

    Raises:
        ImportError: what hides ours, and the way out.
        SystemExit: the same of `python -m ray_jobs.VERB` and `weighbridge VERB`, said on standard
            error.
    """
    rooms = ModuleType("settings.rooms")
    rooms.__file__ = os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "settings", "rooms.py"
    )
    # By its file: `import settings` may find what hides ours.
    SourceFileLoader(rooms.__name__, rooms.__file__).exec_module(rooms)
    if not (hiding := rooms.hiding_ours()):
        return
    # An ImportError would come with a trace of Python's own runpy, or of the console script. `-m`
    # is what `python -m` sets while it looks for the module, and imports the package above it.
    if sys.argv and os.path.basename(sys.argv[0]) in ("-m", "weighbridge"):
        print(f"error: {hiding}", file=sys.stderr)
        raise SystemExit(2)  # `ray_jobs.verb.USAGE`
    raise ImportError(hiding)


refuse_where_ours_are_hidden()
