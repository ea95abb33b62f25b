"""The claims of a system's source document, tested: every arm against its control, as one table.

    python -m benchmarks.claims --check
    python -m benchmarks.claims conditioner --dir sweeps/conditioner --units 4
    python -m benchmarks.claims hdr_patch --dir sweeps/claims-real data.source=folder data.root=...
    python -m benchmarks.claims compression_real --dir sweeps/real --store compression_real

The arms are `benchmarks/arms/NAME.yaml` (benchmarks/README.md says how to write them). Each seed
of each unit (`System.unit_key`: other scenes, patients, designs) is one sweep of all of them, run
by the sweep verb with `--paired`, and resumed where it was cut off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.claiming.arms import Arms, described, faults, names, read_arms
from benchmarks.claiming.figures import FINDINGS, faults_of
from benchmarks.claiming.knobs import idle_knobs
from benchmarks.claiming.overfit import STEPS, overfits
from benchmarks.claiming.running import Place, measured_references, places, run
from benchmarks.claiming.table import (
    TABLES,
    Cell,
    cells,
    markdown,
    read_csv,
    references_of,
    results_of,
    write_csv,
)
from results.frame import load_reports, load_sweep
from settings.option import positive, whole
from settings.schema import SettingsError

REFUSED = 1
"""Exit status where an arm or a figure breaks a rule, or the comparison cannot be made."""


def main(argv: Sequence[str] | None = None) -> int:
    """Checks arms and figures, trains what is missing, prints the table as Markdown; the exit
    status.
    """
    arguments = _parser().parse_intermixed_args(argv)
    try:
        return _claims(arguments)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("arms", nargs="?", metavar="NAME|FILE", help=", ".join(names()))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--dir", help="for the sweeps: seed-S, with --units unit-U/seed-S")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N")
    parser.add_argument("--first-seed", type=whole, default=0, metavar="S")
    parser.add_argument("--units", type=positive, metavar="N", help="draws of the data")
    parser.add_argument("--first-unit", type=whole, default=0, metavar="U")
    parser.add_argument(
        "--check",
        action="store_true",
        help="say what differs between each arm and its control, and start nothing; without NAME "
        "of all arms, and whether the figures of the findings are those of their tables",
    )
    parser.add_argument(
        "--findings", type=Path, default=FINDINGS, metavar="DIR", help="the pages to check"
    )
    parser.add_argument(
        "--no-overfit",
        action="store_true",
        help=f"leave out whether {STEPS} steps on one batch learn it",
    )
    parser.add_argument("--store", metavar="TABLE", help=f"write {TABLES.name}/TABLE.csv as well")
    parser.add_argument("--print", metavar="TABLE", help="print a stored table, and start nothing")
    return parser


def _claims(arguments: argparse.Namespace) -> int:
    if arguments.print:
        print(markdown(read_csv(_stored(arguments.print, must_exist=True))))
        return 0
    if not (arguments.arms or arguments.check):
        raise SettingsError(f"name the arms: {', '.join(names())}, or the path of a .yaml file.")
    if arguments.first_unit and not arguments.units:
        raise SettingsError("--first-unit says where --units N begins: add --units.")
    if not (arguments.dir or arguments.check):
        raise SettingsError("the sweeps of the arms need a place: --dir DIR.")
    named = [arguments.arms] if arguments.arms else names()
    read = [read_arms(name, arguments.overrides) for name in named]
    wrong = []
    for arms in read:
        print("\n".join(described(arms)), file=sys.stdout if arguments.check else sys.stderr)
        wrong += faults(arms)
    if arguments.check and not arguments.arms:
        wrong += faults_of(arguments.findings)
    if wrong:
        raise SettingsError("\nerror: ".join(wrong))
    if not arguments.check:
        _compare(read[0], arguments)
    return 0


def _compare(arms: Arms, arguments: argparse.Namespace) -> None:
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    units = range(arguments.first_unit, arguments.first_unit + (arguments.units or 0))
    sweeps = places(arms, Path(arguments.dir).resolve(), arguments.overrides, seeds, units)
    stored = _stored(arguments.store) if arguments.store else None
    for place in sweeps:
        run(arms, place)
    trials = [load_sweep(place.directory) for place in sweeps]
    rows = table(arms, sweeps, trials)
    if stored:
        write_csv(stored, rows)
    print(markdown(rows))
    _print("trainings without a result", list(_failed(sweeps, trials)))
    reports = [load_reports(place.directory) for place in sweeps]
    _print("knobs that did not move", idle_knobs(arms, reports, trials))
    if not arguments.no_overfit:
        first = read_arms(str(arms.path), sweeps[0].overrides)
        told = [overfits(first, arm) for arm in first.arms.values()]
        _print(f"one batch after {STEPS} steps on it alone", told)


def table(arms: Arms, sweeps: Sequence[Place], trials: Sequence[pd.DataFrame]) -> list[Cell]:
    """The cells of a comparison; `trials` is `load_sweep` of each of its sweeps."""
    at = [(place.unit, place.seed) for place in sweeps]
    references = dict(zip(at, map(measured_references, sweeps), strict=True))
    controls = {arm.name: arm.control for arm in arms.arms.values()}
    results = results_of(dict(zip(at, trials, strict=True)), arms.columns)
    return cells(results, controls, references_of(references, list(results)))


def _failed(sweeps: Sequence[Place], trials: Sequence[pd.DataFrame]) -> Iterator[str]:
    for place, frame in zip(sweeps, trials, strict=True):
        for row in frame[frame["state"] != "complete"].to_dict("records"):
            where = f"{row['point']}, unit {place.unit}, seed {place.seed}"
            yield f"{where}: {row['state']}: {row['stop_reason']}"


def _print(title: str, lines: Sequence[str]) -> None:
    print(f"\n{title}:")
    for line in lines or ("none",):
        print(f"- {line}")


def _stored(name: str, *, must_exist: bool = False) -> Path:
    """The file of a stored table. Raises `SettingsError` for what is no name, or is not there."""
    path = TABLES / f"{name}.csv"
    known = ", ".join(sorted(path.stem for path in TABLES.glob("*.csv"))) or "none"
    if path.parent != TABLES or "=" in name or (must_exist and not path.is_file()):
        raise SettingsError(f"{name!r} is not the name of a table. Tables: {known}.")
    return path


if __name__ == "__main__":
    sys.exit(main())
