"""`python -m ray_jobs.sweep SYSTEM [key=value ...]`: search settings of a system; kill it and
resume it at will.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_jobs.sweeping.options import SweepOptions, given
from ray_jobs.sweeping.options import sweep_parser as make_parser
from ray_jobs.verb import (
    ALL_FAILED,
    INTERRUPTED,
    OK,
    PROJECT,
    SOME_FAILED,
    cache_directory,
    check_directory,
    finish,
    run_verb,
)
from settings.command import command
from settings.paths import SweepPaths
from settings.words import counted


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    arguments = make_parser().parse_intermixed_args(argv)
    return run_verb(_sweep, arguments)


def _sweep(arguments: Namespace) -> int:
    from ray_jobs.plan_table import print_plan
    from settings.schema import SettingsError

    for option in ("resume", "simulate", "dir"):
        if getattr(arguments, option) == "":
            raise SettingsError(f"--{option} names no directory: it is empty.")
    if arguments.simulate:
        return _simulate(arguments)
    setup, directory = _resumed(arguments) if arguments.resume else _new(arguments)
    if arguments.plan:
        print_plan(setup, directory, arguments.step_seconds)
        return OK
    print(f"sweep directory: {directory}", flush=True)
    for note in setup.notes:
        print(note, flush=True)
    return _execute(setup, directory, arguments)


_SIMULATED = ("simulate", "scheduler", "budget", "max_concurrent", "eta", "grace", "debug")


def _simulate(arguments: Namespace) -> int:
    from ray_jobs.simulate import COMPARED, compare
    from settings.schema import SettingsError

    unread = [
        "key=value" if name in ("system", "overrides") else f"--{name.replace('_', '-')}"
        for name, value in vars(arguments).items()
        if name not in _SIMULATED and value not in (None, False, [])
    ]
    if unread:
        raise SettingsError(
            "--simulate replays a logged sweep under --scheduler, --budget, --max-concurrent, "
            f"--eta and --grace; it does not read {', '.join(dict.fromkeys(unread))}: leave that "
            "out."
        )

    return compare(
        arguments.simulate,
        (arguments.scheduler,) if arguments.scheduler else COMPARED,
        (arguments.budget,),
        workers=arguments.max_concurrent,
        eta=arguments.eta,
        grace=arguments.grace,
    )


def _new(arguments: Namespace) -> tuple[Any, Path]:
    from ray_jobs.sweeping.planning import new_setup
    from settings.schema import SettingsError

    if not arguments.system:
        raise SettingsError(f"name a system: {command('sweep')} hdr_patch (or --resume DIR).")
    options = SweepOptions(
        system=arguments.system, overrides=tuple(arguments.overrides), **given(vars(arguments))
    )
    setup = new_setup(options, sys.argv)
    if (
        arguments.dir is None
        and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        and not arguments.plan
    ):
        raise SettingsError(
            "in a submitted job the working directory is Ray's temporary copy, so the default "
            "directory would be lost with it. Give --dir DIR on storage that outlives the job and "
            "that every node sees."
        )
    if arguments.dir and "://" in arguments.dir:  # a Path would make one slash of the two
        raise SettingsError(
            f"--dir {arguments.dir}: remote directories are not supported yet; mount it, or use "
            "a local one."
        )
    name = f"{arguments.system.rsplit(':', 1)[-1]}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = Path(arguments.dir or Path("sweeps") / name)
    _check_empty(directory)
    return setup, directory


_LEFT_BY_A_START = ("lock", ".lock.*", ".sweep.json.*")
"""Files that a start may leave behind if it is killed before it has written `sweep.json`."""


def _check_empty(directory: Path) -> None:
    from settings.match import matches
    from settings.schema import SettingsError

    check_directory(directory)
    if SweepPaths(directory).document.exists():
        raise SettingsError(
            f"{directory} holds a sweep already. Go on with it (--resume {directory}) or name "
            "another."
        )
    files = directory.iterdir() if directory.exists() else ()
    if not all(matches(path.name, _LEFT_BY_A_START) for path in files):
        raise SettingsError(f"{directory} is not empty and no sweep. Name a new directory.")


def _resumed(arguments: Namespace) -> tuple[Any, Path]:
    """The stored sweep; options given again must not change what it is. `--trials` may grow it."""
    from ray_jobs.sweeping.resume import grown, stored_setup, what_changed
    from settings.schema import SettingsError

    directory = Path(arguments.resume)
    if arguments.dir is not None and Path(arguments.dir).resolve() != directory.resolve():
        raise SettingsError(
            f"--resume {directory} goes on in that directory, and --dir {arguments.dir} names "
            "another: leave --dir out. A new sweep can start from what this one has found: "
            f"--dir {arguments.dir} --warm-start {directory}, without --resume."
        )
    setup = stored_setup(directory)
    overrides = list(arguments.overrides)
    said = given(vars(arguments))
    if arguments.system and "=" in arguments.system:
        overrides.insert(0, arguments.system)
    elif arguments.system:
        said["system"] = arguments.system
    changed = what_changed(setup, said, overrides)
    if changed:
        raise SettingsError(
            f"--resume {directory} with these options would make another sweep of it:\n  "
            + "\n  ".join(changed)
            + "\nResume by its path alone, or start a new sweep with --dir."
        )
    return grown(setup, directory, said, overrides), directory


def _write_document(directory: Path, document: Any, fresh: bool) -> None:
    """Writes `sweep.json` whole, under the lock, and forces it to disk."""
    from settings.atomic_file import atomic_file

    if fresh:
        _check_empty(directory)
    with atomic_file(SweepPaths(directory).document, on_disk=True) as scratch:
        scratch.write_text(json.dumps(document, indent=1))


def _execute(setup: Any, directory: Path, arguments: Namespace) -> int:
    from ray_jobs.analyze import main as analyze
    from ray_jobs.engine import execute
    from ray_jobs.engine.failures import common_failure
    from ray_jobs.progress import Progress
    from search.failing import wider_limit

    directory = directory.resolve()
    execution = execute.Execution(
        directory=directory,
        write=lambda: _write_document(directory, setup.document, fresh=not arguments.resume),
        cache=cache_directory(),
        project=PROJECT,
        address=arguments.address,
        max_concurrent=setup.options.max_concurrent,
        time_budget_seconds=arguments.time_budget,
        may_grow=arguments.autoscaling,
    )
    resume = f"{command('sweep')} --resume {shlex.quote(str(directory))}"
    resume += f" --address {arguments.address}" if arguments.address else ""
    resume += " --autoscaling" if arguments.autoscaling else ""
    go_on = f"To go on:\n  {resume}"
    try:
        driver = execute.run(setup, execution, Progress)
        analyze([str(directory)])
    except KeyboardInterrupt:  # a second Ctrl-C, or one before or after the trials
        if SweepPaths(directory).document.exists():
            print(go_on)
        raise
    if driver.gave_up:
        print(f"ended: {driver.gave_up}.")
        for line in common_failure(driver.plan, driver.state, directory):
            print(f"  {line}")
        again = driver.plan.max_failures + 1
        print(
            "If the cause is mended, or you know better, let it try more. Under another limit "
            f"failures count anew:\n  {resume} {wider_limit(driver.plan, driver.state)}\n"
            f"With --max-failures {again} the trials that an error has ended are tried again as "
            "well."
        )
        return ALL_FAILED
    if driver.stopping:
        print(f"stopped ({driver.stopping}). {go_on}")
        return INTERRUPTED
    failed, ran = execute.failures(driver.state)
    if failed:
        print(
            f"{failed} of {counted(ran, 'trial')} failed; the reasons are in "
            f"{directory}/trials/*/error.txt"
        )
        return ALL_FAILED if failed == ran else SOME_FAILED
    return OK


if __name__ == "__main__":
    finish(main())
