"""Regret of our search on problems whose short runs say something of long ones, beside Optuna's
and Ray Tune's, on a simulated clock.

A row `PROBLEM/BUDGET` is the regret of the incumbent, the best value at the highest rung reached,
when as much compute as `BUDGET` trainings of full length is spent by 4 workers (`/64_workers`: by
64), mean over seeds. 1 is the regret of a median random configuration, on counting ones of one
without any ones. `mean/100` is the mean over the four problems that do not mislead.

`samplers/NAME/25` is that mean for every sampler under the default scheduler, `schedulers/NAME/25`
for every scheduler under the default sampler, of ours alone: `--only 'samplers/*' --seeds 10`.
`asha` is the default below 20 trials. Populations are left out: their trials change settings
during a training, which a problem without a state cannot show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.regret.bench import Bench, main
from benchmarks.regret.problems import make_problem
from search.options import SAMPLERS, SCHEDULERS
from search.plan import POPULATIONS

PEERS = ("random", "tpe", "asha_random", "asha_tpe")
HONEST = ("counting_ones", "hartmann3", "hartmann6", "branin")
WORKERS, MANY_WORKERS = 4, 64


def benches() -> Iterator[Bench]:
    for budget in (100, 25):
        for problem in (*HONEST, "misleading"):
            yield _bench(f"{problem}/{budget}", (problem,), WORKERS, budget)
        yield _bench(f"mean/{budget}", HONEST, WORKERS, budget)
    for sampler in SAMPLERS:
        name = f"samplers/{sampler}/25"
        yield replace(_bench(name, HONEST, WORKERS, 25), peers=(), sampler=sampler)
    for scheduler in (name for name in SCHEDULERS if name not in POPULATIONS):
        name = f"schedulers/{scheduler}/25"
        yield replace(_bench(name, HONEST, WORKERS, 25), peers=(), scheduler=scheduler)
    for problem in ("counting_ones", "hartmann6"):
        yield _bench(f"{problem}/100/{MANY_WORKERS}_workers", (problem,), MANY_WORKERS, 100)


def _bench(name: str, problems: tuple[str, ...], workers: int, budget: int) -> Bench:
    return Bench(
        name=name,
        make=make_problem,
        problems=problems,
        peers=PEERS,
        workers=workers,
        budget=budget,
        shares={"": 1.0},
        sampler="tpe",
        scheduler="brackets",
    )


if __name__ == "__main__":
    main(list(benches()), __doc__)
