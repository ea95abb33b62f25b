"""What is drawn: how often, by which seeds, within which ranges."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from models.diffusion.score_aug.draws import draw_plan
from models.diffusion.score_aug.settings import ScoreAugSettings
from settings.flat import replace

COUNT = 20_000
SEEDS = torch.arange(COUNT)
ALL = {
    "enabled": True,
    "translation.enabled": True,
    "cutout.enabled": True,
    "brightness.enabled": True,
}


def settings(**changes: object) -> ScoreAugSettings:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(ScoreAugSettings(), {**ALL, **named})


def near(share: torch.Tensor, probability: float, count: int = COUNT) -> bool:
    """Within three standard errors."""
    error = math.sqrt(probability * (1.0 - probability) / count)
    return abs(float(share.float().mean()) - probability) <= 3.0 * error


@pytest.mark.parametrize("sides", [(16, 16), (6, 16, 16)])
def test_single_is_one_of_what_is_on_or_nothing(sides):
    plan = draw_plan(settings(), SEEDS, sides)
    kinds = torch.stack(
        [plan.is_identity, plan.is_spatial, plan.is_shifted, plan.is_cut, plan.is_scaled]
    )
    assert torch.equal(kinds.sum(dim=0), torch.ones(COUNT, dtype=torch.int64))
    assert all(near(kind, 0.2) for kind in kinds)
    assert plan.pattern is None
    symmetries = 7 if len(sides) == 2 else 8
    for turns, flip in {(1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (1, 1), (3, 1)}:
        assert near((plan.turns == turns) & (plan.flip == flip), 0.2 / symmetries)
    few = draw_plan(settings(flip=False, cutout__enabled=False), SEEDS, sides)
    assert near(few.is_identity, 0.25) and few.box is None
    assert not few.flip.any()


def test_compose_draws_each_by_itself():
    plan = draw_plan(settings(kind="compose", compose_probability=0.3), SEEDS, (16, 16))
    parts = [plan.is_spatial, plan.is_shifted, plan.is_cut, plan.is_scaled]
    assert all(near(part, 0.3) for part in parts)
    assert near(plan.is_identity, 0.7**4)
    assert near(parts[0] & parts[1], 0.09) and near(parts[2] & parts[3], 0.09)
    assert near(parts[0] & parts[2], 0.09) and near(parts[1] & parts[3], 0.09)


def test_v2_destroys_by_one_thing_at_most():
    changes = {"v2__nondestructive": 0.4, "v2__destructive": 0.6, "v2__cutout_share": 0.25}
    plan = draw_plan(settings(kind="v2", cutout__enabled=False, **changes), SEEDS, (16, 16))
    for part in (plan.is_spatial, plan.is_shifted, plan.is_scaled):
        assert near(part, 0.4)
    assert near(plan.is_cut, 0.15) and near(plan.has_pattern, 0.45)
    assert not (plan.is_cut & plan.has_pattern).any()
    assert near(plan.is_spatial & plan.is_cut, 0.06)
    for pattern in range(16):
        assert near(plan.pattern == pattern, 0.45 / 16)
    families = {"v2__patterns__checkerboard": False, "v2__patterns__coarse": False}
    few = draw_plan(settings(kind="v2", **families), SEEDS[:2000], (16, 16))
    assert set(few.pattern.tolist()) == {-1, 4, 5, 6, 7, 12, 13, 14, 15}


def test_shifts_boxes_and_factors_stay_in_their_ranges():
    plan = draw_plan(settings(kind="compose"), SEEDS, (6, 16, 16))
    shift, box = plan.shift[plan.is_shifted], plan.box[plan.is_cut]
    assert not shift[:, 0].any()  # the document's volumes are shifted in their slices alone
    for axis, limit in ((1, 0.2), (2, 0.4)):
        assert 0.99 * limit < float(shift[:, axis].abs().max()) <= limit
        assert abs(float(shift[:, axis].mean())) < 3.0 * limit / math.sqrt(3.0 * len(shift))
    lengths = box[..., 1]
    assert 0.1 <= float(lengths.min()) < 0.101 and 0.299 < float(lengths.max()) <= 0.3
    assert float(box[..., 0].min()) >= 0.0 and float(box.sum(dim=2).max()) <= 1.0
    assert abs(float(torch.corrcoef(lengths.T)[0, 1])) < 3.0 / math.sqrt(len(box))  # no cubes
    logs = plan.factor[plan.is_scaled].log() / math.log(1.2)
    assert 0.99 < float(logs.abs().max()) <= 1.0 + 1e-6
    assert abs(float(logs.mean())) < 3.0 / math.sqrt(3.0 * len(logs))
    deep = draw_plan(settings(translation__depth=0.3), SEEDS, (6, 16, 16)).shift[:, 0]
    assert 0.29 < float(deep.abs().max()) <= 0.3


def rows(plan: object) -> list[torch.Tensor]:
    values = (getattr(plan, field.name) for field in dataclasses.fields(plan))
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("kind", ["single", "compose", "v2"])
def test_a_sample_is_transformed_alike_in_every_batch(kind):
    chosen = settings(kind=kind)
    whole = draw_plan(chosen, SEEDS[:64], (16, 16))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))[:20]
    part = draw_plan(chosen, SEEDS[order], (16, 16))
    assert len(rows(whole)) >= 5
    for one, all_of_it in zip(rows(part), rows(whole), strict=True):
        assert torch.equal(one, all_of_it[order])


@pytest.mark.parametrize("kind", ["single", "compose", "v2"])
def test_per_batch_is_one_draw_for_all(kind):
    chosen = settings(kind=kind, per="batch")
    firsts = []
    for start in range(0, 200, 10):
        plan = draw_plan(chosen, SEEDS[start : start + 10], (16, 16))
        for values in rows(plan):
            assert torch.equal(values, values[:1].expand_as(values))
        alone = draw_plan(settings(kind=kind), SEEDS[start : start + 1], (16, 16))
        assert torch.equal(alone.turns, plan.turns[:1])
        firsts.append((int(plan.turns[0]), int(plan.flip[0]), bool(plan.is_cut[0])))
    assert len(set(firsts)) > 4
