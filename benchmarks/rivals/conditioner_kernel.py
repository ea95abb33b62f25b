"""What a kernel regression makes of the conditioner's demo: a stronger rival than the references
of its sweeps, which are linear or less; on draws of the data that chose none of its settings.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.measuring.rows import Row, main, row
from ray_jobs.verb import cache_directory
from settings.flat import replace
from trainables.api import Reference
from trainables.conditioner.references import predictor_of, training_pairs
from trainables.conditioner.system import Conditioner, ConditionerSettings, Prepared
from trainables.reporting.references import measure_references

DRAWS = (4, 5, 6, 7)
METRIC = "val.decoded_field_error"
WIDTHS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the kernel exp(-width * (distance / median distance)^2)."""

PENALTIES = tuple(10.0**power for power in range(-7, 0))


def kernel_ridge(features: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Ridge regression in the space of a Gaussian kernel, features [P, F] -> targets [P, L]; width
    and penalty have the least error of leaving out one training sample at a time (in closed form,
    Rasmussen and Williams 2006, eq. 5.12: the dual coefficient over the inverse's diagonal).
    """
    x, y = features.double(), targets.double()
    mean, distances = y.mean(dim=0), torch.cdist(x, x)
    scale = distances.median()
    tried: list[tuple[float, float, Tensor]] = []
    for width in WIDTHS:
        values, vectors = torch.linalg.eigh(torch.exp(-width * (distances / scale).square()))
        projected = vectors.T @ (y - mean)
        for penalty in PENALTIES:
            inverse = 1.0 / (values.clamp_min(0.0) + penalty)
            dual = vectors @ (inverse[:, None] * projected)
            diagonal = (vectors.square() * inverse).sum(dim=1, keepdim=True)
            tried.append((float((dual / diagonal).square().mean()), width, dual))
    _, width, dual = min(tried, key=lambda entry: entry[0])

    def predict(rows: Tensor) -> Tensor:
        kernel = torch.exp(-width * (torch.cdist(rows.double(), x) / scale).square())
        return (kernel @ dual + mean).float()

    return predict


class WithKernel(Conditioner):
    """The system with one reference more."""

    def references(
        self, settings: ConditionerSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        fitted = kernel_ridge(*training_pairs(self.loaders(settings, prepared)))
        decoder = self.build(settings, prepared).modules["decoder"]
        kernel = Reference(predictor_of(fitted, decoder), "kernel ridge regression")
        return {**super().references(settings, prepared), "kernel": kernel}


def measure() -> Iterator[Row]:
    """Mean over draws of the validation and of the test, beside ridge regression there."""
    torch.set_num_threads(1)
    system = WithKernel()
    for split in ("validation", "test"):
        errors: dict[str, list[float]] = {"kernel": [], "ridge": []}
        for draw in DRAWS:
            settings = replace(system.Settings(), {"data.seed": draw, "train.test": True})
            prepared = system.prepare(settings, cache_directory())
            measured = measure_references(system, settings, prepared, split)
            for name, values in errors.items():
                values.append(measured[name][METRIC])
        ours, peer = (statistics.mean(values) for values in errors.values())
        yield row(f"rivals/conditioner_kernel/{split}", ours, "", "ridge regression", peer)


if __name__ == "__main__":
    main(measure, __doc__)
