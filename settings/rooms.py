"""Our top-level packages, and where folders of the same names hide ours or are hidden by them.

The names are common: a user's own repository often has a `models` or a `data` too, and Python
takes the first that it finds along its import path. The standard library alone is needed here, and
nothing of ours: `ray_jobs/__init__.py` runs this file before it knows where ours are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

NEEDED = (
    "settings",
    "models",
    "losses",
    "metrics",
    "data",
    "search_spaces",
    "trainables",
    "search",
    "results",
)
"""What the verbs import. No verb imports `benchmarks`, which may be hidden."""

ROOMS = (*NEEDED, "ray_jobs", "benchmarks")

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder that holds them all."""


def hiding_ours() -> str:
    """What hides our packages, why, and the remedy; "" where Python finds each beside us."""
    hiding: dict[str, dict[str, str]] = {}
    for room in NEEDED:
        place = _place(_spec(room))
        if place and not _is_ours(place, room):
            hiding.setdefault(os.path.dirname(place), {})[room] = place
    return " ".join(_way_out(folder, found) for folder, found in hiding.items())


def hidden_by_ours(error: ImportError | AttributeError) -> str:
    """Which package of the user one of ours hides, so that its import ended in `error`, and the
    remedy; "" where that is not the reason.

    The user's package is looked for along the import path, and beside the files that the import
    went through.
    """
    name = _searched(error)
    room = name.partition(".")[0]
    if room not in ROOMS or not _is_ours(_place(_spec(room)), room):
        return ""
    for folder in [*sys.path, *_folders(error)]:
        theirs = _found_in(folder, name)
        if theirs and not _is_ours(theirs, room):
            own = os.path.join(os.path.dirname(theirs), "my_project", room)
            return (
                f"Our `{room}` ({os.path.join(HOME, room)}) hides yours at {theirs}. Move yours "
                f"into a package with a name of its own ({own}) and import it from there, as "
                f"`my_project.{name}`."
            )
    return ""


def _is_ours(place: str, room: str) -> bool:
    """Whether a place is our package, also through the links of a folder or of an installer."""
    ours = os.path.join(HOME, room)
    return place == ours or os.path.realpath(place) == os.path.realpath(ours)


def _spec(room: str) -> ModuleSpec | None:
    try:
        return find_spec(room)
    except ValueError:  # imported, and made without a spec
        return None


def _place(spec: ModuleSpec | None) -> str:
    """The folder of a package or the file of a module; "" where there is none."""
    if spec is None:
        return ""
    place = next(iter(spec.submodule_search_locations or ()), spec.origin)
    return os.path.abspath(place) if place else ""


def _way_out(folder: str, found: dict[str, str]) -> str:
    finds = " and ".join(f"`import {room}` finds {place}" for room, place in found.items())
    reasons = _reasons(folder)
    why, way = " and ".join(reasons), " and ".join(reasons.values())
    room = next(iter(found))
    path = f"PYTHONPATH={HOME}{os.pathsep}{folder}"
    text = f"{finds}, not ours in {HOME}: {folder} is searched first, since {why}. "
    if not any(map(_holds_code, found.values())):
        return f"{text}Without an `__init__.py` there, ours win with {path}."
    return (
        f"{text}{way[0].upper()}{way[1:]}, or give what hides ours another name, as in a package "
        f"of your own ({os.path.join(folder, 'my_project', room)}, imported as "
        f"`my_project.{room}`). What needs none of them is found from another folder with {path}."
    )


def _holds_code(place: str) -> bool:
    """Whether a place is a package or a module: Python prefers one anywhere on its path to a
    folder without `__init__.py`, which hides ours only where no folder of the path holds them, as
    after `pip install -e`.
    """
    return not os.path.isdir(place) or os.path.exists(os.path.join(place, "__init__.py"))


def _reasons(folder: str) -> dict[str, str]:
    """Why a folder is on the import path -> what takes it from there."""
    reasons = {}
    real = os.path.realpath(folder)
    named = os.environ.get("PYTHONPATH", "")
    if named and real in map(os.path.realpath, named.split(os.pathsep)):
        reasons["PYTHONPATH names it"] = "take it out of PYTHONPATH"
    # Python puts one of the two first: the folder of the program, else the current one.
    if os.path.isfile(sys.argv[0]) and real == os.path.dirname(os.path.realpath(sys.argv[0])):
        reasons["it is the folder of the program"] = "move the program"
    elif real == os.path.realpath(os.curdir):
        reasons["it is the current folder"] = "run from another folder"
    return reasons or {"sys.path names it before ours": f"put {HOME} before it"}


def _searched(error: ImportError | AttributeError) -> str:
    """The dotted name of the module that was not found, or in which something was not found."""
    if isinstance(error, ImportError):
        return error.name or ""
    return error.obj.__name__ if isinstance(error.obj, ModuleType) else ""


def _folders(error: BaseException) -> Iterator[str]:
    """The folders of the files in an error's traceback."""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if os.path.isabs(file):  # not "<frozen importlib._bootstrap>"
            yield os.path.dirname(file)
        trace = trace.tb_next


def _found_in(folder: str, name: str) -> str:
    """Where the top-level package of a module lies, if `folder` has that module; else "". Nothing
    is imported.
    """
    places = []
    path = [folder]
    for part in name.split("."):
        spec = PathFinder.find_spec(part, path)
        if spec is None:
            return ""
        places.append(_place(spec))
        path = list(spec.submodule_search_locations or ())
    return places[0]
