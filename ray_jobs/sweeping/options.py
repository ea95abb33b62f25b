"""What a new sweep may be told, and the command line of `ray_jobs.sweep` that tells it."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray_jobs.verb import (
    add_settings_arguments,
    number_from_0,
    parser,
    positive,
    positive_number,
    whole,
)
from search.plan import JOURNAL, SAMPLERS, SCHEDULERS

_DESCRIPTION = """Search a system's settings with Ray Tune and Optuna.

  python -m ray_jobs.sweep hdr_patch                       the demo, on embedded data
  python -m ray_jobs.sweep hdr_patch --space full --trials 60 train.steps=2000
  python -m ray_jobs.sweep hdr_patch --budget 20 --repeats 3 --plan
  python -m ray_jobs.sweep --resume sweeps/hdr_patch-20261121-120000

Objectives are weight-free: a metric that reads what the sweep searches is refused.
Exit status: 0 no trial failed, 3 some, 1 all; 2 a request that cannot be carried out; 130
stopped, resumable."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What the command line says of a new sweep."""

    system: str
    overrides: tuple[str, ...] = ()
    preset: str | None = None
    file: str | None = None
    space: str | None = None
    metrics: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    trials: int | None = None
    budget: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    eta: int = 3
    grace: int = 0
    rung_steps: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    warm_start: tuple[str, ...] = ()
    storage: str = JOURNAL
    reference: str | None = None
    repeats: int = 0
    repeat_top: int = 3
    seed: int = 0
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    max_failures: int = 0
    max_concurrent: int | None = None


def sweep_parser() -> ArgumentParser:
    """All options; those that are not given are None (or False)."""
    made = parser("sweep", _DESCRIPTION)
    add_settings_arguments(made, system_required=False)
    _add_search(made)
    _add_objectives(made)
    _add_running(made)
    return made


def _add_search(made: ArgumentParser) -> None:
    add = made.add_argument_group("what is tried, and for how long").add_argument
    add(
        "--space",
        metavar="NAME|FILE",
        help="named space of the system, or a YAML file (default: its first)",
    )
    add(
        "--trials",
        type=positive,
        metavar="N",
        help="trials in all, documented points included (default 16; without end with --budget)",
    )
    add(
        "--budget",
        type=positive_number,
        metavar="X",
        help="start nothing more once this many trainings of full length are spent",
    )
    add("--sampler", choices=SAMPLERS, help="who draws new points (default tpe)")
    add(
        "--scheduler",
        choices=SCHEDULERS,
        help="who stops or promotes trials (default brackets, asha for fewer than 20 trials)",
    )
    add_rungs(add, eta="3")
    add("--rungs", type=_wholes, metavar="STEPS,...", help="every rung, instead of eta and grace")
    add("--shares", type=_numbers, metavar="X,...", help="steps by bracket, as parts of 1")
    add(
        "--warm-start",
        metavar="DIR",
        nargs="+",
        action="extend",
        help="tell the sampler what earlier sweeps have found",
    )
    add("--seed", type=whole, metavar="N", help="master seed (default 0)")


def add_rungs(add: Callable[..., Any], eta: str) -> None:
    """--eta and --grace; `eta` says what it is by default."""
    add("--eta", type=positive, metavar="N", help=f"one in N passes a rung (default {eta})")
    add(
        "--grace",
        type=positive,
        metavar="STEPS",
        help="the first rung, then eta times as far each (default: 1/27, 1/9, 1/3 of the steps)",
    )


def _add_objectives(made: ArgumentParser) -> None:
    add = made.add_argument_group("what is judged").add_argument
    add(
        "--metric",
        metavar="COLUMN",
        action="append",
        help="objective, or 'log_ratio(COLUMN=X,...)', weighted(...), worst_ratio(...) of columns "
        "(default: those of the space, or the system's first metric); again for several",
    )
    add(
        "--mode",
        choices=("min", "max"),
        action="append",
        help="must agree with the metric's own direction; once for each metric",
    )
    add(
        "--subject-to",
        metavar="'COLUMN<=X'",
        action="append",
        help="a constraint, in quotes; again for several",
    )
    add(
        "--reference",
        metavar="DIR[:TRIAL|POINT]",
        help="an earlier trial that gives log_ratio(...) and worst_ratio(...) their constants",
    )
    add(
        "--repeats",
        type=positive,
        metavar="K",
        help="train the best again with K fresh seeds each, and name the winner by their mean",
    )
    add("--repeat-top", type=positive, metavar="N", help="how many of the best (default 3)")


def _add_running(made: ArgumentParser) -> None:
    add = made.add_argument_group("where and how it runs").add_argument
    add(
        "--storage",
        metavar="URL",
        help="an Optuna storage that mirrors the sweep, such as sqlite:///sweep.db (default: "
        "DIR/journal.log)",
    )
    add("--dir", metavar="DIR", help="sweep directory (default sweeps/SYSTEM-TIME)")
    add("--resume", metavar="DIR", help="go on with the sweep in DIR")
    add("--workers", type=positive, metavar="N", help="workers of a trial (default 1)")
    add("--cpus", type=positive_number, metavar="X", help="CPUs of a worker (default 1)")
    add("--gpus", type=number_from_0, metavar="X", help="GPUs of a worker (default 0)")
    add(
        "--max-concurrent",
        type=positive,
        metavar="N",
        help="trials at a time, also after a resume (default: as many as fit)",
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
    add(
        "--simulate",
        metavar="DIR",
        help="replay an earlier sweep's curves under --scheduler and --budget, and start nothing "
        "(more: ray_jobs.simulate)",
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


_PLANNED = {
    "space": "space",
    "trials": "trials",
    "budget": "budget",
    "sampler": "sampler",
    "scheduler": "scheduler",
    "eta": "eta",
    "grace": "grace",
    "rungs": "rung_steps",
    "shares": "shares",
    "metric": "metrics",
    "mode": "modes",
    "subject_to": "constraints",
    "repeats": "repeats",
    "repeat_top": "repeat_top",
    "seed": "seed",
    "warm_start": "warm_start",
    "reference": "reference",
    "storage": "storage",
    "workers": "workers",
    "cpus": "cpus",
    "gpus": "gpus",
    "max_failures": "max_failures",
    "max_concurrent": "max_concurrent",
    "preset": "preset",
    "settings": "file",
}


def given(arguments: Namespace) -> dict[str, Any]:
    """What the command line says of the plan, by field of `SweepOptions`."""
    values = {field: getattr(arguments, name) for name, field in _PLANNED.items()}
    return {
        field: tuple(value) if isinstance(value, list) else value
        for field, value in values.items()
        if value is not None
    }


def _wholes(text: str) -> list[int]:
    return [positive(part.strip()) for part in text.split(",")]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a list of numbers such as 10,30,90") from error
