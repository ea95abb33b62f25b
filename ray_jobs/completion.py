"""What <TAB> offers after `weighbridge`: verbs, options, systems, presets, spaces, and settings
with their values.

argcomplete reads the words from the environment and the options from the verb's own parser. The
settings of a system are known once it is imported, which takes seconds where it needs torch; they
are kept in the user's cache for as long as no file that the import has read changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import sysconfig
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from argcomplete import CompletionFinder
from argcomplete.completers import DirectoriesCompleter, FilesCompleter, SuppressCompleter
from argcomplete.lexers import split_line

from ray_jobs.verb import VERBS, cache_directory
from settings.files import PRESETS, SUFFIXES
from settings.rooms import HOME, ROOMS
from settings.schema import SettingsError
from settings.systems import SYSTEMS

Completer = Callable[..., Any]


def complete() -> None:
    """Writes what may stand at the cursor to argcomplete's stream, and ends the process."""
    words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]
    if len(words) > 1 and words[1] in VERBS:
        os.environ["_ARGCOMPLETE"] = "2"  # the words of the verb begin with the second
        parser = parser_of(words[1])
    else:
        parser = ArgumentParser(add_help=False)
        verbs: Any = parser.add_argument("verb")
        verbs.completer = lambda **_: VERBS
    # Options once a dash is typed: they would stand between a hundred settings.
    nothing = SuppressCompleter()
    CompletionFinder()(parser, always_complete_options=False, default_completer=nothing)


def parser_of(verb: str) -> ArgumentParser:
    """The verb's parser, with what may follow each of its options."""
    parser: ArgumentParser = import_module(f"ray_jobs.{verb}").make_parser()
    parser.__class__ = _Intermixed
    for action in parser._actions:  # argparse has no other list of them
        kind = str(action.metavar).partition("[")[0]
        if completer := COMPLETERS.get(action.dest) or _PATHS.get(kind):
            vars(action)["completer"] = completer  # where argcomplete looks for it
    return parser


