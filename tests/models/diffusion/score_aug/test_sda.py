"""Shifted data augmentation: times, who is augmented, and how."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.diffusion.score_aug.sda import SdaSettings, draw_sda, shifted
from models.diffusion.score_aug.transforms import apply
from models.diffusion.strategies.times import logit_normal_times
from models.draws import draw_normal, draw_uniform
from settings.schema import SettingsError

COUNT = 20_000
SEEDS = torch.arange(COUNT)
SIDES = {2: (8, 8), 3: (4, 8, 8)}


def near(share: torch.Tensor, probability: float) -> bool:
    error = math.sqrt(probability * (1.0 - probability) / COUNT)
    return abs(float(share.float().mean()) - probability) <= 3.0 * error


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_times_are_shifted_and_reflected(shift):
    t = torch.tensor([0.0, 0.25, 0.5, 0.9, 0.95, 1.0])
    expected = [s if (s := v + shift) <= 1.0 else 2.0 - s for v in t.double().tolist()]
    torch.testing.assert_close(shifted(t, SdaSettings(shift=shift)).tolist(), expected)


@pytest.mark.parametrize("shift", [0.05, 0.1, 0.5])
def test_no_times_gather_at_the_top(shift):
    """001-M7: cut at 1, a share `shift` of uniform times would be at 1."""
    t = draw_uniform(SEEDS, "t")
    moved = shifted(t, SdaSettings(shift=shift))
    assert float(moved.min()) >= min(shift, 1.0 - shift) and float(moved.max()) <= 1.0
    most = moved.double().unique(return_counts=True)[1].max()
    assert int(most) <= 3  # t itself has equal ones
    assert near(moved > 1.0 - shift / 2, shift)  # twice as often, once from either side


def test_the_documents_times_are_nearly_all_one_thousandth():
    settings = SdaSettings(form="document", shift=0.1)
    steps = np.array([0.0, 0.3, 0.9, 1.0, 2.0, 500.0, 1000.0])  # the document's own times
    expected = np.clip(steps + 0.1, 0.0, 1.0) / 1000.0
    moved = shifted(torch.from_numpy(steps / 1000.0), settings)
    np.testing.assert_allclose(moved.numpy(), expected, rtol=1e-6)
    drawn = shifted(logit_normal_times(SEEDS, 0.0, 1.0).float(), settings)
    assert drawn.unique().tolist() == pytest.approx([0.001])


@pytest.mark.parametrize("dims", [2, 3])
def test_who_is_augmented_and_how_often_by_what(dims):
    t = draw_uniform(SEEDS, "t")
    settings = SdaSettings(probability=0.3)
    draw = draw_sda(settings, SEEDS, t, SIDES[dims])
    assert near(draw.is_used, 0.3)
    assert torch.equal(draw.plan.is_identity, ~draw.is_used)
    assert torch.equal(draw.t[~draw.is_used], t[~draw.is_used])
    assert torch.equal(draw.t[draw.is_used], shifted(t, settings)[draw.is_used])
    options = [(1, 0), (2, 0), (3, 0), *((0, axis) for axis in range(1, dims + 1))]
    for turns, flip in options:  # turns with a flip are not in the document's list
        is_one = (draw.plan.turns == turns) & (draw.plan.flip == flip)
        assert near(is_one, 0.3 / len(options))
    few = draw_sda(SdaSettings(flip=False), SEEDS, t, SIDES[dims])
    assert not few.plan.flip.any() and near(few.plan.turns == 2, 0.5 / 3)


def test_image_noise_and_mask_are_turned_alike():
    seeds = SEEDS[:40]
    draw = draw_sda(SdaSettings(), seeds, torch.rand(40), SIDES[2])
    image, noise = (draw_normal(seeds, name, (1, *SIDES[2])) for name in ("image", "noise"))
    mask = (image > 1.0).float()
    for sample, (turns, flip) in enumerate(
        zip(draw.plan.turns.tolist(), draw.plan.flip.tolist(), strict=True)
    ):
        for x in (image, noise, mask):
            expected = np.rot90(x[sample].numpy(), turns, axes=(1, 2))
            expected = np.flip(expected, -flip) if flip else expected
            assert np.array_equal(apply(draw.plan, x)[sample].numpy(), expected)
    assert SdaSettings().moves_conditions
    assert not SdaSettings(form="document").moves_conditions


def test_a_sample_is_augmented_alike_in_every_batch_or_all_of_an_update_are():
    t = torch.full((64,), 0.4)
    whole = draw_sda(SdaSettings(), SEEDS[:64], t, SIDES[2])
    part = draw_sda(SdaSettings(), SEEDS[[40, 3, 9]], t[:3], SIDES[2])
    assert torch.equal(part.plan.turns, whole.plan.turns[[40, 3, 9]])
    assert torch.equal(part.t, whole.t[[40, 3, 9]])
    seen = set()
    for seed in range(40):
        one = draw_sda(SdaSettings(per="batch"), SEEDS[seed : seed + 5], t[:5], SIDES[2])
        rows = torch.stack([one.plan.turns, one.plan.flip, one.is_used.long()], dim=1)
        assert len(rows.unique(dim=0)) == 1
        seen.add(tuple(rows[0].tolist()))
    assert len(seen) == 6  # five of them, and none


def test_refusals_say_what_to_do():
    with pytest.raises(SettingsError, match="neither turns nor flips"):
        SdaSettings(rotation=False, flip=False)
    message = r"H = W, not 8 x 12\. Set loss\.sda\.rotation=false"
    with pytest.raises(SettingsError, match=message):
        SdaSettings().check_sides((8, 12))
    SdaSettings(rotation=False).check_sides((8, 12))
