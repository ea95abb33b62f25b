"""The code of a transformation, and the embedding that begins as nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from models.diffusion.interface import conditioned
from models.diffusion.score_aug.draws import draw_plan
from models.diffusion.score_aug.omega import WIDTH, OmegaEmbedding, omega_code
from models.diffusion.score_aug.settings import ScoreAugSettings
from models.diffusion.score_aug.transforms import Plan, symmetries, unchanged
from settings.flat import replace


def every_transformation(dims: int) -> Plan:
    """One sample each: nothing, all symmetries, shifts, a box, factors, all patterns, and each
    symmetry with a shift and a pattern.
    """
    table = symmetries(True, True, dims)
    shifts = torch.eye(dims).mul(0.25).tolist() + torch.eye(dims).mul(-0.25).tolist()
    none = {"spatial": (0, 0), "shift": [0.0] * dims, "box": 0.0, "pattern": -1, "factor": 1.0}
    samples = [none]
    samples += [{**none, "spatial": pair} for pair in table]
    samples += [{**none, "shift": shift} for shift in shifts]
    samples += [{**none, "box": 0.25}]
    samples += [{**none, "pattern": pattern} for pattern in range(16)]
    samples += [{**none, "factor": factor} for factor in (0.9, 1.1)]
    samples += [{**none, "spatial": pair, "shift": shifts[0], "pattern": 3} for pair in table]

    def column(name: str) -> torch.Tensor:
        return torch.tensor([sample[name] for sample in samples])

    turns, flip = column("spatial").unbind(dim=1)
    box = column("box")[:, None, None].expand(-1, dims, 2)
    rest = {name: column(name) for name in ("shift", "pattern", "factor")}
    return Plan(dimensions=dims, turns=turns, flip=flip, box=box, **rest)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("identity", ["own_bit", "shared_bit"])
def test_every_transformation_has_a_code_of_its_own(dims, identity):
    plan = every_transformation(dims)
    code = omega_code(plan, identity)
    assert code.shape == (len(plan), 36) and code.dtype == torch.float32
    assert len(code.unique(dim=0)) == len(plan)


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_shares_no_number_with_a_transformation(dims):
    """001-M9: in the document's form it shares one with every turn and flip."""
    plan = every_transformation(dims)
    assert plan.is_identity.tolist() == [True] + [False] * (len(plan) - 1)
    own = omega_code(plan)
    assert not (own[0] * own[1:]).any()
    shared = omega_code(plan, "shared_bit")
    assert torch.equal((shared[0] * shared[1:]).any(dim=1), plan.is_spatial[1:])
    assert torch.equal(own[1:], shared[1:])  # of all else the two say the same


def ones(code: torch.Tensor) -> dict[int, float]:
    return {int(place): round(float(code[place]), 4) for place in code.nonzero().flatten()}


def test_the_places_are_the_documents():
    table = torch.tensor([(0, 0), (1, 0), (3, 0), (0, 1), (0, 2), (3, 1), (0, 3)])
    code = omega_code(Plan(dimensions=3, turns=table[:, 0], flip=table[:, 1]))
    assert [ones(row) for row in code] == [
        {14: 1.0},
        {0: 1.0, 4: 1.0, 10: 0.3333},
        {0: 1.0, 4: 1.0, 10: 1.0},
        {0: 1.0, 5: 1.0},
        {0: 1.0, 6: 1.0},
        {0: 1.0, 7: 1.0, 10: 1.0},
        {0: 1.0, 8: 1.0},
    ]
    zero = torch.zeros(4, dtype=torch.int64)
    plan = Plan(
        dimensions=2,
        turns=zero,
        flip=zero,
        shift=torch.tensor([[0.1, -0.3], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]),
        box=torch.tensor([[[0.0, 0.0]] * 2, [[0.5, 0.2]] * 2, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2]),
        pattern=torch.tensor([-1, -1, 13, -1]),
        factor=torch.tensor([1.0, 1.0, 1.0, 1.2]),
    )
    assert [ones(row) for row in omega_code(plan, modes=torch.tensor([0, 3, 1, 4]))] == [
        {1: 1.0, 11: -0.3, 12: 0.1, 32: 1.0},
        {2: 1.0, 35: 1.0},
        {3: 1.0, 29: 1.0, 33: 1.0},
        {15: 0.1823},
    ]
    assert ones(omega_code(unchanged(1, 2), "shared_bit")[0]) == {0: 1.0}
    with pytest.raises(ValueError, match="own_bit, shared_bit"):
        omega_code(plan, "none")


def test_a_sample_has_the_code_of_its_own_draw():
    settings = replace(ScoreAugSettings(), {"enabled": True, "translation.enabled": True})
    seeds = torch.arange(50)
    code = omega_code(draw_plan(settings, seeds, (16, 16)))
    assert len(code.unique(dim=0)) > 10
    for sample in (0, 7, 33):
        alone = omega_code(draw_plan(settings, seeds[sample : sample + 1], (16, 16)))
        assert torch.equal(alone[0], code[sample])
    batch = dataclasses.replace(settings, per="batch")
    assert len(omega_code(draw_plan(batch, seeds, (16, 16))).unique(dim=0)) == 1


def test_the_embedding_begins_as_nothing_and_learns_the_transformation():
    torch.manual_seed(0)
    embedding = OmegaEmbedding(32)
    code = omega_code(every_transformation(2))
    time = torch.randn(len(code), 32)
    output = embedding(code)
    assert output.shape == (len(code), 32)
    assert torch.equal(conditioned(time, output), time)
    # what is to be told apart, the number of quarter turns, is learned through the zeros
    turns = every_transformation(2).turns.float()
    parameters = list(embedding.parameters())
    for _ in range(300):
        loss = (embedding(code)[:, 0] - turns).square().mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.3 * gradient
    assert loss.item() < 0.02 * float(turns.square().mean())
    assert WIDTH == embedding.layers[0].in_features == 36
