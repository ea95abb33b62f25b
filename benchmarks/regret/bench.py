"""What the benches of searches share: contenders over seeds in parallel processes, and rows of
mean regret with its standard error.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from multiprocessing import get_context

from benchmarks.measuring.rows import Row, row, show, standard_error
from benchmarks.regret.peers import PEERS, Curve, run
from benchmarks.regret.problems import Problem

OURS = "ours"


@dataclass(frozen=True)
class Bench:
    """One comparison: regret, averaged over problems, of ours and of every peer.

    Attributes:
        name: of its rows.
        make: a function of a module, which every process calls with the name of a problem.
        budget: in trainings of full length.
        shares: name of a row's ending -> share of the budget at which regret is read.
        sampler, scheduler: of ours.
    """

    name: str
    make: Callable[[str], Problem]
    problems: tuple[str, ...]
    peers: tuple[str, ...]
    workers: int
    budget: int
    shares: Mapping[str, float]
    sampler: str
    scheduler: str


@dataclass(frozen=True)
class Task:
    """One search with one seed: what a process is sent."""

    contender: str
    make: Callable[[str], Problem]
    problem: str
    workers: int
    budget: int
    seed: int
    sampler: str
    scheduler: str


def search(task: Task) -> Curve:
    problem = task.make(task.problem)
    if task.contender != OURS:
        return run(task.contender, problem, task.workers, task.budget, task.seed)
    from benchmarks.regret.ours import ours

    return ours(
        problem,
        task.workers,
        task.budget,
        task.seed,
        sampler=task.sampler,
        scheduler=task.scheduler,
    )


Regrets = Mapping[str, Mapping[str, Sequence[float]]]
"""Ending of a row -> contender -> mean regret over the problems, one number a seed."""


def regrets(
    bench: Bench,
    contenders: Sequence[str],
    seeds: int,
    searches: Callable[[Sequence[Task]], Sequence[Curve]],
) -> Regrets:
    """Runs a comparison. Every contender gets the same problems and the seeds 0, 1, ..."""
    found: dict[str, dict[str, list[float]]] = {ending: {} for ending in bench.shares}
    for contender in contenders:
        tasks = [
            Task(
                contender,
                bench.make,
                problem,
                bench.workers,
                bench.budget,
                seed,
                # Options of ours: a peer's search is the same under all of them.
                bench.sampler if contender == OURS else "",
                bench.scheduler if contender == OURS else "",
            )
            for seed in range(seeds)
            for problem in bench.problems
        ]
        curves = [dict(curve) for curve in searches(tasks)]
        count = len(bench.problems)
        for ending, share in bench.shares.items():
            at = [curve[share] for curve in curves]
            found[ending][contender] = [
                statistics.fmean(at[count * seed : count * (seed + 1)]) for seed in range(seeds)
            ]
    return found


def rows(name: str, found: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    """Ours beside the best peer, its standard error beside that peer's; then every peer alone.
    Means and standard errors are over seeds.
    """
    means = {contender: statistics.fmean(values) for contender, values in found.items()}
    errors = {contender: standard_error(values) for contender, values in found.items()}
    peers = sorted((contender for contender in found if contender != OURS), key=means.__getitem__)
    if OURS in found:
        best = peers[0] if peers else None
        label = PEERS[best].label if best else ""
        yield row(name, means[OURS], "regret", label, means[best] if best else None)
        if (error := errors[OURS]) is not None:
            peer_error = errors[best] if best else None
            yield Row(f"{name}/standard_error", error, "regret", label, peer_error, None)
    for peer in peers:
        yield Row(f"{name}/{peer}", means[peer], "regret", "", None, None)
        if (error := errors[peer]) is not None:
            yield Row(f"{name}/{peer}/standard_error", error, "regret", "", None, None)


def main(benches: Sequence[Bench], description: str | None) -> None:
    """The command line of a bench of searches."""
    parser = _parser(description)
    options = parser.parse_args()
    chosen = [
        bench for bench in benches if any(fnmatchcase(n, options.only) for n in _names(bench))
    ]
    if not chosen:
        names = ", ".join(name for bench in benches for name in _names(bench))
        parser.error(f"--only must match one of {names}, not {options.only!r}.")
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        known: dict[Task, Curve] = {}

        def searches(tasks: Sequence[Task]) -> list[Curve]:
            """Searches that an earlier row has made are not made again."""
            new = [task for task in tasks if task not in known]
            known.update(zip(new, pool.map(search, new), strict=True))
            return [known[task] for task in tasks]

        for bench in chosen:
            bench = _changed(bench, options)
            contenders = [c for c in (OURS, *bench.peers) if c in (options.contenders or (c,))]
            found = regrets(bench, contenders, options.seeds, searches)
            for ending, at in found.items():
                for measured in rows(bench.name + ending, at):
                    show(measured, options.json)


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", metavar="ROW", default="*", help="rows, such as 'branin/*'")
    parser.add_argument("--seeds", type=_positive, default=20)
    parser.add_argument("--processes", type=_positive, default=2)
    parser.add_argument(
        "--workers", type=_positive, help="simulated workers, instead of those of the rows"
    )
    parser.add_argument("--contenders", nargs="+", choices=(OURS, *PEERS), help="default: all")
    parser.add_argument("--sampler", help="of ours, by name")
    parser.add_argument("--scheduler", help="of ours, by name")
    return parser


def _names(bench: Bench) -> list[str]:
    return [bench.name + ending for ending in bench.shares]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _changed(bench: Bench, options: argparse.Namespace) -> Bench:
    if options.workers and options.workers != bench.workers:
        name = f"{bench.name}/with_{options.workers}_workers"
        bench = replace(bench, name=name, workers=options.workers)
    return replace(
        bench,
        sampler=options.sampler or bench.sampler,
        scheduler=options.scheduler or bench.scheduler,
    )