class _Intermixed(ArgumentParser):
    """Takes positional arguments between the options too, as the verbs do, by
    `parse_intermixed_args`; argcomplete knows `parse_known_args` alone.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(_positionals_last(self, args), namespace)


def _positionals_last(parser: ArgumentParser, words: Sequence[str]) -> list[str]:
    """The same words with the options first; one that waits for its value stays at the end."""
    options: list[str] = []
    positionals: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        action = parser._option_string_actions.get(word)
        if not word.startswith("-"):
            positionals.append(word)
        elif action is None or action.nargs == 0:
            options.append(word)
        else:
            values = _values(action, rest)
            if not rest and (action.nargs == "+" or not values):
                return [*options, *positionals, word, *values]
            options += [word, *values]
    return [*options, *positionals]


def _values(action: Action, rest: list[str]) -> list[str]:
    """Takes the values of an option from the words behind it."""
    values: list[str] = []
    while rest and not rest[0].startswith("-") and (action.nargs == "+" or not values):
        values.append(rest.pop(0))
    return values


def systems(**_: Any) -> Iterable[str]:
    """The names of `SYSTEMS`."""
    return SYSTEMS


def presets(parsed_args: Namespace, **_: Any) -> list[str]:
    """The presets of the system that is named."""
    folder = PRESETS / (_system(parsed_args) or "-")
    return sorted(path.stem for path in folder.glob("*.yaml"))


def spaces(parsed_args: Namespace, prefix: str, **_: Any) -> list[str]:
    """The search spaces of the system that is named, and YAML files."""
    files = FilesCompleter(["yaml", "yml"])(prefix)
    name = _system(parsed_args)
    named = import_module(f"search_spaces.{name}").SPACES if name in SYSTEMS else {}
    return [*named, *files]


def settings_files(prefix: str, **_: Any) -> list[str]:
    """Files of settings."""
    return list(FilesCompleter([suffix.lstrip(".") for suffix in SUFFIXES])(prefix))


def settings(parsed_args: Namespace, prefix: str, **_: Any) -> Mapping[str, str]:
    """The settings of the system as `key=`, and behind the sign the legal values of switches and
    choices; with their help, which zsh shows. None that is set already.
    """
    name = _system(parsed_args)
    if name is None or (name not in SYSTEMS and ":" not in name):
        return {}
    try:
        leaves = _leaves(name)
    except SettingsError:  # it cannot be loaded; the verb will say so
        return {}
    key, sign, _value = prefix.partition("=")
    if sign:
        leaf = leaves.get(key, {"values": [], "help": ""})
        return {f"{key}={value}": leaf["help"] for value in leaf["values"]}
    given = [parsed_args.system, *(getattr(parsed_args, "overrides", None) or [])]
    taken = {word.partition("=")[0] for word in given if word}
    return {f"{key}=": leaf["help"] for key, leaf in leaves.items() if key not in taken}


COMPLETERS: Mapping[str, Completer] = {
    "system": systems,
    "preset": presets,
    "space": spaces,
    "settings": settings_files,
    "overrides": settings,
    "stages": settings,
}
"""Name of an argument -> what may stand there."""

_PATHS: Mapping[str, Completer] = {
    "DIR": DirectoriesCompleter(),
    "CHECKPOINT": DirectoriesCompleter(),
    "FILE": FilesCompleter(),
    "PATH": FilesCompleter(),
}
"""Metavar of any other argument -> who completes it."""


def _system(arguments: Namespace) -> str | None:
    """The system of the command line, or that of the sweep it names."""
    name: str | None = getattr(arguments, "system", None)
    if name is not None and "=" not in name:
        return name
    for option in ("from_sweep", "resume"):
        sweep = getattr(arguments, option, None)
        if isinstance(sweep, str):
            with contextlib.suppress(OSError, ValueError, KeyError):  # the verb will say so
                return str(json.loads((Path(sweep) / "sweep.json").read_text())["system"])
    return None


def _leaves(name: str) -> dict[str, dict[str, Any]]:
    """Key -> `values`, those of a switch or a choice, and `help`; from the cache where no file has
    changed.
    """
    # One of the user's own is found by way of the current folder or PYTHONPATH.
    place = [HOME, name] if name in SYSTEMS else [name, os.getcwd(), os.environ.get("PYTHONPATH")]
    digest = hashlib.sha256(json.dumps(place).encode()).hexdigest()[:16]
    file = cache_directory() / "completion" / f"{digest}.json"
    with contextlib.suppress(OSError, ValueError):  # none yet, or a damaged one: made anew
        stored = json.loads(file.read_text())
        if all(os.stat(path).st_mtime_ns == time for path, time in stored["files"].items()):
            leaves: dict[str, dict[str, Any]] = stored["leaves"]
            return leaves
    return _read_anew(name, file)


def _read_anew(name: str, file: Path) -> dict[str, dict[str, Any]]:
    from settings.atomic_file import atomic_file
    from settings.flat import leaves
    from trainables.system import load_system

    described = {}
    for key, leaf in leaves(load_system(name).Settings).items():
        values = ("true", "false") if leaf.type is bool else leaf.choices or ()
        described[key] = {"values": [str(value) for value in values], "help": leaf.help}
    times = {path: os.stat(path).st_mtime_ns for path in _sources()}
    with contextlib.suppress(OSError), atomic_file(file) as scratch:  # read anew the next time
        scratch.write_text(json.dumps({"files": times, "leaves": described}))
    return described


def _sources() -> list[str]:
    """The files of all imported modules but those of libraries."""
    libraries = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    return [
        path
        for name, module in list(sys.modules.items())
        if (path := getattr(module, "__file__", None)) and os.path.isfile(path)
        if name.partition(".")[0] in ROOMS or not path.startswith(libraries)
    ]
