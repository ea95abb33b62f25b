"""Searches of equal cost on real trainings, judged on the test split: the default search, TPE and
random search without early stopping, the documented point, and the best reference.

    python -m benchmarks.real_search --json [--systems conditioner] [--draws 4,5,6,7]

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

from benchmarks.measuring.commands import ROOT
from benchmarks.measuring.rows import Row, row, show
from metrics.paired import nested
from results.directory import read_history, read_sweep
from results.frame import load_sweep
from results.references import last_test, objective_of

BUDGET = 20
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
    "tpe": ("--scheduler", "none", "--trials", str(BUDGET)),
    "random": ("--scheduler", "none", "--sampler", "random", "--trials", str(BUDGET)),
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
    look = last_test(load_sweep(directory), swept)
    if look is None or not look.references:
        raise ValueError(
            f"{directory} has no look at its test split. Run it with --test, or resume it so: "
            f"python -m ray_jobs.sweep --resume {directory} --test"
        )
    winner = objective_of(swept, look.winner[0])
    # A documented point that wins is measured once, as the winner.
    document = objective_of(swept, look.documented[0]) if look.documented else winner
    return Outcome(winner, document, objective_of(swept, next(iter(look.references.values()))))


def rows_of(system: str, outcomes: Mapping[str, Sequence[Outcome]]) -> Iterator[Row]:
    """Each arm's winner beside the document, the best reference and random search, and the paired
    gain over each, over the draws: its mean and its standard error.
    """
    random = [each.winner for each in outcomes["random"]]
    for arm, found in outcomes.items():
        rivals = {
            "document": [each.document for each in found],
            "reference": [each.reference for each in found],
            "random": random,
        }
        for rival, theirs in rivals.items():
            if rival == arm:
                continue
            ours = [each.winner for each in found]
            name = f"real_search/{system}/{arm}/over_{rival}"
            yield row(name, _mean(ours), "", rival, _mean(theirs))
            gain = nested([[b - a] for a, b in zip(ours, theirs, strict=True)])
            yield Row(f"{name}/gain", gain.mean, "", "its standard error", gain.error, None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def measure(systems: Sequence[str], draws: Sequence[int], folder: Path) -> Iterator[Row]:
    for system in systems:
        outcomes: dict[str, list[Outcome]] = {arm: [] for arm in ARMS}
        for draw in draws:
            for arm, found in outcomes.items():
                found.append(outcome(sweep(system, arm, draw, folder)))
        yield from rows_of(system, outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--systems", default=",".join(SYSTEMS), metavar="NAME,...")
    parser.add_argument("--draws", default=",".join(map(str, DRAWS)), metavar="N,...")
    parser.add_argument("--dir", type=Path, default=ROOT / "sweeps" / "real_search")
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    draws = [int(draw) for draw in given.draws.split(",")]
    for found in measure(given.systems.split(","), draws, given.dir.resolve()):
        show(found, given.json)


if __name__ == "__main__":
    main()
