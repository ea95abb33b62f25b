"""From a command line to a sweep that may start: settings, space, documented points, objectives
and plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

from ray_jobs.sweeping.document import make_document
from ray_jobs.sweeping.goals import make_goal
from ray_jobs.sweeping.last_change import last_change
from ray_jobs.sweeping.options import SweepOptions
from results.warm import read_warm
from search.objectives import Goal
from search.optuna_mirror import check_storage
from search.plan import POPULATIONS, Plan
from search.rule import load_scheduler
from search.warm import Warm
from search_spaces.checks import check_space
from search_spaces.space import Point, Space, load_space
from settings.files import PRESETS, preset_file, read_settings_file
from settings.flat import flatten, leaves, replace
from settings.resolve import parse_overrides, resolve
from settings.schema import Settings, SettingsError, conform
from settings.systems import current_name
from trainables.checkpoints.changeable import check_changeable
from trainables.system import System, load_system

KEPT_BY_POINTS = ("train.*", "data.*", "optimizer.warmup*")
"""A documented point is compared under the sweep's own length and data; these keys it does not
change.
"""

FEW_TRIALS = 20
"""Below it there is too little for brackets to choose from, and plain halving stops the worst."""

DEFAULT_TRIALS = 16
UNBOUNDED = 1_000_000
"""Trials of a sweep that only a budget ends."""


@dataclass(frozen=True, kw_only=True)
class SweepSetup:
    """A sweep that may start.

    Attributes:
        settings: on which every trial builds.
        plan: what is searched and decided.
        document: `sweep.json`.
    """

    system: System
    settings: Settings
    origins: Mapping[str, str]
    plan: Plan
    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise SettingsError(f"--max-concurrent must be 1 or more, not {self.max_concurrent}.")
        load_scheduler(self.plan)  # a scheduler refuses what it cannot do, also when a sweep grows

    @property
    def notes(self) -> list[str]:
        """What was chosen for the user, in words."""
        return list(self.document.get("notes") or ())

    @property
    def max_concurrent(self) -> int | None:
        """Trials at a time; None for as many as fit."""
        return self.document.get("max_concurrent")

    def tree(self, sampled: Mapping[str, Any]) -> Any:
        """The settings of a trial."""
        return replace(self.settings, sampled)


def new_setup(options: SweepOptions, command: Sequence[str] = ()) -> SweepSetup:
    """Checks everything that can be checked before a cluster is asked for.

    Raises:
        SettingsError: an unknown system, key, space, preset or metric; a value or domain out of
            range; a key both fixed and searched; a metric that reads what the sweep searches.
    """
    options = with_fields(options, system=current_name(options.system))
    system = load_system(options.system)
    overrides = parse_overrides(options.overrides)
    space = load_space(options.system, options.space)
    resolved = resolve(
        system.Settings,
        options.system,
        preset=options.preset,
        file=options.file,
        fixed=(f"space {space.name}", space.fixed),
        overrides=options.overrides,
        refused=system.refused,
    )
    settings, origins = resolved.settings, resolved.origins
    composite = system.phases(settings, None)[0].composite
    space = bound_space(system, space, settings, list(overrides))
    points = documented_points(options.system, system, space, settings, list(overrides))
    searched = {*space.domains, *(key for point in points for key in point.sampled)}
    goal, derived = make_goal(
        system,
        settings,
        searched,
        metrics=options.metrics or space.metrics,
        modes=options.modes,
        constraints=options.constraints,
        reference=options.reference,
    )
    if options.reference and not derived:
        raise SettingsError(
            "--reference gives log_ratio(...) and worst_ratio(...) their constants, and --metric "
            "names neither: leave it out, or take --metric 'log_ratio(COLUMN,...)'."
        )
    _check_precision(settings, options.gpus)
    check_storage(options.storage)
    _check_warm_start(options.warm_start)
    warm, said = read_warm(options.warm_start, space, goal, flatten(settings), derived)
    plan, notes = _plan(options, system, space, tuple(points), goal, settings, warm)
    notes += said
    if plan.scheduler in POPULATIONS:
        check_changeable(space.domains, system, settings, plan.scheduler)
    document = make_document(
        options, system, settings, origins, plan, derived, list(composite.terms), command, notes
    )
    return SweepSetup(
        system=system, settings=settings, origins=origins, plan=plan, document=document
    )


def _plan(
    options: SweepOptions,
    system: System,
    space: Space,
    points: tuple[Point, ...],
    goal: Goal,
    settings: Any,
    warm: tuple[Warm, ...],
) -> tuple[Plan, list[str]]:
    """The plan, and what was chosen for the user, in words."""
    trials = options.trials or (UNBOUNDED if options.budget else DEFAULT_TRIALS)
    scheduler, notes = _scheduler(options, trials)
    _check_options(options, scheduler, trials, settings.train.steps)
    latest = last_change(system, settings, space, points)
    if scheduler != "none" and (
        note := latest.note(settings.train.steps, settings.train.report_every)
    ):
        notes.append(note)
    plan = Plan(
        space=space,
        points=points,
        trials=trials,
        budget=options.budget,
        seed=options.seed,
        goal=goal,
        steps=settings.train.steps,
        report_every=settings.train.report_every,
        last_change=latest.step,
        warm=warm,
        sampler=options.sampler or ("random" if scheduler in POPULATIONS else "tpe"),
        scheduler=scheduler,
        eta=options.eta,
        grace=options.grace,
        rung_steps=options.rung_steps,
        shares=options.shares,
        pausing=options.workers == 1,
        max_failures=options.max_failures,
        repeats=options.repeats,
        repeat_top=options.repeat_top,
    )
    if scheduler != "none" and not plan.rungs:
        notes.append(
            f"no report below train.steps ({plan.steps}) can be a rung: every trial is trained to "
            "its end"
        )
    return plan, notes


_UNREAD: Mapping[str, Sequence[str]] = {
    "none": ("eta", "grace", "rung_steps", "shares"),
    "brackets": (),
}
"""Options that a scheduler does not read; `shares` for those that are not here."""


def _check_options(options: SweepOptions, scheduler: str, trials: int, steps: int) -> None:
    """Refuses options that would do nothing, and what a population cannot do without."""
    plain = SweepOptions(system=options.system)
    said = {"rung_steps": "rungs"}
    for name in _UNREAD.get(scheduler, ("shares",)):
        if getattr(options, name) != getattr(plain, name):
            raise SettingsError(
                f"--scheduler {scheduler} does not read --{said.get(name, name)}: leave it out, "
                "or name another scheduler."
            )
    if options.grace >= steps and scheduler not in POPULATIONS:
        raise SettingsError(
            f"--grace {options.grace} is the first rung, and that lies below train.steps "
            f"({steps}): make it smaller, or take --scheduler none."
        )
    if options.eta != plain.eta and trials < options.eta:
        raise SettingsError(
            f"--eta {options.eta} lets one trial in {options.eta} pass a rung, and there are only "
            f"{trials}: make it smaller, or take --scheduler none."
        )
    if options.rung_steps and options.grace:
        raise SettingsError("--rungs names every rung, so --grace says nothing: leave one out.")
    if options.repeat_top != plain.repeat_top and not options.repeats:
        raise SettingsError("--repeat-top says how many --repeats K trains again: add --repeats.")
    if scheduler in POPULATIONS and options.trials is None and options.budget:
        raise SettingsError(
            f"--scheduler {scheduler} trains a population side by side, and --trials N says how "
            "large it is: add it, and leave --budget out."
        )


def _scheduler(options: SweepOptions, trials: int) -> tuple[str, list[str]]:
    """The scheduler's name, and what to say of it."""
    few = trials < FEW_TRIALS
    name = options.scheduler or ("asha" if few else "brackets")
    notes = []
    if options.scheduler is None:
        side = f"under {FEW_TRIALS}" if few else f"{FEW_TRIALS} or more"
        notes.append(f"scheduler {name}: the default for {side} trials")
    if name == "brackets" and options.workers > 1:
        notes.append(
            "a worker group is dear to start, so trials do not pause at rungs: they run on, or "
            "are stopped"
        )
    return name, notes


