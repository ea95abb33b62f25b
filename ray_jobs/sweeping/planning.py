"""From options to a sweep that may start, or go on: settings, space, documented points, objectives
and plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from losses.schedules import unread
from ray_jobs.sweeping.choices import check_options, choose
from ray_jobs.sweeping.document import make_document
from ray_jobs.sweeping.goals import make_goal
from ray_jobs.sweeping.last_change import LastChange, last_change, variants
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.spaces import bound_space, documented_points
from results.warm import read_warm
from search.objectives import Goal
from search.options import Retention, SearchOptions
from search.plan import POPULATIONS, Plan
from search.rule import load_scheduler
from search.warm import Warm
from search_spaces.space import Point, Space, load_space
from settings.resolve import parse_overrides, resolve
from settings.schema import SettingsError
from settings.systems import current_name
from trainables.checkpoints.changeable import check_changeable
from trainables.configured import Configured
from trainables.system import load_system


@dataclass(frozen=True, kw_only=True)
class SweepSetup:
    """A sweep that may start.

    Attributes:
        configured: the system, and the settings on which every trial builds.
        options: with nothing left to choose.
        plan: what is searched and decided.
        document: `sweep.json`.
    """

    configured: Configured
    options: SweepOptions
    plan: Plan
    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        options = self.options
        most = options.max_concurrent
        if most is not None and most < 1:
            raise SettingsError(f"--max-concurrent must be 1 or more, not {most}.")
        if options.workers < 1 or options.cpus <= 0.0 or options.gpus < 0.0:
            raise SettingsError(
                "--workers must be 1 or more, --cpus above 0 and --gpus 0 or more, not "
                f"{options.workers}, {options.cpus} and {options.gpus}."
            )
        if options.reference_point is not None:
            self.plan.goal.reference_point(options.reference_point)
        Retention.parse(options.keep_checkpoints)
        load_scheduler(self.plan)  # a scheduler refuses what it cannot do, also when a sweep grows

    @property
    def notes(self) -> list[str]:
        """What was chosen for the user, in words."""
        return list(self.document.get("notes") or ())


def new_setup(options: SweepOptions, command: Sequence[str] = ()) -> SweepSetup:
    """Checks everything that can be checked before a cluster is asked for.

    Raises:
        SettingsError: an unknown system, key, space, preset or metric; a value or domain out of
            range; a key both fixed and searched; a metric that reads what the sweep searches.
    """
    options = replace(options, system=current_name(options.system))
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
    configured = Configured(system, resolved.settings)
    space = bound_space(configured, space, list(overrides))
    points, of_points = documented_points(
        options.system, configured, space, list(overrides), gpu=bool(options.gpus)
    )
    searched = {*space.domains, *(key for point in points for key in point.sampled)}
    goal, derived = make_goal(
        configured,
        searched,
        metrics=options.metrics or space.metrics,
        modes=options.modes,
        constraints=options.constraints,
        reference=options.reference,
        variants=(
            *variants(configured, space),
            *(configured.under(point.sampled) for point in points),
        ),
    )
    if options.reference and not derived:
        raise SettingsError(
            "--reference gives log_ratio(...) and worst_ratio(...) their constants, and --metric "
            "names neither: leave it out, or take --metric 'log_ratio(COLUMN,...)'."
        )
    chosen, notes = choose(options)
    check_options(options, chosen, configured)
    warm, of_warm = read_warm(options.warm_start, space, goal, configured.values, derived)
    latest = last_change(configured, space, points)
    plan = plan_of(chosen, configured, space, points, goal, warm, latest)
    if plan.scheduler in POPULATIONS:
        check_changeable(space.domains, configured, plan.scheduler)
    notes += unread(configured.settings, searched)
    notes += [*_notes_on_scheduler(plan), *_notes_on_rungs(plan, latest), *of_points, *of_warm]
    document = make_document(chosen, configured, resolved.origins, plan, derived, command, notes)
    return SweepSetup(configured=configured, options=chosen, plan=plan, document=document)


def plan_of(
    options: SweepOptions,
    configured: Configured,
    space: Space,
    points: tuple[Point, ...],
    goal: Goal,
    warm: tuple[Warm, ...],
    latest: LastChange,
) -> Plan:
    """The plan of a sweep, the same when it starts and when it goes on.

    Args:
        options: with nothing left to choose.
        space: bound to the settings.
        latest: from `last_change` at the start; a resume has the stored step, so that its rungs
            are the same for ever.
    """
    of_the_search = {field.name: getattr(options, field.name) for field in fields(SearchOptions)}
    return Plan(
        space=space,
        points=points,
        goal=goal,
        steps=configured.steps,
        report_every=configured.settings.train.report_every,
        last_change=latest.step,
        pausing=options.workers == 1,
        warm=warm,
        **of_the_search,
    )


def _notes_on_scheduler(plan: Plan) -> list[str]:
    if plan.scheduler != "pb2" or len(plan.goal.objectives) == 1:
        return []
    return [
        f"pb2 learns what improves {plan.metric}, the first objective, alone; who copies whom is "
        "decided by all of them"
    ]


def _notes_on_rungs(plan: Plan, latest: LastChange) -> list[str]:
    if plan.scheduler == "none":
        return []
    note = latest.note(plan.steps, plan.report_every)
    notes = [note] if note else []
    if not plan.rungs:
        notes.append(
            f"no report below train.steps ({plan.steps}) can be a rung: every trial is trained to "
            "its end"
        )
    return notes
