"""From the words of a command line to what a sweep is judged by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from metrics.combined import Combined, is_combined
from search.guard import check_constraints, check_objective
from search.objectives import Constraint, Goal, Mode, Objective
from settings.schema import SettingsError
from trainables.configured import Configured


def make_goal(
    configured: Configured,
    searched: Collection[str],
    *,
    metrics: Sequence[str] = (),
    modes: Sequence[str] = (),
    constraints: Sequence[str] = (),
    reference: str | None = None,
    variants: Iterable[Configured] = (),
) -> tuple[Goal, tuple[Combined, ...]]:
    """Objectives and constraints, and those of their columns that are made of others.

    Args:
        searched: every key in which the trials differ.
        metrics: columns, and sums such as `log_ratio(val.loss.l1=0.12)`; the system's first
            metric with a direction where there are none.
        modes: what the user takes for the better directions, one each or none at all.
        reference: `DIR[:TRIAL|POINT]`, which gives the constants that the sums lack.
        variants: the system as trials may have it, where their phases have other schedules.

    Raises:
        SettingsError: the guard refuses a column (`search.guard`), or a direction is not the
            metric's own.
    """
    composite = configured.composite
    every = {key for each in (configured, *variants) for key in each.validation_reads}
    measures = [replace(one, reads=(*one.reads, *every)) for one in configured.measures]
    terms = {k: replace(term, reads=(*term.reads, *every)) for k, term in composite.terms.items()}
    judged = (measures, terms, searched, composite.prefix)
    objectives = [_objective(text, reference) for text in metrics or _default(configured)]
    derived = tuple(column for column in objectives if isinstance(column, Combined))
    directions = check_objective(objectives, *judged)
    _check_modes(modes, directions)
    bounds = tuple(Constraint.parse(text) for text in constraints)
    _check_bounds(bounds)
    check_constraints([bound.metric for bound in bounds], *judged, derived=derived)
    goal = Goal(tuple(Objective(column, mode) for column, mode in directions.items()), bounds)
    return goal, derived


def _objective(text: str, reference: str | None) -> str | Combined:
    if not is_combined(text):
        return text
    if reference is None:
        return Combined.parse(text)
    from results.reference import reference_values, split_reference

    directory, which = split_reference(reference)
    return Combined.parse(text, lambda columns: reference_values(directory, which, columns))


def _default(configured: Configured) -> list[str]:
    first = next((metric for metric in configured.measures if metric.mode is not None), None)
    if first is None:
        raise SettingsError(
            f"{configured.system.name} declares no metric with a direction; name one with "
            "--metric."
        )
    return [f"val.{first.name}"]


def _check_bounds(bounds: Sequence[Constraint]) -> None:
    """Refuses two bounds on the same side of a column, for what is missed would count twice, and
    bounds that leave it no value: every trial would be infeasible.
    """
    sides = [(bound.metric, bound.relation) for bound in bounds]
    for bound, side in zip(bounds, sides, strict=True):
        if sides.count(side) > 1:
            raise SettingsError(
                f"--subject-to bounds {bound.metric} by {bound.relation} twice: the tighter of "
                "the two says both."
            )
    for low in (bound for bound in bounds if bound.relation == ">="):
        for high in bounds:
            if high.metric == low.metric and high.relation == "<=" and high.bound < low.bound:
                raise SettingsError(
                    f"no trial can keep --subject-to '{low}' and '{high}' at once: leave one out, "
                    "or turn one round."
                )


def _check_modes(modes: Sequence[str], directions: Mapping[str, Mode]) -> None:
    if modes and len(modes) != len(directions):
        raise SettingsError(
            f"--mode is given {len(modes)} times for {len(directions)} metric(s): once for each, "
            "or never (every metric knows its own direction)."
        )
    for mode, (column, better) in zip(modes, directions.items(), strict=False):
        if mode != better:
            raise SettingsError(
                f"{column} is better when {better}, so --mode {mode} would search the worst."
            )
