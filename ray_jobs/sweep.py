"""`python -m ray_jobs.sweep SYSTEM [key=value ...]`: search settings of a system; kill it and
resume it at will.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_jobs.verb import (
    ALL_FAILED,
    INTERRUPTED,
    OK,
    PROJECT,
    SOME_FAILED,
    add_settings_arguments,
    cache_directory,
    check_directory,
    finish,
    number_from_0,
    parser,
    positive,
    positive_number,
    run_verb,
    whole,
)

_DESCRIPTION = """Search a system's settings with Ray Tune and Optuna.

  python -m ray_jobs.sweep hdr_patch                       the demo, on embedded data
  python -m ray_jobs.sweep hdr_patch --space full --trials 60 train.steps=2000
  python -m ray_jobs.sweep --resume sweeps/hdr_patch-20261121-120000

Objectives are weight-free: a metric that reads what the sweep searches is refused.
Exit status: 0 no trial failed, 3 some, 1 all; 2 a request that cannot be carried out; 130
stopped, resumable."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return run_verb(_sweep, arguments)


def _parser() -> ArgumentParser:
    made = parser("sweep", _DESCRIPTION)
    add_settings_arguments(made, system_required=False)
    add = made.add_argument
    add(
        "--space",
        metavar="NAME|FILE",
        help="named space of the system, or a YAML file (default: its first)",
    )
    add(
        "--trials",
        type=positive,
        metavar="N",
        help="trials in all, documented points included (default 16)",
    )
    add("--sampler", choices=("tpe", "random"), help="who draws new points (default tpe)")
    add("--scheduler", choices=("asha", "none"), help="who stops bad trials early (default asha)")
    add("--metric", metavar="COLUMN", help="objective (default: the system's first metric)")
    add("--mode", choices=("min", "max"), help="must agree with the metric's own direction")
    add("--seed", type=whole, metavar="N", help="master seed (default 0)")
    add("--dir", metavar="DIR", help="sweep directory (default sweeps/SYSTEM-TIME)")
    add("--resume", metavar="DIR", help="go on with the sweep in DIR")
    add("--workers", type=positive, metavar="N", help="workers of a trial (default 1)")
    add("--cpus", type=positive_number, metavar="X", help="CPUs of a worker (default 1)")
    add("--gpus", type=number_from_0, metavar="X", help="GPUs of a worker (default 0)")
    add(
        "--max-concurrent",
        type=positive,
        metavar="N",
        help="trials at a time (default: as many as fit)",
    )
    add(
        "--max-failures",
        type=whole,
        metavar="N",
        help="times a trial may fail and try again (default 0)",
    )
    add(
        "--time-budget",
        type=positive_number,
        metavar="SECONDS",
        help="stop, resumable, after this time",
    )
    add(
        "--address",
        metavar="ADDRESS",
        help="of a running Ray cluster (default: a new one on this machine)",
    )
    add(
        "--autoscaling",
        action="store_true",
        help="the cluster grows on demand: do not refuse what is not there yet",
    )
    add("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    return made


_PLANNED = {
    "space": "space",
    "trials": "trials",
    "sampler": "sampler",
    "scheduler": "scheduler",
    "metric": "metric",
    "mode": "mode",
    "seed": "seed",
    "workers": "workers",
    "cpus": "cpus",
    "gpus": "gpus",
    "max_failures": "max_failures",
    "preset": "preset",
    "settings": "file",
}


def _sweep(arguments: Namespace) -> int:
    from ray_jobs.plan_table import print_plan

    setup, directory = _resumed(arguments) if arguments.resume else _new(arguments)
    if arguments.dry_run:
        print_plan(setup, directory, arguments.max_concurrent)
        return OK
    print(f"sweep directory: {directory}", flush=True)
    return _execute(setup, directory, arguments)


def _options(arguments: Namespace, system: str, overrides: Sequence[str]) -> Any:
    from ray_jobs.planning import SweepOptions

    return SweepOptions(system=system, overrides=tuple(overrides), **_given(arguments))


def _given(arguments: Namespace) -> dict[str, Any]:
    """What the command line says of the plan, by field of `SweepOptions`."""
    values = {field: getattr(arguments, name) for name, field in _PLANNED.items()}
    return {field: value for field, value in values.items() if value is not None}


def _new(arguments: Namespace) -> tuple[Any, Path]:
    from ray_jobs.planning import new_setup
    from settings.schema import SettingsError

    if not arguments.system:
        raise SettingsError("name a system: python -m ray_jobs.sweep hdr_patch (or --resume DIR).")
    setup = new_setup(_options(arguments, arguments.system, arguments.overrides), sys.argv)
    if (
        arguments.dir is None
        and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        and not arguments.dry_run
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


def _check_empty(directory: Path) -> None:
    from settings.schema import SettingsError

    check_directory(directory)
    if (directory / "sweep.json").exists():
        raise SettingsError(
            f"{directory} holds a sweep already. Go on with it (--resume {directory}) or name "
            "another."
        )
    if directory.exists() and {path.name for path in directory.iterdir()} - {"lock"}:
        raise SettingsError(f"{directory} is not empty and no sweep. Name a new directory.")


def _resumed(arguments: Namespace) -> tuple[Any, Path]:
    """The stored sweep; options given again must not change what it is. `--trials` may grow it."""
    from dataclasses import replace

    from ray_jobs.planning import asked_document, stored_setup, what_changed
    from settings.schema import SettingsError

    directory = Path(arguments.resume)
    setup = stored_setup(directory)
    stored = setup.document
    overrides = list(arguments.overrides)
    given = _given(arguments)
    if arguments.system and "=" in arguments.system:
        overrides.insert(0, arguments.system)
    elif arguments.system:
        given["system"] = arguments.system
    changed = what_changed(stored, asked_document(stored, given, overrides))
    if changed:
        raise SettingsError(
            f"--resume {directory} with these options would make another sweep of it:\n  "
            + "\n  ".join(changed)
            + "\nResume by its path alone, or start a new sweep with --dir."
        )
    growth = {}
    if arguments.trials is not None:
        if arguments.trials < stored["trials"]:
            raise SettingsError(
                f"--trials {arguments.trials} would take trials away: {directory} was started "
                "with "
                f"{stored['trials']}. A resume may only add some."
            )
        growth["trials"] = arguments.trials
    if arguments.max_failures is not None:
        growth["max_failures"] = arguments.max_failures
    if growth:
        document = {**stored, **growth}
        setup = replace(setup, plan=replace(setup.plan, **growth), document=document)
    return setup, directory


def _write_document(directory: Path, document: Any, fresh: bool) -> None:
    """Puts `sweep.json` in its place, whole and on disk; the lock is ours by now."""
    if fresh:
        _check_empty(directory)
    scratch = directory / ".sweep.json.tmp"
    with scratch.open("w") as file:
        file.write(json.dumps(document, indent=1))
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(directory / "sweep.json")


def _execute(setup: Any, directory: Path, arguments: Namespace) -> int:
    from ray_jobs.analyze import main as analyze
    from ray_jobs.engine import execute
    from ray_jobs.engine.cluster import check_own_packages
    from ray_jobs.progress import Progress

    check_own_packages(PROJECT)
    directory = directory.resolve()
    execution = execute.Execution(
        directory=directory,
        write=lambda: _write_document(directory, setup.document, fresh=not arguments.resume),
        cache=cache_directory(),
        project=PROJECT,
        address=arguments.address,
        max_concurrent=arguments.max_concurrent,
        time_budget_seconds=arguments.time_budget,
        may_grow=arguments.autoscaling,
        tell=lambda message: print(message, flush=True),
    )
    go_on = f"To go on:\n  python -m ray_jobs.sweep --resume {shlex.quote(str(directory))}"
    try:
        driver = execute.run(setup, execution, Progress)
        analyze([str(directory)])
    except KeyboardInterrupt:  # a second Ctrl-C, or one before or after the trials
        if (directory / "sweep.json").exists():
            print(go_on)
        raise
    if driver.stopping:
        print(f"stopped ({driver.stopping}). {go_on}")
        return INTERRUPTED
    failed, ran = execute.failures(driver.state)
    if failed:
        print(
            f"{failed} of {ran} trials failed; the reasons are in {directory}/trials/*/error.txt"
        )
        return ALL_FAILED if failed == ran else SOME_FAILED
    return OK


if __name__ == "__main__":
    finish(main())
