"""The content term of `style_flow` over sampled positions against all: whether its mean is that
of all pairs, with the diagonal and without (002-M6), and what it holds in memory (002-M3: a
quarter of the positions is a sixteenth of the pairs, not 1/256).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.measuring.rows import Row, main, standard_error
from losses.gram import FORMS, gram, gram_distance
from losses.patches import drawn, taken
from models.draws import draw_uniform

CHANNELS, POSITIONS, SAMPLED, DRAWS = 4, 1024, 256, 2000
FLOOR = 1e-3


def measure() -> Iterator[Row]:
    torch.set_num_threads(1)
    for form in FORMS:
        yield from sampled(form)
    yield memory()


def pair() -> tuple[Tensor, Tensor]:
    """A latent and another near it, [1, C, N], float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, CHANNELS, POSITIONS, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, CHANNELS, POSITIONS, generator=generator, dtype=torch.float64)
    return x, x + 0.5 * noise


def sampled(form: str, draws: int = DRAWS, at_once: int = 50) -> Iterator[Row]:
    """The mean over draws of S of N positions against the value of all, and how many standard
    errors lie between; the standard deviation of one draw, as a share of the value.
    """
    x, y = pair()
    full = float(gram_distance(x, y, FLOOR, form)[0])
    values: list[float] = []
    for seeds in torch.arange(draws).split(at_once):
        places = drawn(draw_uniform(seeds, "gram", (POSITIONS,)), SAMPLED)
        one, other = (taken(latent.expand(len(seeds), -1, -1), places) for latent in (x, y))
        values += gram_distance(one, other, FLOOR, form).tolist()
    mean, error = math.fsum(values) / draws, standard_error(values) or math.nan
    name = f"gram/{form}"
    yield Row(f"{name}/mean_of_{draws}_draws", mean, "", "all positions", full, None)
    off = abs(mean - full) / error
    yield Row(f"{name}/standard_errors_off", off, "", "bound for off_diagonal", 3.0, None)
    spread = error * draws**0.5 / full
    yield Row(f"{name}/deviation_of_a_draw", spread, "share", "", None, None)


def memory(samples: int = 48) -> Row:
    """MiB of the cosines of a batch, of S positions and of all."""
    sides = SAMPLED, POSITIONS
    held = [
        gram(torch.zeros(1, CHANNELS, side), FLOOR).untyped_storage().nbytes() for side in sides
    ]
    ours, all_of_them = (samples * size / 2**20 for size in held)
    return Row("gram/memory", ours, "MiB", "all positions", all_of_them, all_of_them / ours)


if __name__ == "__main__":
    main(measure, __doc__)
