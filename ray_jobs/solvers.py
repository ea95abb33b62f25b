"""`python -m ray_jobs.solvers --checkpoint DIR --output DIR`: how far the samples of each solver
are from exact ones, and what they take.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.drawing import (
    Drawer,
    add_drawing_arguments,
    distances,
    mean_with_error,
    write_csv,
)
from ray_jobs.solver_figure import figure
from ray_jobs.verb import OK, finish, parser, run_verb
from settings.option import positive_numbers, positives
from settings.schema import SettingsError

if TYPE_CHECKING:
    from trainables.request import Solver

_DESCRIPTION = """\
  {command} --checkpoint runs/first --output solvers
  {command} --checkpoint runs/first --output solvers --solvers euler,heun --steps 4,8,16

The error of a sample is its root mean square distance to what the system's reference makes of the
same noise: of a flow 200 steps of RK4, of ddpm DDIM with every step. Shown is the mean over the
samples with its standard error, in units of the samples, and what a sample takes: evaluations of
the network, and seconds on this machine, decoding included. Solvers that choose their steps
themselves get a tolerance in place of a number of steps. One that draws noise on its way makes
other samples: what it has is a distance and no error. Written are DIR/solvers.csv and
DIR/solvers.png, in place of older ones."""

DATA, PICTURE = "solvers.csv", "solvers.png"

STEPS, TOLERANCES = (5, 10, 20, 50), (1e-2, 1e-3, 1e-4, 1e-5)


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_compare, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("solvers", _DESCRIPTION)
    add_drawing_arguments(made, 8, "samples; with --input, of each input")
    add = made.add_argument
    add(
        "--steps",
        type=positives,
        default=list(STEPS),
        metavar="N,N",
        help=f"numbers of steps (default {','.join(map(str, STEPS))})",
    )
    add(
        "--tolerances",
        type=positive_numbers,
        default=list(TOLERANCES),
        metavar="X,X",
        help="relative and absolute, of solvers that choose their steps themselves (default "
        f"{','.join(f'{value:g}' for value in TOLERANCES)})",
    )
    add(
        "--solvers",
        metavar="NAMES",
        help="some of them, by the names that they have in the table (default all)",
    )
    return made


def _compare(arguments: Namespace) -> int:
    drawer = Drawer(arguments)
    chosen = _named(arguments.solvers, drawer.solvers.each)
    each = (*drawer.solvers.each, drawer.solvers.reference)
    own = {key for solver in each for key in (*solver.options, *solver.varies)}
    drawer.refuse_given(own, "what the solvers differ in")
    target = Path(arguments.output).expanduser()
    rows = []
    for row in _measured(drawer, chosen, arguments):
        rows.append(row)
        if arguments.json:
            print(json.dumps(row), flush=True)
    write_csv(target / DATA, rows)
    _save_figure(target / PICTURE, rows)
    if not arguments.json:
        _print(drawer, rows)
        print(f"{target / DATA}\n{target / PICTURE}")
    return OK


def _named(names: str | None, each: Sequence[Solver]) -> list[Solver]:
    known = {solver.name: solver for solver in each}
    asked = list(known) if names is None else [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in known:
            raise SettingsError(f"--solvers takes some of {', '.join(known)}, not {name!r}.")
    return [known[name] for name in dict.fromkeys(asked)]


def _measured(
    drawer: Drawer, chosen: Sequence[Solver], arguments: Namespace
) -> Iterator[dict[str, Any]]:
    """A row for each solver and number of steps or tolerance; all of the same noise. The reference
    is made first, so that nothing is timed that only the first call takes.
    """
    seed = arguments.seed
    exact = drawer.reference(seed).samples
    for solver in chosen:
        numbers = arguments.tolerances if solver.by_tolerance else arguments.steps
        for number in numbers:
            made = drawer.draw(solver, number, seed)
            mean, error = mean_with_error(distances(made.samples, exact).tolist())
            yield {
                "solver": solver.name,
                "steps": "" if solver.by_tolerance else number,
                "tolerance": number if solver.by_tolerance else "",
                "error": mean,
                "standard_error": error,
                "evaluations_per_sample": made.evaluations,
                "seconds_per_sample": made.seconds,
                "samples": len(made.samples),
                "draws_noise": int(solver.draws),
            }


def _save_figure(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from settings.atomic_file import atomic_file

    with atomic_file(path) as scratch:
        figure(rows).save(scratch, format="PNG")


def _print(drawer: Drawer, rows: Sequence[Mapping[str, Any]]) -> None:
    reference, number = drawer.solvers.reference, drawer.solvers.reference_number
    print(
        f"{drawer.path} (step {drawer.step}): {rows[0]['samples']} samples, compared with "
        f"{reference.name}, {number} steps"
    )
    width = max(len("solver"), *(len(row["solver"]) for row in rows))
    print(
        f"{'solver':<{width}}  {'steps':>6}  {'tolerance':>9}  {'error':>9}  {'+-':>8}  "
        f"{'evaluations':>11}  {'seconds':>9}"
    )
    for row in rows:
        note = "  (draws noise: a distance)" if row["draws_noise"] else ""
        deviation = row["standard_error"]
        shown = "-" if math.isnan(deviation) else f"{deviation:.2g}"
        print(
            f"{row['solver']:<{width}}  {row['steps']!s:>6}  {row['tolerance']!s:>9}  "
            f"{row['error']:>9.3g}  {shown:>8}  {row['evaluations_per_sample']:>11.4g}  "
            f"{row['seconds_per_sample']:>9.3g}{note}"
        )


if __name__ == "__main__":
    finish(main())
