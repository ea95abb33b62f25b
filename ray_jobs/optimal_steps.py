"""`python -m ray_jobs.optimal_steps --checkpoint DIR --output DIR`: the least number of steps that
makes samples as good as more would.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.drawing import (
    Drawer,
    add_drawing_arguments,
    distances,
    mean_with_error,
    write_csv,
)
from ray_jobs.step_search import (
    Choice,
    Scores,
    coarse_to_fine,
    every_number,
    golden_section,
)
from ray_jobs.verb import OK, finish, parser, run_verb
from settings.option import number_from_0, positive, whole_from
from settings.schema import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.request import Solver

_DESCRIPTION = """\
  {command} --checkpoint runs/first --output steps
  {command} --checkpoint runs/first --output steps sampling.rflow.solver=heun --low 2 --high 30
  {command} --checkpoint runs/first --output steps --golden --grid

The score of a number of steps is the root mean square distance of its samples to what the system's
reference makes of the same noise: of a flow 200 steps of RK4, of ddpm DDIM with every step. Chosen
is the least number whose score is within --tolerance of the best. A grid from --low to --high is
scored first, then numbers closer and closer around the best ones; each is scored --repeats times,
with the same noise for all of them in a repeat, and two numbers count as different where their
difference is shown at 95 %. Written is DIR/optimal_steps.csv, in place of an older one."""

DATA = "optimal_steps.csv"

TOLERANCE = 1.0 / 255.0
"""One level of a byte, of images in [0, 1]."""

_STREAM = 53
"""Of the seeds of repeats."""

SampleScore = Callable[["Tensor", int], float]
"""`score(samples [N, ...], repeat)`, less is better: a distance to the reference of the repeat's
noise, or of the distribution of the samples to that of data."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_find, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("optimal_steps", _DESCRIPTION)
    add_drawing_arguments(made, 8, "samples of a repeat; with --input, of each input")
    add = made.add_argument
    add("--low", type=positive, default=10, metavar="N", help="the fewest steps (default 10)")
    add("--high", type=positive, default=50, metavar="N", help="the most steps (default 50)")
    add(
        "--repeats",
        type=whole_from(2),
        default=4,
        metavar="N",
        help="how often each number is scored, with other noise each time (default 4)",
    )
    add(
        "--tolerance",
        type=number_from_0,
        default=TOLERANCE,
        metavar="X",
        help="how much worse than the best a score may be (default 1/255, a level of a byte)",
    )
    add(
        "--golden",
        action="store_true",
        help="do a golden section beside it, the document's search, on the first repeat alone",
    )
    add("--grid", action="store_true", help="score every number from --low to --high")
    return made


def optimal_steps(
    draw: Callable[[int, int], Tensor],
    score: SampleScore,
    low: int,
    high: int,
    *,
    repeats: int = 4,
    tolerance: float = TOLERANCE,
    grid: bool = False,
) -> tuple[Choice, Scores]:
    """The least number of steps whose samples score within the tolerance of the best.

    Args:
        draw: `draw(steps, repeat)` -> samples [N, ...], of the same noise for equal repeats.
        score: of these samples.
        grid: score every number instead of coming closer from a coarse grid.
    """
    scores = Scores(lambda steps, repeat: score(draw(steps, repeat), repeat), repeats)
    search = every_number if grid else coarse_to_fine
    return search(scores, low, high, tolerance), scores


class ToReference:
    """The mean distance of samples to those of the reference, made once for each repeat."""

    def __init__(self, drawer: Drawer, seeds: Sequence[int]) -> None:
        self._drawer, self._seeds = drawer, seeds
        self._made: dict[int, Tensor] = {}

    def __call__(self, samples: Tensor, repeat: int) -> float:
        if repeat not in self._made:
            self._made[repeat] = self._drawer.reference(self._seeds[repeat]).samples
        return float(distances(samples, self._made[repeat]).mean())


