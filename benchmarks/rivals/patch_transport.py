"""The squared sliced Wasserstein distance of patches that `style_flow` is trained by, against
POT's `sliced_wasserstein_distance` with the same directions: values and CPU time, with and without
a gradient. Against the closed form of Gaussian fields. And what a loss sees of two styles that are
exchanged between samples: compared by sample or by style, and pooled over the batch (002-M7).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring.gaussian_fields import Law, sliced_wasserstein, two_styles
from benchmarks.measuring.rows import Row, main
from benchmarks.measuring.steps import undisturbed_clock
from losses import sliced_wasserstein as ours
from losses.style.flow import TERMS
from losses.style.terms import LossSettings
from settings.flat import replace

PATCHES, SIZE, CHANNELS, DIRECTIONS = 8192, 3, 4, 64
DIMENSIONS = CHANNELS * SIZE**2
SIDE = 32
INDEPENDENT = 1 << 16
FLOOR_PATCHES = (1024, 4096, 8192, 16384)
BLOCKS = 9

POT = "POT sliced_wasserstein_distance"

Clouds = tuple[Tensor, Tensor, Tensor]


def measure() -> Iterator[Row]:
    """Times are CPU seconds on one thread, medians over runs in turn; the ratio is the median over
    pairs.
    """
    torch.set_num_threads(1)
    yield from against_pot()
    yield sort()
    for means in ("different", "equal"):
        yield closed_form(means)
    yield from null_floors()
    yield from exchanged()


def clouds() -> Clouds:
    """(x, y, directions): [D, n] twice and [P, D], float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(DIMENSIONS, PATCHES, generator=generator)
    y = 1.3 * torch.randn(DIMENSIONS, PATCHES, generator=generator) + 0.1
    return x, y, ours.unit(torch.randn(DIRECTIONS, DIMENSIONS, generator=generator))


