"""`weighbridge VERB ...`: every verb by its name, and the completion of what is typed.

`weighbridge VERB` does what `python -m ray_jobs.VERB` does; jobs submit the second, which needs no
installation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ray_jobs import refuse_where_ours_are_hidden


def script() -> None:
    """The console script; ends the process with the exit status of the verb."""
    _search_current_folder()
    refuse_where_ours_are_hidden()
    if "_ARGCOMPLETE" in os.environ:
        from ray_jobs.completion import complete

        complete()
    from ray_jobs.verb import finish

    finish(main(sys.argv[1:]))


def _search_current_folder() -> None:
    """Puts it first on the import path, where `python -m` has it: systems of one's own are found
    there. With ours on the path as well, a folder `data` without code hides none of them.
    """
    if not getattr(sys.flags, "safe_path", False):  # python -P, from 3.11 on
        sys.path.insert(0, os.getcwd())
    sys.path.append(str(Path(__file__).resolve().parents[1]))


def main(argv: Sequence[str]) -> int:
    """Carries out the verb that comes first, or lists the verbs; returns the exit status."""
    from ray_jobs.verb import OK, USAGE, VERBS, lasting_output

    if not argv or argv[0] in ("-h", "--help"):
        with lasting_output():
            print(_overview())
        return OK
    if argv[0] not in VERBS:
        print(f"error: {_no_such_verb(argv[0])}", file=sys.stderr)
        return USAGE
    status: int = import_module(f"ray_jobs.{argv[0]}").main(argv[1:])
    return status


def _overview() -> str:
    from ray_jobs.verb import VERBS
    from settings.command import PROGRAM, command

    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {about}" for verb, about in VERBS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} VERB ...",
            "",
            *lines,
            "",
            f"`{command('VERB')} --help` says more of a verb, and",
            f"`{command('train')} SYSTEM --show` lists the settings of a system.",
        ]
    )


def _no_such_verb(name: str) -> str:
    from ray_jobs.verb import VERBS
    from settings.flat import nearest_names

    nearest = nearest_names(name, VERBS, alike=0.5)  # of few short words one is always near
    guess = f"Nearest: {', '.join(nearest)}. " if nearest else ""
    return f"there is no verb {name!r}. {guess}Verbs: {', '.join(VERBS)}."