def _check_precision(settings: Any, gpus: float) -> None:
    """Every trial would refuse it; say so before the first one starts."""
    if settings.train.precision == "fp16" and not gpus:
        raise SettingsError(
            "train.precision=fp16 needs a GPU, and the trials of this sweep have none: give them "
            "one with --gpus 1, or use train.precision=bf16."
        )


def _check_warm_start(directories: Sequence[str]) -> None:
    for text in directories:
        if "=" in text and not Path(text).exists():
            raise SettingsError(
                f"--warm-start takes every word after it, and {text} is a setting: write the "
                "settings before it."
            )


_OF_THE_SWEEP = ("train.steps", "train.report_every", "train.seed")
"""Keys that a sweep makes its rungs, schedules and seeds from; all trials share them."""


def bound_space(system: System, space: Space, settings: Any, overrides: list[str]) -> Space:
    for key in _OF_THE_SWEEP:
        if key in space.domains:
            raise SettingsError(
                f"{key} cannot be searched: the sweep's rungs, schedules and seeds are made from "
                "it. "
                f"Fix it with {key}=VALUE, one sweep for each value."
            )
    composite = system.phases(settings, None)[0].composite
    return check_space(
        space,
        leaves(system.Settings),
        overrides,
        prepare_reads=system.prepare_reads,
        enabled_terms=_enabled(composite, settings),
        weights=composite.prefix,
    ).bind(flatten(settings))


def _enabled(composite: Any, settings: Any) -> list[str]:
    weights = composite.weights(settings.train.steps, settings.train.steps)
    return [name for name, weight in weights.items() if weight != 0.0]


def documented_points(
    name: str, system: System, space: Space, settings: Any, overrides: list[str]
) -> list[Point]:
    known, values = leaves(system.Settings), flatten(settings)
    points = []
    for source in space.points:
        preset, own = _point_values(name, source)
        typed = {
            key: conform(key, known[key], value) for key, value in own.items() if key in known
        }
        missing = [key for key in own if key not in known]
        if missing:
            raise SettingsError(f"preset {preset} sets {missing[0]}, which {name} does not have.")
        point = space.place(preset, typed, values, keep=(*KEPT_BY_POINTS, *overrides))
        replace(settings, point.sampled)  # a point must be legal as a whole
        points.append(point)
    return points


def _point_values(system: str, source: str) -> tuple[str, Mapping[str, Any]]:
    """Name and values of a preset, or of a settings file that a space of one's own names."""
    own = source.endswith((".yaml", ".yml"))
    file = read_settings_file(Path(source)) if own else preset_file(system, source, PRESETS)
    if file.timeline:
        raise SettingsError(
            f"point {source} has a timeline, and a sweep holds a trial's settings throughout: "
            "train it (ray_jobs.train --settings), or leave the timeline out."
        )
    return (Path(source).stem if own else source), file.values
