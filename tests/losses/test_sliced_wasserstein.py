"""The sliced Wasserstein distance of patches, against SciPy, POT and laws of Gaussian fields."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linprog
from torch.autograd import gradcheck

from benchmarks.measuring import gaussian_fields
from losses.patches import drawn, patches, taken, without_means
from losses.sliced_wasserstein import coupling, sliced_wasserstein, unit, wasserstein


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numpy_patches(x, size, padding):
    """[B, D, n] by loops over places."""
    reach = size // 2
    if padding != "none":
        mode = {"reflect": "reflect", "zero": "constant"}[padding]
        x = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode=mode)
    rows, columns = (side - size + 1 for side in x.shape[2:])
    found = [
        x[:, :, r : r + size, c : c + size].reshape(len(x), -1)
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(found, axis=-1)


@pytest.mark.parametrize("padding", ["none", "reflect", "zero"])
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_patches_are_those_of_a_loop_over_places(size, padding):
    x = normal(2, 3, 8, 9)
    np.testing.assert_array_equal(patches(x, size, padding), numpy_patches(x, size, padding))


@pytest.mark.parametrize(("padding", "side", "needs"), [("none", 6, 7), ("reflect", 3, 4)])
def test_latents_smaller_than_patches_are_refused(padding, side, needs):
    with pytest.raises(ValueError, match=f"need latents of {needs} and more a side, not {side}"):
        patches(torch.zeros(1, 1, side, side), 7, padding)
    assert patches(torch.zeros(1, 1, needs, needs), 7, padding).shape[1] == 49


def test_directions_without_means_take_the_mean_of_each_channel_from_the_patches():
    x, directions = normal(5, 3 * 9), normal(4, 3 * 9, seed=1)
    by_channel = x.view(5, 3, 9)
    free = (by_channel - by_channel.mean(dim=2, keepdim=True)).view(5, 27)
    torch.testing.assert_close(x @ without_means(directions, 3).T, free @ directions.T)


def test_draws_are_without_replacement_and_uniform():
    keys = torch.rand(4000, 6, generator=torch.Generator().manual_seed(0))
    places = drawn(keys, 2)
    assert (places[:, 0] != places[:, 1]).all()
    shares = torch.bincount(places.flatten(), minlength=6) / 8000
    assert (shares - 1 / 6).abs().max() < 4 * (1 / 6 * 5 / 6 / 8000) ** 0.5
    columns = normal(4, 3, 6)
    got = taken(columns, places[:4])
    np.testing.assert_array_equal(got[2], columns[2][:, places[2]])


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 4), (3, 9), (9, 3), (4, 6), (5, 7)])
def test_transport_of_numbers_is_the_best_of_a_linear_programme(n, m):
    x, y = normal(n), normal(m, seed=1) + 0.3
    cost = (x[:, None] - y[None]).square().numpy()
    rows = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    best = linprog(cost.ravel(), A_eq=np.vstack(rows), b_eq=masses, method="highs").fun
    assert float(wasserstein(x, y)) == pytest.approx(best, rel=1e-9)
    assert len(coupling(n, m)[2]) == n + m - np.gcd(n, m)


def test_it_is_the_square_of_pots_distance_with_the_same_directions():
    x, y = normal(2, 12, 40), 1.5 * normal(2, 12, 56, seed=1)
    directions = unit(normal(20, 12, seed=2))
    expected = [
        ot.sliced_wasserstein_distance(
            a.T.numpy(), b.T.numpy(), projections=directions.T.numpy(), p=2
        )
        ** 2
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(sliced_wasserstein(x, y, directions), expected, rtol=1e-10)


@pytest.mark.parametrize("own", [False, True])
def test_parts_of_the_directions_give_the_value_and_gradient_of_all(own):
    directions = unit(normal(*([2] if own else []), 7, 5))
    y = normal(2, 5, 8, seed=2)
    results = []
    for at_once in (1, 70, 1 << 24):
        x = normal(2, 5, 8, seed=1).requires_grad_()
        value = sliced_wasserstein(x, y, directions, at_once)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), x)))
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("m", [6, 4, 9, 12])
def test_gradients(m):
    directions = unit(normal(3, 4))
    x, y = normal(2, 4, 6).requires_grad_(), normal(2, 4, m, seed=1).requires_grad_()
    assert gradcheck(lambda a, b: sliced_wasserstein(a, b, directions), (x, y))
    assert gradcheck(lambda a, b: sliced_wasserstein(a, b, directions, 1), (x, y))


def test_equal_sets_have_distance_and_gradient_0():
    x = normal(1, 4, 6).requires_grad_()
    value = sliced_wasserstein(x, x.detach().flip(-1), unit(normal(3, 4)))
    value.sum().backward()
    assert float(value.detach()) == 0.0
    assert not x.grad.any()


# Gaussian fields


def test_patches_of_fields_have_the_law_that_is_claimed():
    law = gaussian_fields.two_styles()[1]
    fields = law.draw(400, 12, np.random.default_rng(0))
    columns = np.moveaxis(patches(torch.from_numpy(fields), 3).numpy(), 1, 0).reshape(36, -1)
    covariance = law.patch_covariance(3, 12)
    assert np.abs(np.cov(columns) - covariance).max() < 0.05 * np.abs(covariance).max()
    assert np.abs(columns.mean(axis=1) - law.patch_mean(3)).max() < 0.05


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("means", ["different", "equal"])
def test_the_distance_of_two_fields_is_that_of_their_laws(size, means):
    one, other = gaussian_fields.two_styles()
    if means == "equal":
        other = gaussian_fields.Law(other.covariance, other.slope, one.mean)
    generator = np.random.default_rng(0)
    x, y = (
        torch.from_numpy(law.draw_patches(1 << 16, size, 16, generator)) for law in (one, other)
    )
    directions = unit(normal(16, 4 * size**2))
    expected = gaussian_fields.sliced_wasserstein(one, other, size, 16, directions.numpy())
    found = sliced_wasserstein(x[None], y[None], directions)
    assert float(found) == pytest.approx(expected, rel=0.02)


def test_parts_hold_no_more_for_the_gradient_than_the_vectors():
    """Numbers that the graph keeps, of 256 directions at once and by parts."""
    x, directions = normal(1, 4, 500).requires_grad_(), unit(normal(256, 4))
    kept = {}
    for at_once in (1 << 24, 4000):
        sizes = {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = sliced_wasserstein(x, normal(1, 4, 500, seed=1), directions, at_once)
        kept[at_once] = sum(sizes.values())
        value.sum().backward()
    assert kept[4000] < 0.1 * kept[1 << 24]
