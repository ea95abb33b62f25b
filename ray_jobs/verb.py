"""What every verb shares: how a command ends, and how an error looks."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import textwrap
import threading
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from settings.command import command
from settings.systems import SYSTEMS, current_name
from settings.warning import warn

PROJECT = Path(__file__).resolve().parent.parent

OK, USAGE, SOME_FAILED, ALL_FAILED, INTERRUPTED = 0, 2, 3, 1, 130
"""Exit statuses: 0 all went well; 2 a request that cannot be carried out; 3 some trials failed
(or a stage of a training); 1 all of them (or the one training), or so many that the sweep was
ended, or an error of our own; 130 stopped by Ctrl-C, SIGTERM, SIGHUP or its --time-budget,
resumable."""

COLUMNS = 99
"""Of a line of counts."""

_DATA, _NO_BREAK = "data: ", "\u00a0"

_LEAVING_SECONDS = 10.0
"""For Ray to end its processes; it takes about two."""


VERBS: Mapping[str, str] = {
    "sweep": "Search a system's settings with Ray Tune and Optuna.",
    "train": "Train one configuration of a system.",
    "evaluate": "Measure a checkpoint on validation or other data.",
    "analyze": "Rank the trials of a sweep; write frames and a page.",
    "generate": "Apply a checkpoint to inputs of your own, or draw.",
    "simulate": "Replay a sweep under other schedulers and budgets.",
    "solvers": "Compare the solvers of a checkpoint's samples.",
    "optimal_steps": "Find the least number of steps that is enough.",
    "encode_latents": "Encode an autoencoder's data and measure its latents.",
    "profile": "Print parameters, time and memory of training steps.",
    "lr_finder": "Find out how large a learning rate a training bears.",
    "visualize_augmentations": "Draw samples as they are and as they are augmented.",
    "check": "Look at a system by the rules that it must keep.",
}
"""Every verb, which is a module of this package, and the first line of its help: here, so that
they are listed without an import of the modules.
"""


def parser(verb: str, more: str = "") -> ArgumentParser:
    """An argument parser in the project's form.

    Args:
        more: what follows the line of `VERBS` in the help. `{command}` in it stands for the verb
            as it was typed, `python -m ray_jobs.VERB` or `weighbridge VERB`.
    """
    typed = command(verb)
    made = ArgumentParser(
        prog=typed,
        description=f"{VERBS[verb]}\n\n{more.replace('{command}', typed)}".rstrip(),
        formatter_class=RawDescriptionHelpFormatter,
    )
    made.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    return made


def add_checkpoint(made: ArgumentParser) -> None:
    """Asks which checkpoint of which training."""
    made.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="a step-* folder, or a training, of which the best checkpoint is taken",
    )
    newest = "take the newest checkpoint, not the best"
    made.add_argument("--newest", action="store_true", help=newest)


def add_settings_arguments(made: ArgumentParser, system_required: bool = True) -> None:
    """SYSTEM, key=value overrides, --preset and --settings."""
    nargs = None if system_required else "?"
    help_text = f"{', '.join(SYSTEMS)}, or your own as module:attribute"
    made.add_argument("system", metavar="SYSTEM", nargs=nargs, type=current_name, help=help_text)
    made.add_argument("overrides", metavar="key=value", nargs="*", help="settings, by dotted key")
    made.add_argument(
        "--preset", metavar="NAME", help="start from settings/presets/SYSTEM/NAME.yaml"
    )
    made.add_argument("--settings", metavar="FILE", help="a YAML or JSON file of dotted keys")


def resolved_settings(arguments: Any, system: Any) -> Any:
    """The tree that the arguments of `add_settings_arguments` ask for."""
    from settings.resolve import resolve

    return resolve(
        system.Settings,
        arguments.system,
        preset=arguments.preset,
        file=arguments.settings,
        overrides=arguments.overrides,
        refused=system.refused,
    ).settings


def refuse_without(system: Any, member: str, otherwise: str) -> None:
    """Refuses a system that leaves out this member of `trainables.system.SystemBase`, and says
    which ones have it.

    Args:
        otherwise: what does not work without it.
    """
    from settings.schema import SettingsError
    from trainables.system import load_system, offers

    if not offers(system, member):
        having = [name for name in SYSTEMS if offers(load_system(name), member)]
        raise SettingsError(
            f"system {system.name} has no member `{member}`: {otherwise}. Systems with it: "
            f"{', '.join(having) or 'none'}, or one of your own."
        )


def run_verb(main: Callable[[Any], int], arguments: Any) -> int:
    """Runs a verb; an error a user can mend is one message on standard error and status 2."""
    from data.files import DataError
    from results.lock import LockHeldError
    from results.store import SweepError
    from settings.schema import SettingsError
    from trainables.checkpoints.checkpoint import CheckpointError

    with lasting_output():
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
            kinds = (SettingsError, CheckpointError, LockHeldError, SweepError, DataError)
            own = isinstance(error, kinds)
            name = "" if own else f"{type(error).__name__}: "
            print_error(f"{name}{error}")
            return USAGE


def print_error(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)


class _Lasting:
    """A text stream whose reader may go (`| head`, a terminal that is closed): from then on it
    writes to nowhere.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._turn_away(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._turn_away(error)

    def _turn_away(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Printing inside does not fail when its reader is gone: a sweep outlives its terminal."""
    out, err = _Lasting(sys.stdout), _Lasting(sys.stderr)
    # Any: they are no TextIO to mypy.
    redirect_out: Any = contextlib.redirect_stdout(out)
    redirect_err: Any = contextlib.redirect_stderr(err)
    with redirect_out, redirect_err:
        try:
            yield
        finally:
            out.flush()
            err.flush()


def finish(status: int) -> None:
    """Ends the process with that status, and Ray's own processes with it, without waiting for the
    threads that Ray leaves in the interpreter.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if (ray := sys.modules.get("ray")) is not None:
        started = _descendants()
        with contextlib.suppress(KeyboardInterrupt):  # of somebody who does not want to wait
            _leave_cluster(ray)
        _end_processes(started)
    os._exit(status)


def _leave_cluster(ray: Any) -> None:
    """Shuts Ray down; two of its processes would otherwise look for their cluster for a minute."""
    if getattr(ray, "is_initialized", bool)():
        leaving = threading.Thread(target=ray.shutdown, daemon=True)  # may wait for a dead node
        leaving.start()
        leaving.join(_LEAVING_SECONDS)


def _descendants() -> list[Any]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process().children(recursive=True)
    return []


def _end_processes(started: Sequence[Any]) -> None:
    """Ends all processes below this one, of a cluster that may still be starting, and those of
    `started` that are left: a worker that loses its cluster while it ends looks for it for a
    minute, and is nobody's child by then.
    """
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                child.suspend()  # it starts no other meanwhile
    for process in [*started, *_descendants()]:
        with contextlib.suppress(psutil.Error):
            process.kill()  # psutil spares another process that has the number by now


def tell_data(loaders: Any, stream: TextIO | None = None) -> None:
    """Tells what became of the data: its counts on `stream` (stdout), and a warning for whatever
    was left out or repaired. Nothing is left out without a count.
    """
    for line in data_lines(loaders.notes):
        print(line, file=stream, flush=True)
    for text in loaders.warnings:
        warn(text)


def data_lines(notes: Mapping[str, float]) -> list[str]:
    """Counts in lines of at most `COLUMNS`: first those of the whole, then those of each split,
    `train: samples 242` for `samples.train`.
    """
    groups: dict[str, list[str]] = {"": []}
    for name, value in notes.items():
        own, _, split = name.rpartition(".")
        is_split = bool(own) and split in ("train", "validation", "test")
        shown = f"{own if is_split else name} {value:g}"
        groups.setdefault(split if is_split else "", []).append(shown)
    lines: list[str] = []
    for split, counts in groups.items():
        begin = " " * len(_DATA) if lines else _DATA
        wrapped = textwrap.TextWrapper(
            width=COLUMNS,
            initial_indent=begin + (f"{split}: " if split else ""),
            subsequent_indent=" " * (len(_DATA) + (2 if split else 0)),
            break_long_words=False,
            break_on_hyphens=False,
        )
        # A name and its count stay together.
        text = ", ".join(count.replace(" ", _NO_BREAK) for count in counts)
        lines += [line.replace(_NO_BREAK, " ") for line in wrapped.wrap(text)]
    return lines


def check_directory(path: Path, option: str = "--dir") -> None:
    """Refuses a directory that cannot be made because a file is in its way."""
    from settings.schema import SettingsError

    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        raise SettingsError(f"{option} {path}: {there} is a file. Name a directory.")


def cache_directory() -> Path:
    """Where prepared data is kept between sweeps: WEIGHBRIDGE_CACHE, or ~/.cache/weighbridge where
    that is not set, or empty.
    """
    return Path(os.environ.get("WEIGHBRIDGE_CACHE") or Path.home() / ".cache" / "weighbridge")
