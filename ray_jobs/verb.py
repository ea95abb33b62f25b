"""What every verb shares: how a command ends, and how an error looks."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

OK, USAGE, SOME_FAILED, ALL_FAILED, INTERRUPTED = 0, 2, 3, 1, 130
"""Exit statuses: 0 all went well; 2 a request that cannot be carried out; 3 some trials failed; 1
all of them, or an error of our own; 130 stopped by Ctrl-C or SIGTERM, resumable."""


def parser(verb: str, description: str) -> ArgumentParser:
    """An argument parser in the project's form."""
    made = ArgumentParser(
        prog=f"python -m ray_jobs.{verb}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )
    made.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    return made


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"a whole number from 1 on, not {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise ArgumentTypeError(f"a number above 0, not {text!r}")
    return value


def add_settings_arguments(made: ArgumentParser, system_required: bool = True) -> None:
    """SYSTEM, key=value overrides, --preset and --settings."""
    nargs = None if system_required else "?"
    help_text = "hdr_patch, or your own as module:attribute"
    made.add_argument("system", metavar="SYSTEM", nargs=nargs, help=help_text)
    made.add_argument("overrides", metavar="key=value", nargs="*", help="settings, by dotted key")
    made.add_argument(
        "--preset", metavar="NAME", help="start from settings/presets/SYSTEM/NAME.yaml"
    )
    made.add_argument("--settings", metavar="FILE", help="a YAML or JSON file of dotted keys")


def run_verb(main: Callable[[Any], int], arguments: Any) -> int:
    """Runs a verb; an error a user can mend is one message on standard error and status 2."""
    from results.lock import LockHeldError
    from settings.schema import SettingsError
    from trainables.checkpoint import CheckpointError

    try:
        return main(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (
        SettingsError,
        CheckpointError,
        LockHeldError,
        ValueError,
        OSError,
        RuntimeError,
    ) as error:
        if arguments.debug:
            raise
        name = "" if isinstance(error, SettingsError) else f"{type(error).__name__}: "
        print(f"error: {name}{error}", file=sys.stderr)
        return USAGE


def finish(status: int) -> None:
    """Ends the process with that status, past interpreter threads that ray leaves behind."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def data_line(notes: Mapping[str, float]) -> str:
    """What became of the data, in one line: nothing is left out without a count."""
    shown = ", ".join(f"{name} {value:g}" for name, value in notes.items())
    return f"data: {shown}" if shown else ""


def cache_directory() -> Path:
    """Where prepared data is kept between sweeps: WEIGHBRIDGE_CACHE, or ~/.cache/weighbridge."""
    return Path(os.environ.get("WEIGHBRIDGE_CACHE", Path.home() / ".cache" / "weighbridge"))
