"""What may be said of a search: options of `ray_jobs.sweep`, and fields of every plan.

An option that is added here is on the command line, in `sweep.json`, in the plan and after a
resume.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass

from settings.option import (
    numbers,
    option,
    positive,
    positive_number,
    positives,
    share,
    whole,
    whole_from,
)
from settings.schema import SettingsError

SAMPLERS: Mapping[str, str] = {
    "tpe": "search.samplers.optuna_samplers:ask_optuna",
    "random": "search.samplers.optuna_samplers:ask_optuna",
    "cmaes": "search.samplers.cma:ask_cma",
    "gp": "search.samplers.gp:ask_gp",
    "nsga2": "search.samplers.optuna_samplers:ask_optuna",
    "qmc": "search.samplers.optuna_samplers:ask_qmc",
}
"""Every sampler by name, as "module:attribute": (plan, state, trial, bracket) -> values of the
active keys.
"""

SCHEDULERS: Mapping[str, str] = {
    "brackets": "search.schedulers.brackets:Brackets",
    "asha": "search.schedulers.asha:Asha",
    "asha_promotion": "search.schedulers.asha_promotion:AshaPromotion",
    "pasha": "search.schedulers.pasha:Pasha",
    "halving": "search.schedulers.halving:Halving",
    "median": "search.schedulers.median:Median",
    "none": "search.schedulers.none:NoScheduler",
    "pbt": "search.schedulers.population:Pbt",
    "pb2": "search.schedulers.pb2:Pb2",
}
"""Every scheduler by name, as "module:attribute" (`search.schedulers.base.Scheduler`)."""

TRIED = "what is tried, and for how long"
JUDGED = "what is judged"
RUNS = "where and how it runs"

ALL, RUNGS, BEST = "all", "rungs", "best"
_LEGAL = "all, best:N with N from 1 on, or rungs"


@dataclass(frozen=True)
class Retention:
    """A value of `--keep-checkpoints`.

    Attributes:
        kind: `all`, `rungs` or `best`.
        count: N of `best:N`.
    """

    kind: str
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Reads `all`, `rungs` or `best:N`.

        Raises:
            SettingsError: none of them.
        """
        kind, colon, count = text.partition(":") if isinstance(text, str) else ("", "", "")
        if kind in (ALL, RUNGS) and not colon:
            return cls(kind)
        if kind == BEST and count.isdecimal() and int(count) > 0:
            return cls(kind, int(count))
        raise SettingsError(f"--keep-checkpoints must be {_LEGAL}, not {text!r}.")

    def __str__(self) -> str:
        return f"{BEST}:{self.count}" if self.kind == BEST else self.kind


def keep_rule(text: str) -> str:
    """A value of `--keep-checkpoints`, for argparse."""
    try:
        return str(Retention.parse(text))
    except SettingsError:
        raise ArgumentTypeError(f"{_LEGAL}, not {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a sweep is told of its search.

    Attributes:
        trials: number of trials, points included, repeats not.
        budget: number of full trainings whose steps may be spent before nothing more is started;
            None for no limit.
        eta: of the scheduler: about one trial in `eta` passes a rung.
        grace: step of the first rung, each further one being at `eta` times the step before; 0 for
            rungs at fractions of the whole length (`Plan.rungs`).
        rung_steps: every rung below the whole length, in place of `grace` and `eta`; () for none
            given.
        shares: share of the steps of each bracket; () for a half to the first and the rest evenly.
        paired: whether all trials train with one seed, and the repeats of one draw with another;
            otherwise each has its own.
        repeats: fresh seeds with which each of the `repeat_top` best configurations is trained
            again before a winner is named; 0 for none.
        max_failures: number of times that a trial may fail and be run again.
        max_failed_in_a_row: failures without a report between them that end the sweep; 0 for none.
        max_failed_share: share of failed trials above which the sweep ends; 1 for none.
    """

    trials: int | None = option(
        None,
        "--trials",
        group=TRIED,
        resume="more",
        type=positive,
        metavar="N",
        help="trials in all, documented points included (default 16; without end with --budget)",
    )
    budget: float | None = option(
        None,
        "--budget",
        group=TRIED,
        resume="more",
        type=positive_number,
        metavar="X",
        help="start nothing more once this many trainings of full length are spent",
    )
    sampler: str | None = option(
        None,
        "--sampler",
        group=TRIED,
        choices=SAMPLERS,
        help="who draws new points (default tpe)",
    )
    scheduler: str | None = option(
        None,
        "--scheduler",
        group=TRIED,
        choices=SCHEDULERS,
        help="who stops or promotes trials (default brackets, asha for fewer than 20 trials)",
    )
    eta: int = option(
        3,
        "--eta",
        group=TRIED,
        type=whole_from(2),
        metavar="N",
        help="one in N passes a rung, N from 2 on (default 3)",
    )
    grace: int = option(
        0,
        "--grace",
        group=TRIED,
        type=positive,
        metavar="STEPS",
        help="the first rung, then eta times as far each (default: 1/27, 1/9, 1/3 of the steps)",
    )
    rung_steps: tuple[int, ...] = option(
        (),
        "--rungs",
        group=TRIED,
        type=positives,
        metavar="STEPS,...",
        help="every rung, instead of eta and grace",
    )
    shares: tuple[float, ...] = option(
        (),
        "--shares",
        group=TRIED,
        type=numbers,
        metavar="X,...",
        help="steps by bracket, as parts of 1",
    )
    seed: int = option(
        0, "--seed", group=TRIED, type=whole, metavar="N", help="master seed (default 0)"
    )
    paired: bool = option(
        False,
        "--paired",
        group=TRIED,
        action="store_const",
        const=True,
        help="train all trials with one seed (initial weights, order of the data, noise), so that "
        "documented points differ by their settings alone",
    )
    repeats: int = option(
        0,
        "--repeats",
        group=JUDGED,
        resume="more",
        type=positive,
        metavar="K",
        help="train the best again with K fresh seeds each, and name the winner by their mean",
    )
    repeat_top: int = option(
        3,
        "--repeat-top",
        group=JUDGED,
        resume="more",
        type=positive,
        metavar="N",
        help="how many of the best (default 3)",
    )
    max_failures: int = option(
        0,
        "--max-failures",
        group=RUNS,
        resume="new",
        type=whole,
        metavar="N",
        help="times a trial may fail and try again (default 0)",
    )
    max_failed_in_a_row: int = option(
        20,
        "--max-failed-in-a-row",
        group=RUNS,
        resume="new",
        type=whole,
        metavar="N",
        help="end the sweep after N failures without a report between them (default 20; 0 never)",
    )
    max_failed_share: float = option(
        0.9,
        "--max-failed-share",
        group=RUNS,
        resume="new",
        type=share,
        metavar="X",
        help="end the sweep once 20 trials have ended and more than X of them failed (default "
        "0.9; 1 never)",
    )
