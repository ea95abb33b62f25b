"""What a new sweep leaves open, chosen; and options that would do nothing, refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ray_jobs.sweeping.options import SweepOptions
from search.optuna.mirror import check_storage
from search.plan import POPULATIONS
from settings.option import options_of
from settings.schema import SettingsError
from trainables.configured import Configured
from trainables.stepping.train_settings import computes

FEW_TRIALS = 20
"""Below it there is too little for brackets to choose from, and plain halving stops the worst."""

DEFAULT_TRIALS = 16
UNBOUNDED = 1_000_000
"""Trials of a sweep that only a budget ends."""


def choose(options: SweepOptions) -> tuple[SweepOptions, list[str]]:
    """The options with trials, scheduler and sampler named, and what was chosen, in words."""
    trials = options.trials or (UNBOUNDED if options.budget else DEFAULT_TRIALS)
    few = trials < FEW_TRIALS
    scheduler = options.scheduler or ("asha" if few else "brackets")
    sampler = options.sampler or ("random" if scheduler in POPULATIONS else "tpe")
    notes = []
    if options.scheduler is None:
        side = f"under {FEW_TRIALS}" if few else f"{FEW_TRIALS} or more"
        notes.append(f"scheduler {scheduler}: the default for {side} trials")
    if scheduler == "brackets" and options.workers > 1:
        notes.append(
            "a worker group is dear to start, so trials do not pause at rungs: they run on, or "
            "are stopped"
        )
    return replace(options, trials=trials, scheduler=scheduler, sampler=sampler), notes


_UNREAD: Mapping[str, Sequence[str]] = {
    "none": ("eta", "grace", "rung_steps", "shares"),
    "brackets": (),
}
"""Options that a scheduler does not read; `shares` for those that are not here."""


def check_options(asked: SweepOptions, chosen: SweepOptions, configured: Configured) -> None:
    """Refuses options that would do nothing, and what a population cannot do without.

    Args:
        asked: as they were given.
        chosen: what `choose` made of them.
    """
    _check_rungs(chosen, configured.steps)
    check_repeats(chosen)
    if chosen.scheduler in POPULATIONS and asked.trials is None and asked.budget:
        raise SettingsError(
            f"--scheduler {chosen.scheduler} trains a population side by side, and --trials N "
            "says how large it is: add it, and leave --budget out."
        )
    precision = configured.settings.train.precision
    if not computes(precision, gpu=bool(chosen.gpus)):
        raise SettingsError(
            f"train.precision={precision} needs a GPU, and the trials of this sweep have none: "
            "give them one with --gpus 1, or use train.precision=bf16."
        )
    check_storage(chosen.storage)
    for text in chosen.warm_start:
        if "=" in text and not Path(text).exists():
            raise SettingsError(
                f"--warm-start takes every word after it, and {text} is a setting: write the "
                "settings before it."
            )


def check_repeats(options: SweepOptions) -> None:
    """Refuses --repeat-top without --repeats."""
    if options.repeat_top != SweepOptions.repeat_top and not options.repeats:
        raise SettingsError("--repeat-top says how many --repeats K trains again: add --repeats.")


def _check_rungs(options: SweepOptions, steps: int) -> None:
    scheduler, trials = options.scheduler or "", options.trials or 0
    declared = options_of(SweepOptions)
    for name in _UNREAD.get(scheduler, ("shares",)):
        if getattr(options, name) != getattr(SweepOptions, name):
            raise SettingsError(
                f"--scheduler {scheduler} does not read {declared[name].flag}: leave it out, or "
                "name another scheduler."
            )
    if options.grace >= steps and scheduler not in POPULATIONS:
        raise SettingsError(
            f"--grace {options.grace} is the first rung, and that lies below train.steps "
            f"({steps}): make it smaller, or take --scheduler none."
        )
    if options.eta != SweepOptions.eta and trials < options.eta:
        raise SettingsError(
            f"--eta {options.eta} lets one trial in {options.eta} pass a rung, and there are only "
            f"{trials}: make it smaller, or take --scheduler none."
        )
    if options.rung_steps and options.grace:
        raise SettingsError("--rungs names every rung, so --grace says nothing: leave one out.")
