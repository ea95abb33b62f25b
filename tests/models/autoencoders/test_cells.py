"""The sample of an update's cells by their keys, and k-means against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from scipy.stats import chisquare
from torch import Tensor

from models.autoencoders.cells import ITERATIONS, CellSample, kmeans

IMAGES, CELLS, WIDTH = 6, 10, 3
SEEDS = torch.tensor([5, -7, 2**40, 0, 11, 12])


def vectors(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(IMAGES * CELLS, WIDTH, generator=generator)


def sample(images: slice, size: int, sound: Tensor | None = None) -> CellSample:
    cells = slice(images.start * CELLS, images.stop * CELLS)
    sound = torch.ones(IMAGES * CELLS, dtype=torch.bool) if sound is None else sound
    return CellSample.drawn(SEEDS[images], vectors()[cells], sound[cells], size)


@pytest.mark.parametrize("size", [1, 7, 60, 100])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_it_is_the_same_however_the_images_are_cut(size: int, order: tuple[int, ...]) -> None:
    whole, joined = sample(slice(0, IMAGES), size), None
    parts = (slice(0, 1), slice(1, 4), slice(4, 6))
    for place in order:
        joined = sample(parts[place], size).joined(joined, size)
    assert joined is not None and len(whole.cells()) == min(size, IMAGES * CELLS)
    assert torch.equal(joined.keys, whole.keys)
    assert torch.equal(joined.vectors, whole.vectors)
    assert len(whole.keys.unique()) == len(whole.keys)


def test_no_generator_of_torch_has_a_part_in_it() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = sample(slice(0, IMAGES), 5)
        state = torch.get_rng_state()
        torch.manual_seed(2)
        again = sample(slice(0, IMAGES), 5)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state), "nothing was drawn"
    assert torch.equal(first.vectors, again.vectors)
    other = CellSample.drawn(SEEDS + 1, vectors(), torch.ones(60, dtype=torch.bool), 5)
    assert not torch.equal(first.vectors, other.vectors)


def test_every_cell_is_equally_likely_and_what_is_not_sound_is_never_drawn() -> None:
    """2000 images of 20 cells, one drawn of each; the last five may not be."""
    places = torch.arange(20.0)[:, None]
    drawn = [
        int(CellSample.drawn(torch.tensor([seed]), places, places[:, 0] < 15, 1).vectors)
        for seed in range(2000)
    ]
    counts = np.bincount(drawn, minlength=20)
    assert not counts[15:].any()
    assert chisquare(counts[:15]).pvalue > 0.01


def test_cells_that_are_not_sound_are_left_out_of_a_sample_that_has_room() -> None:
    sound = torch.arange(IMAGES * CELLS) % 2 == 0
    found = sample(slice(0, IMAGES), 50, sound)
    assert len(found.keys) == 50 and len(found.cells()) == 30
    kept = {tuple(row) for row in vectors()[sound].tolist()}
    assert {tuple(row) for row in found.cells().tolist()} == kept


def test_kmeans_is_that_of_scipy_where_no_code_is_left_without_a_point() -> None:
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(3))
    expected, _ = kmeans2(points.double().numpy(), points[:12].double().numpy(), ITERATIONS)
    found = kmeans(points, torch.zeros(12, 3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_kmeans_finds_every_cluster_behind_copies_of_one_point() -> None:
    """Most pixels of a scan are background: the first points are one and the same."""
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]])
    noise = 0.1 * torch.randn(40, 2, generator=torch.Generator().manual_seed(4))
    points = torch.cat([torch.zeros(200, 2), centres.repeat(10, 1) + noise])
    found = kmeans(points, torch.full((8, 2), 99.0))
    nearest = torch.cdist(centres, found).min(dim=1).values
    assert bool((nearest < 0.2).all())


def test_with_fewer_points_than_codes_the_rest_stays() -> None:
    codes, points = torch.randn(5, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = kmeans(points, codes)
    torch.testing.assert_close(found[:2], points)
    assert torch.equal(found[2:], codes[2:])
    assert torch.equal(kmeans(points[:0], codes), codes)