def by_us(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    return ours.sliced_wasserstein(x[None], y[None], directions)[0]


def by_pot(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """Squared: POT has the root of the mean over directions."""
    import ot

    found = ot.sliced_wasserstein_distance(x.T, y.T, projections=directions.T, p=2)
    return torch.as_tensor(found) ** 2


def by_pot_numpy(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """POT's form for NumPy's arrays, its faster one."""
    import ot

    arrays = x.T.numpy(), y.T.numpy()
    found = ot.sliced_wasserstein_distance(*arrays, projections=directions.T.numpy(), p=2)
    return torch.tensor(float(found)) ** 2


def against_pot() -> Iterator[Row]:
    """What POT is needed for; without it one row that says so, and the value alone."""
    name = "patch_transport/pot"
    if importlib.util.find_spec("ot") is None:
        missing = f"{POT}: not installed (pip install POT)"
        yield Row(f"{name}/value", float(by_us(*clouds())), "", missing, None, None)
        return
    yield from same_value(f"{name}/value")
    yield timed(f"{name}/time_of_numpy", POT, by_us, by_pot_numpy, gradient=False)
    yield timed(f"{name}/time_of_torch", POT, by_us, by_pot, gradient=False)
    yield timed(f"{name}/time_with_gradient", POT, by_us, by_pot, gradient=True)


def same_value(name: str) -> Iterator[Row]:
    mine, theirs = (float(side(*clouds())) for side in (by_us, by_pot_numpy))
    yield Row(name, mine, "", POT, theirs, None)
    yield Row(f"{name}/relative_difference", abs(mine / theirs - 1.0), "", "bound", 1e-5, None)


def timed(
    name: str, peer: str, one: Callable[..., Tensor], other: Callable[..., Tensor], gradient: bool
) -> Row:
    x, y, directions = clouds()
    clock = undisturbed_clock()

    def seconds(side: Callable[..., Tensor]) -> float:
        given = x.clone().requires_grad_(gradient)
        began = clock()
        value = side(given, y, directions)
        if gradient:
            value.backward()
        return clock() - began

    return _in_turn(name, peer, lambda: seconds(one), lambda: seconds(other))


def sort() -> Row:
    """What the numbers of one side are sorted in, by NumPy and by torch."""
    x, _, directions = clouds()
    projected, clock = directions @ x, undisturbed_clock()

    def seconds(sorted_by: Callable[[Tensor], object]) -> float:
        began = clock()
        sorted_by(projected)
        return clock() - began

    return _in_turn(
        "patch_transport/sort",
        "torch.sort",
        lambda: seconds(ours.ascending),
        lambda: seconds(lambda numbers: numbers.sort(dim=-1)),
    )


def _in_turn(name: str, peer: str, one: Callable[[], float], other: Callable[[], float]) -> Row:
    one(), other()
    pairs = [(one(), other()) for _ in range(BLOCKS)]
    mine, theirs = (1000.0 * statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(their / my for my, their in pairs)
    return Row(name, mine, "ms", peer, theirs, ratio)


def closed_form(means: str) -> Row:
    """Of independent patches of two Gaussian fields, against their laws. With equal means the
    distance is that of the covariances alone.
    """
    laws, generator = two_styles(), np.random.default_rng(1)
    if means == "equal":
        laws = laws[0], dataclasses.replace(laws[1], mean=laws[0].mean)
    directions = ours.unit(torch.from_numpy(generator.normal(size=(DIRECTIONS, DIMENSIONS))))
    x, y = (torch.from_numpy(law.draw_patches(INDEPENDENT, SIZE, SIDE, generator)) for law in laws)
    expected = sliced_wasserstein(*laws, SIZE, SIDE, directions.numpy())
    found = float(by_us(x, y, directions))
    name = f"patch_transport/closed_form/means_{means}"
    return Row(name, found, "", "of the laws", expected, None)


def null_floors() -> Iterator[Row]:
    """SW_2^2 of two independent sets of patches of one law: it falls as their number grows,
    whatever they are a share of (002-M5).
    """
    law, generator = two_styles()[0], np.random.default_rng(2)
    directions = ours.unit(torch.from_numpy(generator.normal(size=(DIRECTIONS, DIMENSIONS))))
    for count in FLOOR_PATCHES:
        x, y = (torch.from_numpy(law.draw_patches(count, SIZE, SIDE, generator)) for _ in range(2))
        value = float(by_us(x, y, directions))
        yield Row(f"patch_transport/null_floor/{count}", value, "", "", None, None)


def exchanged() -> Iterator[Row]:
    """The term where the end points have each other's styles, by group; its ratio to `pooled`."""
    values = {group: exchanged_value(group) for group in ("sample", "style", "pooled")}
    for group, value in values.items():
        ratio = value / values["pooled"]
        peer = None if group == "pooled" else values["pooled"]
        name = f"patch_transport/exchanged_styles/{group}"
        yield Row(name, value, "", "pooled", peer, None if peer is None else ratio)


def exchanged_value(group: str, samples: int = 8, references: int = 4) -> float:
    """The mean of the term on fields of two styles, each sample with the other's target."""
    laws: tuple[Law, Law] = two_styles()
    generator = np.random.default_rng(3)
    style = np.arange(samples) % 2

    def fields(of: np.ndarray, count: int) -> Tensor:
        drawn = [laws[s].draw(count, SIDE, generator) for s in of]
        return torch.from_numpy(np.stack(drawn)).float()

    batch = {
        "latent": fields(style, 1)[:, 0],
        "references": fields(1 - style, references),
        "target": torch.from_numpy(1 - style),
        "seed": torch.arange(samples),
    }
    changes = {"swd.group": group, "swd.max_samples": 0}
    tree = _Tree(replace(LossSettings(), changes))
    prediction = {"x1": fields(style, 1)[:, 0]}
    total, count = TERMS["swd"](prediction, batch, tree)
    return float(total / count)


@dataclasses.dataclass(frozen=True)
class _Tree:
    """What the terms read of a system's settings."""

    loss: LossSettings


if __name__ == "__main__":
    main(measure, __doc__)
