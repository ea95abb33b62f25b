"""Principal components against a plain singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.fields.components import Components

COUNT, LENGTH, NODES = 30, 6, 10


def fields(count=COUNT, length=LENGTH, nodes=NODES, rank=None):
    rng = np.random.default_rng(0)
    if rank is None:
        values = rng.normal(size=(count, nodes, length)) + 2.0
    else:
        values = np.einsum(
            "bi,int->bnt", rng.normal(size=(count, rank)), rng.normal(size=(rank, nodes, length))
        )
    return torch.tensor(values, dtype=torch.float32)


def fitted(known, count):
    components = Components(count, known.shape[2], known.shape[1])
    components.fit(lambda: iter(known.split(7)))
    return components


@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_reconstruction_is_the_truncated_decomposition(count):
    known = fields()
    components = fitted(known, count)
    flat = known.double().flatten(1).numpy()
    mean = flat.mean(axis=0)
    u, s, v = np.linalg.svd(flat - mean, full_matrices=False)
    expected = (u[:, :count] * s[:count]) @ v[:count] + mean
    found = components.decode(components.encode(known)).flatten(1)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_coordinates_are_white_and_ordered():
    known = fields()
    components = fitted(known, 8)
    coordinates = components.encode(known).double()
    torch.testing.assert_close(coordinates.mean(dim=0), torch.zeros(8).double(), atol=1e-4, rtol=0)
    covariance = coordinates.T @ coordinates / COUNT
    torch.testing.assert_close(covariance, torch.eye(8).double(), atol=1e-3, rtol=0)
    assert (components.deviation.diff() <= 0).all()


def test_more_components_than_there_are_stay_at_zero():
    components = fitted(fields(rank=3), 8)
    assert (components.basis[3:] == 0).all()
    assert (components.basis[:3].norm(dim=1) > 0.9).all()
    torch.testing.assert_close(
        components.decode(components.encode(fields(rank=3))), fields(rank=3), atol=1e-4, rtol=0
    )
    assert (components.encode(fields(rank=3))[:, 3:] == 0).all()


@pytest.mark.slow
def test_a_large_mesh_is_decomposed_at_random_but_repeatably():
    """Beyond the exact size; the fields lie in 5 patterns, which 256 span."""
    known = fields(count=172, length=6, nodes=1030, rank=5)
    torch.manual_seed(1)
    one = fitted(known, 5)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    two = fitted(known, 5)
    assert torch.equal(one.basis, two.basis)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    torch.testing.assert_close(one.decode(one.encode(known)), known, atol=1e-3, rtol=1e-3)


def test_nothing_is_trained_and_all_is_stored():
    components = fitted(fields(), 4)
    assert not list(components.parameters())
    again = Components(4, LENGTH, NODES)
    again.load_state_dict(components.state_dict())
    assert torch.equal(again.encode(fields()), components.encode(fields()))