def _find(arguments: Namespace) -> int:
    from models.draws import hash63

    if arguments.low >= arguments.high:
        raise SettingsError(
            f"--low lies below --high, not at {arguments.low} with {arguments.high}. Lower it, or "
            "raise --high."
        )
    drawer = Drawer(arguments)
    solver = drawer.solvers.chosen
    _check(solver)
    drawer.refuse_given(solver.varies, "what is looked for")
    seeds = [hash63(arguments.seed, _STREAM, repeat) for repeat in range(arguments.repeats)]
    chosen, scores = optimal_steps(
        lambda steps, repeat: drawer.draw(solver, steps, seeds[repeat]).samples,
        ToReference(drawer, seeds),
        arguments.low,
        arguments.high,
        repeats=arguments.repeats,
        tolerance=arguments.tolerance,
        grid=arguments.grid,
    )
    rows = _rows(scores, chosen)
    golden = None
    if arguments.golden:
        golden = golden_section(
            lambda steps: float(scores.of(steps)[0]), arguments.low, arguments.high
        )
    target = Path(arguments.output).expanduser() / DATA
    write_csv(target, rows)
    if arguments.json:
        _print_json(arguments, drawer, solver, chosen, rows, golden)
    else:
        _print(drawer, solver, chosen, rows, golden, arguments)
        print(target)
    return OK


def _check(solver: Solver) -> None:
    if solver.by_tolerance:
        raise SettingsError(
            f"{solver.name} chooses its steps itself, by a tolerance, so there is no number of "
            "steps to look for. Take a solver with a fixed number."
        )
    if solver.draws:
        raise SettingsError(
            f"{solver.name} draws noise on its way, so that its samples have no distance to a "
            "reference that would fall with the steps. Take a solver that draws none."
        )


def _rows(scores: Scores, chosen: Choice) -> list[dict[str, Any]]:
    """A row for each number that was scored, ascending; differences are those to the best."""
    rows = []
    for steps in sorted(scores.found):
        mean, error = mean_with_error(scores.of(steps).tolist())
        to_best = scores.difference(steps, chosen.best)
        row = {"steps": steps, "score": mean, "standard_error": error}
        row |= {"above_best": to_best.mean, "above_best_standard_error": to_best.error}
        row |= {"is_chosen": int(steps == chosen.steps), "is_best": int(steps == chosen.best)}
        rows.append(row)
    return rows


Golden = tuple[int, dict[int, float]] | None


def _print_json(
    arguments: Namespace,
    drawer: Drawer,
    solver: Solver,
    chosen: Choice,
    rows: Sequence[dict[str, Any]],
    golden: Golden,
) -> None:
    found: dict[str, Any] = {"checkpoint": str(drawer.path), "step": drawer.step}
    found |= {"solver": solver.name, "steps": chosen.steps, "best": chosen.best}
    found |= {"like_best": list(chosen.like_best), "tolerance": arguments.tolerance}
    found["neighbours_not_told_apart"] = _alike(chosen)
    if golden is not None:
        found |= {"golden_section": golden[0], "golden_section_scored": sorted(golden[1])}
    print(json.dumps({**found, "rows": rows}))


def _print(
    drawer: Drawer,
    solver: Solver,
    chosen: Choice,
    rows: Sequence[dict[str, Any]],
    golden: Golden,
    arguments: Namespace,
) -> None:
    print(f"{drawer.path} (step {drawer.step}), {solver.name}")
    print(f"{'steps':>7}  {'distance':>10}  {'+-':>9}  {'above best':>10}  {'+-':>9}")
    for row in rows:
        mark = " chosen" if row["is_chosen"] else ""
        mark += " best" if row["is_best"] else ""
        print(
            f"{row['steps']:>7}  {row['score']:>10.4g}  {row['standard_error']:>9.2g}  "
            f"{row['above_best']:>10.3g}  {row['above_best_standard_error']:>9.2g} {mark}"
        )
    print(
        f"chosen: {chosen.steps} steps, the least number of those scored within "
        f"{arguments.tolerance:.3g} of the best ({chosen.best})"
    )
    if alike := _alike(chosen):
        beside = " and ".join(map(str, alike))
        print(f"{chosen.steps} cannot be told from {beside} steps by {arguments.repeats} repeats")
    if chosen.like_best:
        print(f"the best cannot be told from {', '.join(map(str, chosen.like_best))}")
    if golden is not None:
        steps, found = golden
        asked = ", ".join(map(str, sorted(found)))
        print(f"golden section on the first repeat: {steps} steps (of {asked})")


def _alike(chosen: Choice) -> list[int]:
    return [n for n, difference in chosen.neighbours.items() if not difference.is_shown]


if __name__ == "__main__":
    finish(main())
