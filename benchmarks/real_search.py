"""Searches of equal cost on real trainings, judged on the test split: the default search, random
search without early stopping, the documented point, and the best reference.

    python -m benchmarks.real_search --json [--systems conditioner] [--draws 4,5,6,7] [--store]

A unit is a draw of the data (`data.seed`): each arm searches on it, by its validation, and its
winner is measured once on the test split of that draw. Sweeps stay below `--dir` and are not run
again there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.claiming.table import TABLES, Cell, cells, write_csv
from benchmarks.measuring.commands import ROOT
from benchmarks.measuring.rows import Row, row, show
from results.directory import read_history, read_sweep
from results.frame import load_sweep
from results.references import last_test, objective_of
from settings.command import command

BUDGET = 12
"""Trainings of full length that each search costs, documented points included."""

DRAWS = (4, 5, 6, 7)
"""Of the data: those that chose no setting of a demo."""

SYSTEMS: Mapping[str, Sequence[str]] = {
    "conditioner": ("train.report_every=25",),
    "hdr_patch": ("train.report_every=15",),
}
"""The demos, at full length, with reports often enough for rungs."""

ARMS: Mapping[str, Sequence[str]] = {
    "default": ("--budget", str(BUDGET)),
    "random": ("--scheduler", "none", "--sampler", "random", "--trials", str(BUDGET)),
}

CONTROLS = {
    "random": "",
    "default": "random",
    "document": "default",
    "best_reference": "default",
}


@dataclass(frozen=True)
class Outcome:
    """The first objective on the test split of one draw, smaller is better.

    Attributes:
        winner, document, reference: of the trial that the validation chose, of the documented
            point, and of the best of what needs no training.
    """

    winner: float
    document: float
    reference: float


def sweep(system: str, arm: str, draw: int, folder: Path) -> Path:
    """Runs a sweep, or goes on with it, or does nothing where it is finished."""
    directory = folder / f"{system}-{arm}-{draw}"
    line = [sys.executable, "-m", "ray_jobs.sweep"]
    if (directory / "sweep.json").exists():
        if read_history(read_sweep(directory)).state == "finished":
            return directory
        line += ["--resume", str(directory)]
    else:
        line += [system, *SYSTEMS[system], f"data.seed={draw}", *ARMS[arm], "--test"]
        line += ["--seed", str(draw), "--dir", str(directory)]
    with (folder / f"{directory.name}.txt").open("a") as said:
        subprocess.run(line, cwd=ROOT, check=True, stdout=said, stderr=said)
    return directory


def outcome(directory: Path) -> Outcome:
    """What a finished sweep has found, by its look at the test split.

    Raises:
        ValueError: it has none, or the document's point was not measured.
    """
    swept = read_sweep(directory)
    frame = load_sweep(directory)
    look = last_test(frame, swept)
    if look is None or not look.references:
        raise ValueError(
            f"{directory} has no look at its test split. Run it with --test, or resume it so: "
            f"{command('sweep')} --resume {directory} --test"
        )
    winner = objective_of(swept, look.winner[0])
    if look.documented:
        document = objective_of(swept, look.documented[0])
    elif frame.loc[frame["is_best"], "point"].tolist() == [look.document]:
        document = winner  # measured once
    else:
        raise ValueError(
            f"{directory}: its documented point {look.document} did not end well and was not "
            "measured. Look at its trial, and run the sweep anew."
        )
    return Outcome(winner, document, objective_of(swept, next(iter(look.references.values()))))


def table(metric: str, outcomes: Mapping[str, Mapping[int, Outcome]]) -> list[Cell]:
    """The winner of each arm against random search's, and against the default's winner the
    documented point and the best reference, over the draws.
    """
    column = "test." + metric.removeprefix("val.")
    found: dict[str, Mapping[tuple[int, int], float]] = {
        arm: {(draw, 0): it.winner for draw, it in of_arm.items()}
        for arm, of_arm in outcomes.items()
    }
    default = outcomes["default"]
    found["document"] = {(draw, 0): it.document for draw, it in default.items()}
    found["best_reference"] = {(draw, 0): it.reference for draw, it in default.items()}
    return cells({column: found}, CONTROLS)


def rows_of(system: str, rows: Sequence[Cell]) -> Iterator[Row]:
    """Each arm beside its control, then by how much it is larger, with its standard error."""
    values = {cell.arm: cell.value for cell in rows}
    for cell in rows:
        name = f"real_search/{system}/{cell.arm}"
        yield row(name, cell.value, "", cell.control, values.get(cell.control))
        if cell.paired is not None:
            error = cell.paired.error
            yield Row(f"{name}/difference", cell.paired.mean, "", "standard error", error, None)


def measure(system: str, draws: Sequence[int], folder: Path) -> list[Cell]:
    outcomes: dict[str, dict[int, Outcome]] = {arm: {} for arm in ARMS}
    for draw in draws:
        for arm, found in outcomes.items():
            found[draw] = outcome(sweep(system, arm, draw, folder))
    metric = read_sweep(folder / f"{system}-default-{draws[0]}").objective.metric
    return table(metric, outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--systems", default=",".join(SYSTEMS), metavar="NAME,...")
    parser.add_argument("--draws", default=",".join(map(str, DRAWS)), metavar="N,...")
    parser.add_argument("--store", action="store_true", help=f"to {TABLES}/search_SYSTEM.csv")
    parser.add_argument("--dir", type=Path, default=ROOT / "sweeps" / "real_search")
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    draws = [int(draw) for draw in given.draws.split(",")]
    for system in given.systems.split(","):
        found = measure(system, draws, given.dir.resolve())
        if given.store:
            write_csv(TABLES / f"search_{system}.csv", found)
        for each in rows_of(system, found):
            show(each, given.json)


if __name__ == "__main__":
    main()
