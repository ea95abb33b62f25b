"""One plan, the same transformation of every tensor: against NumPy, and what it does to noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.diffusion.score_aug.draws import draw_plan
from models.diffusion.score_aug.settings import ScoreAugSettings
from models.diffusion.score_aug.transforms import (
    Plan,
    apply,
    by_modality,
    symmetries,
    unchanged,
)
from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.settings import StrategySettings
from models.draws import draw_normal
from settings.flat import replace

SIDES = {2: (12, 12), 3: (5, 12, 12)}
EVERYTHING = replace(
    ScoreAugSettings(),
    {
        "enabled": True,
        "kind": "v2",
        "translation.enabled": True,
        "translation.depth": 0.4,
        "brightness.enabled": True,
    },
)


def images(count: int, dims: int, channels: int = 2) -> torch.Tensor:
    return draw_normal(torch.arange(count), "images", (channels, *SIDES[dims]))


def planned(dims: int, **changes: object) -> Plan:
    """Of one sample."""
    zero = torch.zeros(1, dtype=torch.int64)
    return Plan(**{"dimensions": dims, "turns": zero, "flip": zero, **changes})


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("flip", [0, 1, 2, 3])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turns_and_flips_are_numpys(dims, turns, flip):
    if flip > dims:
        flip = 0
    x = images(1, dims)
    plan = planned(dims, turns=torch.tensor([turns]), flip=torch.tensor([flip]))
    expected = np.rot90(x.numpy(), turns, axes=(-2, -1))
    expected = np.flip(expected, -flip) if flip else expected
    assert np.array_equal(apply(plan, x).numpy(), expected)


def test_the_symmetries_are_all_of_a_square():
    square = np.arange(9).reshape(3, 3)
    table = symmetries(True, True, 2)
    seen = [
        np.flip(np.rot90(square, turns), -flip) if flip else np.rot90(square, turns)
        for turns, flip in table
    ]
    assert len(table) == 7
    assert len({image.tobytes() for image in map(np.ascontiguousarray, [square, *seen])}) == 8
    assert symmetries(True, False, 2) == ((1, 0), (2, 0), (3, 0))
    assert symmetries(False, True, 3) == ((0, 1), (0, 2), (0, 3))
    assert len(symmetries(True, True, 3, combined=False)) == 6


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.25), (0.4, -0.25, 0.0), (-0.2, 0.5, -0.5)])
def test_a_shift_is_a_roll_with_zeros(dims, shift):
    shift = shift[-dims:]
    x = images(1, dims)
    expected = x.numpy().copy()
    for axis, (share, side) in enumerate(zip(shift, SIDES[dims], strict=True), 2):
        cells = round(share * side)
        expected = np.roll(expected, cells, axis)
        rows = np.moveaxis(expected, axis, 0)
        if cells > 0:
            rows[:cells] = 0.0
        elif cells < 0:
            rows[cells:] = 0.0
    plan = planned(dims, shift=torch.tensor([shift]))
    assert np.array_equal(apply(plan, x).numpy(), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_box_is_cut_out_and_no_more(dims):
    x = images(1, dims)
    box = torch.tensor([[[0.2, 0.4], [0.5, 0.25], [0.75, 0.25]][-dims:]])
    expected = x.clone()
    if dims == 2:
        expected[:, :, 6:9, 9:12] = 0.0
    else:
        expected[:, :, 1:3, 6:9, 9:12] = 0.0
    assert torch.equal(apply(planned(dims, box=box), x), expected)
    least = torch.tensor([[[0.99, 0.01]] * dims])
    last = apply(planned(dims, box=least), x)
    assert int((last == 0.0).sum()) == x.shape[1]  # a single place, and inside


def test_the_order_is_turn_flip_shift_box_factor():
    x = images(1, 2)
    plan = planned(
        2,
        turns=torch.tensor([1]),
        flip=torch.tensor([1]),
        shift=torch.tensor([[0.25, -0.5]]),
        box=torch.tensor([[[0.25, 0.5], [0.0, 0.25]]]),
        factor=torch.tensor([1.1]),
    )
    expected = np.flip(np.rot90(x.numpy(), 1, axes=(2, 3)), 3)
    expected = np.pad(expected, ((0, 0), (0, 0), (3, 0), (0, 6)))[:, :, :12, 6:].copy()
    expected[:, :, 3:9, 0:3] = 0.0
    assert np.array_equal(apply(plan, x).numpy(), expected)
    np.testing.assert_allclose(apply(plan, x, intensity=True).numpy(), 1.1 * expected, rtol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_image_target_and_mask_are_moved_alike(dims):
    """The mask of an image stays the mask of the image, and no brightness touches it."""
    x = images(60, dims)
    plan = draw_plan(EVERYTHING, torch.arange(60), SIDES[dims])
    positive = (x > 0.0).float()
    assert bool(plan.is_scaled.any())
    moved = apply(plan, x, intensity=True)
    assert torch.equal((moved > 0.0).float(), apply(plan, positive))
    assert torch.equal(apply(plan, positive > 0.0), apply(plan, positive) > 0.0)  # bools as well
    for channel in range(2):
        one = apply(plan, x[:, channel : channel + 1])
        assert torch.equal(one, apply(plan, x)[:, channel : channel + 1])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["rflow", "ddpm"])
def test_what_is_to_be_predicted_of_a_transformed_image_is_the_transformed_target(dims, kind):
    strategy = make_strategy(StrategySettings(kind=kind), SIDES[dims])
    seeds = torch.arange(40)
    plan = draw_plan(EVERYTHING, seeds, SIDES[dims])
    clean, noise = images(40, dims), draw_normal(seeds, "noise", (2, *SIDES[dims]))
    t = strategy.draw_times(seeds)
    both = [apply(plan, part, intensity=True) for part in (clean, noise)]
    for made in (strategy.noised, strategy.target):
        torch.testing.assert_close(
            made(*both, t), apply(plan, made(clean, noise, t), intensity=True)
        )


@pytest.mark.parametrize("dims", [2, 3])
def test_turns_and_flips_alone_leave_the_law_of_the_noise(dims):
    count = 1500
    seeds = torch.arange(count)
    noise = draw_normal(seeds, "noise", (1, *SIDES[dims]))
    spatial = draw_plan(ScoreAugSettings(enabled=True), seeds, SIDES[dims])
    turned = apply(spatial, noise)
    assert torch.equal(turned.flatten(1).sort().values, noise.flatten(1).sort().values)
    error = 1.0 / count**0.5
    assert float(turned.mean(dim=0).abs().max()) < 5.0 * error
    assert float((turned.square().mean(dim=0) - 1.0).abs().max()) < 6.0 * 2.0**0.5 * error
    neighbours = (turned[..., 1:] * turned[..., :-1]).mean()
    assert abs(float(neighbours)) < 5.0 / turned[..., 1:].numel() ** 0.5
    others = {"flip": False, "rotation": False}
    shifts = {"translation.enabled": True, "cutout.enabled": True, "kind": "compose"}
    moved = draw_plan(
        replace(ScoreAugSettings(), {**others, **shifts, "enabled": True}), seeds, SIDES[dims]
    )
    assert float(apply(moved, noise).square().mean()) < 0.95  # zeros without noise
    bright = {**others, "brightness.enabled": True, "enabled": True, "kind": "compose"}
    scaled = draw_plan(replace(ScoreAugSettings(), bright), seeds, SIDES[dims])
    variance = apply(scaled, noise, intensity=True).square().flatten(1).mean(dim=1)
    own = noise.square().flatten(1).mean(dim=1)
    torch.testing.assert_close(variance / own, scaled.factor.square())
    assert torch.equal(apply(scaled, noise), noise)


def test_nothing_is_done_by_the_plan_of_validation():
    x = images(3, 3)
    plan = unchanged(3, 3)
    assert torch.equal(apply(plan, x, intensity=True), x)
    assert bool(plan.is_identity.all())


def test_a_gradient_goes_back_to_where_a_value_came_from():
    x = images(30, 2).requires_grad_()
    plan = draw_plan(EVERYTHING, torch.arange(30), SIDES[2])
    weights = images(30, 2).flip(0)
    (apply(plan, x, intensity=True) * weights).sum().backward()
    # the transposed matrix of T, by T of every unit image
    sample = int(plan.is_shifted.nonzero()[0])
    one = Plan(
        **{
            name: value[sample : sample + 1].expand(144, *value.shape[1:])
            for name in ("turns", "flip", "shift", "box", "pattern", "factor")
            if (value := getattr(plan, name)) is not None
        },
        dimensions=2,
    )
    units = torch.eye(144).view(144, 1, 12, 12)
    matrix = apply(one, units, intensity=True).flatten(1)
    expected = torch.einsum("in,cn->ci", matrix, weights[sample].flatten(1))
    torch.testing.assert_close(x.grad[sample].flatten(1), expected)


def test_a_modality_has_a_factor_of_its_own_and_a_mask_none():
    x = images(5, 3)
    factors = by_modality(x, torch.tensor([0, 1, 2, 3, 4])) / x
    expected = torch.tensor([0.85, 1.15, 0.92, 1.08, 1.0])
    torch.testing.assert_close(factors, expected.view(5, 1, 1, 1, 1).expand_as(x))


def test_other_tensors_are_refused():
    plan = draw_plan(ScoreAugSettings(enabled=True), torch.arange(4), (12, 12))
    for x in (images(3, 2), images(4, 3)):
        with pytest.raises(ValueError, match="plan is for 4 samples with 2 axes"):
            apply(plan, x)
    with pytest.raises(ValueError, match="H = W"):
        apply(plan, torch.zeros(4, 1, 12, 16))
