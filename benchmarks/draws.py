"""What numbers drawn by sample cost against torch's own generator, which draws by process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.measuring.rows import Row, main, row
from models.draws import draw_normal

SHAPES = {"latent_2d": (4, 16, 16), "image_2d": (1, 128, 128), "volume_3d": (1, 64, 64, 32)}
"""Of one sample."""

SAMPLES, ROUNDS = 8, 40


def measure() -> Iterator[Row]:
    """One thread on the CPU, in turn; medians."""
    torch.set_num_threads(1)
    seeds = torch.arange(SAMPLES)
    for name, shape in SHAPES.items():
        sides: dict[str, Callable[[], torch.Tensor]] = {
            "ours": partial(draw_normal, seeds, "noise", shape),
            "torch": partial(torch.randn, SAMPLES, *shape),
        }
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(ROUNDS):
            for side, draw in sides.items():
                began = time.perf_counter()
                draw()
                times[side].append(time.perf_counter() - began)
        ours, peer = (1000 * statistics.median(times[side]) for side in sides)
        yield row(f"draws/{name}", ours, "ms", "torch.randn", peer)


if __name__ == "__main__":
    main(measure, __doc__)
