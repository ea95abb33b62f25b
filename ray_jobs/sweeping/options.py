"""What a new sweep may be told, and the command line of `ray_jobs.sweep` that tells it."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_jobs.verb import add_settings_arguments, parser
from search.options import ALL, JUDGED, RUNS, TRIED, SearchOptions, keep_rule
from search.plan import JOURNAL
from settings.command import command
from settings.option import (
    add_options,
    given_options,
    number_from_0,
    option,
    positive,
    positive_number,
)

_DESCRIPTION = """\
  {command} hdr_patch                       the demo, on embedded data
  {command} hdr_patch --space full --trials 60 train.steps=2000
  {command} hdr_patch --budget 20 --repeats 3 --plan
  {command} --resume sweeps/hdr_patch-20261121-120000

Objectives are weight-free: a metric that reads what the sweep searches is refused.
Exit status: 0 no trial failed, 3 some, 1 all or too many; 2 a request that cannot be carried
out; 130 stopped, resumable."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(SearchOptions):
    """What a new sweep is told. `sweep.json` has all of it, so a resume needs the path alone.

    Attributes:
        system: its name, or `module:attribute`.
        overrides: `key=value`, by dotted key.
        preset, file: where the settings start from.
        space: a named space of the system, or a YAML file; its first where None.
        metrics, modes: the objectives, and the directions that somebody takes them to have.
        workers: of each trial; `cpus` and `gpus` are of each worker.
        max_concurrent: trials at a time; None for as many as fit.
        keep_checkpoints: `all`, `best:N` or `rungs` (`search.retention.kept_of`).
        test: whether the winner is measured on the test split at the end.
    """

    system: str
    overrides: tuple[str, ...] = ()
    preset: str | None = None
    file: str | None = None
    space: str | None = option(
        None,
        "--space",
        group=TRIED,
        resume="meaning",
        metavar="NAME|FILE",
        help="named space of the system, or a YAML file (default: its first)",
    )
    warm_start: tuple[str, ...] = option(
        (),
        "--warm-start",
        group=TRIED,
        resume="start",
        metavar="DIR",
        nargs="+",
        action="extend",
        help="tell the sampler what earlier sweeps have found",
    )
    metrics: tuple[str, ...] = option(
        (),
        "--metric",
        group=JUDGED,
        resume="meaning",
        metavar="COLUMN",
        action="append",
        help="objective, or 'log_ratio(COLUMN=X,...)', weighted(...), worst_ratio(...) of columns "
        "(default: those of the space, or the system's first metric); again for several",
    )
    modes: tuple[str, ...] = option(
        (),
        "--mode",
        group=JUDGED,
        resume="meaning",
        choices=("min", "max"),
        action="append",
        help="must agree with the metric's own direction; once for each metric",
    )
    constraints: tuple[str, ...] = option(
        (),
        "--subject-to",
        group=JUDGED,
        resume="meaning",
        metavar="'COLUMN<=X'",
        action="append",
        help="a constraint, in quotes; again for several",
    )
    reference: str | None = option(
        None,
        "--reference",
        group=JUDGED,
        resume="start",
        metavar="DIR[:TRIAL|POINT]",
        help="an earlier trial that gives log_ratio(...) and worst_ratio(...) their constants",
    )
    reference_point: str | None = option(
        None,
        "--reference-point",
        group=JUDGED,
        resume="new",
        metavar="COLUMN=X,...",
        help="the worst values that count for the hypervolume of several objectives, a number for "
        "each; sweeps compare at the same one (default: the worst of the documented points); no "
        "decision depends on it",
    )
    storage: str = option(
        JOURNAL,
        "--storage",
        group=RUNS,
        metavar="URL",
        help="an Optuna storage that mirrors the sweep, such as sqlite:///sweep.db (default: "
        "DIR/journal.log)",
    )
    workers: int = option(
        1,
        "--workers",
        group=RUNS,
        type=positive,
        metavar="N",
        help="workers of a trial (default 1)",
    )
    cpus: float = option(
        1.0,
        "--cpus",
        group=RUNS,
        type=positive_number,
        metavar="X",
        help="CPUs of a worker (default 1)",
    )
    gpus: float = option(
        0.0,
        "--gpus",
        group=RUNS,
        type=number_from_0,
        metavar="X",
        help="GPUs of a worker (default 0)",
    )
    max_concurrent: int | None = option(
        None,
        "--max-concurrent",
        group=RUNS,
        resume="new",
        type=positive,
        metavar="N",
        help="trials at a time, also after a resume (default: as many as fit)",
    )
    keep_checkpoints: str = option(
        ALL,
        "--keep-checkpoints",
        group=RUNS,
        resume="new",
        type=keep_rule,
        metavar="all|best:N|rungs",
        help="checkpoints of trials that have ended: all, those of the N best, or those at rungs "
        "(default all)",
    )


    test: bool = option(
        False,
        "--test",
        group=JUDGED,
        resume="new",
        action="store_const",
        const=True,
        help="measure the winner, the documented point and the references on the test split at "
        "the end, once; a sweep that goes on looks again, and says so",
    )


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line says of the sweep, by field of `SweepOptions`.

    Args:
        arguments: parsed by `sweep_parser`, by name.
    """
    start = {"preset": arguments["preset"], "file": arguments["settings"]}
    said = {name: value for name, value in start.items() if value is not None}
    return {**said, **given_options(SweepOptions, arguments)}


def sweep_parser() -> ArgumentParser:
    """All options; those that are not given are None (or False)."""
    command_line = parser("sweep", _DESCRIPTION)
    add_settings_arguments(command_line, system_required=False)
    groups = add_options(command_line, SweepOptions)
    _add_running(groups[RUNS].add_argument)
    return command_line


def _add_running(add: Any) -> None:
    """What says how this command runs, and is not stored."""
    add("--dir", metavar="DIR", help="sweep directory (default sweeps/SYSTEM-TIME)")
    add("--resume", metavar="DIR", help="go on with the sweep in DIR")
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
    add(
        "--simulate",
        metavar="DIR",
        help="replay an earlier sweep's curves under --scheduler and --budget, and start nothing "
        f"(more: {command('simulate')})",
    )
    add(
        "--step-seconds",
        type=positive_number,
        metavar="X",
        help="what a training step takes, for the cost in hours of --plan",
    )
    add(
        "--plan",
        "--dry-run",
        action="store_true",
        help="check everything; print brackets, rungs, trials, steps and cost; start nothing",
    )
