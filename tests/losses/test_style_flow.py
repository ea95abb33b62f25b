"""The term swd of style_flow against sums over samples and patches in NumPy, and what its batches
are.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from losses.style.flow import TERMS, terms
from losses.style.terms import LossSettings
from losses.terms import TermSettings
from models.draws import draw_normal, draw_uniform
from settings.flat import leaves
from settings.schema import child_nodes, own_leaves
from trainables.contract import sets
from trainables.contract import terms as rules
from trainables.contract.cases import TermCase

B, R, C, S = 4, 3, 3, 6

# The patches: written by hand


def columns(latents, size):
    """All patches of [L, C, H, W], one row each."""
    side = latents.shape[-1] - size + 1
    rows = [
        latent[:, r : r + size, c : c + size].ravel()
        for latent in latents.double().numpy()
        for r in range(side)
        for c in range(side)
    ]
    return np.array(rows)


def directions_of(seed, size, count=64):
    normals = draw_normal(torch.tensor([seed]), f"swd.directions_{size}", (count, C * size**2))
    normals = normals[0].double().numpy()
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def squared_distance(x, y, directions):
    """The mean over directions of the integral over levels of the square between the inverse
    distribution functions, at the middles of n m levels, between which both are constant.
    """
    levels = (np.arange(len(x) * len(y)) + 0.5) / (len(x) * len(y))
    costs = []
    for d in directions:
        sides = (np.sort(s @ d) for s in (x, y))
        inverse = [s[np.minimum((levels * len(s)).astype(int), len(s) - 1)] for s in sides]
        costs.append(np.mean((inverse[0] - inverse[1]) ** 2))
    return np.mean(costs)


@pytest.mark.parametrize("sizes", [(1,), (3,), (5,), (1, 3)])
@pytest.mark.parametrize("directions", ["fixed", "update", "sample"])
def test_swd_by_sample(flow, sizes, directions):
    prediction, batch = flow.given()
    patch = {f"swd__patch_{size}": size in sizes for size in (1, 3, 5, 7)}
    found = flow.value("swd", prediction, batch, swd__directions=directions, **patch)
    seeds = {"fixed": [0] * B, "update": [99] * B, "sample": [11, 7, 5, 3]}[directions]
    expected = [
        squared_distance(
            columns(prediction["x1"][i : i + 1], size),
            columns(batch["references"][i], size),
            directions_of(seeds[i], size),
        )
        for i in range(B)
        for size in sizes
    ]
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


def test_swd_by_style_is_of_all_samples_of_a_target_style_weighed_by_their_number(flow):
    prediction, batch = flow.given()
    found = flow.value("swd", prediction, batch, swd__group="style")
    by_style = [
        squared_distance(
            columns(prediction["x1"][places], 3),
            columns(batch["references"][places].flatten(0, 1), 3),
            directions_of(99, 3),
        )
        for places in ([0, 2], [1, 3])
    ]
    assert found == pytest.approx(np.mean(by_style), rel=1e-5)


def test_swd_pooled_is_of_all_samples(flow):
    prediction, batch = flow.given()
    found = flow.value("swd", prediction, batch, swd__group="pooled")
    x, y = columns(prediction["x1"], 3), columns(batch["references"].flatten(0, 1), 3)
    assert found == pytest.approx(squared_distance(x, y, directions_of(99, 3)), rel=1e-5)


def test_the_documents_swd(flow):
    """Zero padding, one reference, the same drawn places on both sides of all patches together,
    one set of directions, mean squared difference of sorted projections.
    """
    prediction, batch = flow.given()
    batch["references"] = batch["references"][:, :1]
    found = flow.value(
        "swd",
        prediction,
        batch,
        swd__group="pooled",
        swd__padding="zero",
        swd__draws="shared",
        swd__max_samples=50,
        swd__dropped="target",
    )
    keys = draw_uniform(batch["seed"], "swd.patches_3", (S * S,)).flatten()
    places = keys.argsort(descending=True)[:50].numpy()
    x, y = (
        columns(np_padded(latents), 3)[places]
        for latents in (prediction["x1"], batch["references"][:, 0])
    )
    x, y = (np.sort(side @ directions_of(99, 3).T, axis=0) for side in (x, y))
    assert found == pytest.approx(np.mean((x - y) ** 2), rel=1e-5)


def np_padded(latents):
    return torch.from_numpy(np.pad(latents.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1))))


def test_independent_draws_are_of_each_side(flow):
    """Equal latents on both sides: shared draws see no difference, draws of each side do."""
    prediction, batch = flow.given()
    batch["references"] = prediction["x1"][:, None]
    shared, independent = (
        flow.value("swd", prediction, batch, swd__max_samples=8, swd__draws=draws)
        for draws in ("shared", "independent")
    )
    assert shared < 1e-12
    assert independent > 0.01


def test_patches_lose_the_mean_of_each_channel(flow):
    prediction, batch = flow.given()
    found = flow.value("swd", prediction, batch, swd__mean_removed=True, swd__directions="fixed")

    def free(rows):
        by_channel = rows.reshape(-1, C, 9)
        return (by_channel - by_channel.mean(axis=2, keepdims=True)).reshape(len(rows), -1)

    expected = [
        squared_distance(
            free(columns(prediction["x1"][i : i + 1], 3)),
            free(columns(batch["references"][i], 3)),
            directions_of(0, 3),
        )
        for i in range(B)
    ]
    assert found == pytest.approx(np.mean(expected), rel=1e-5)
    shift = torch.tensor([3.0, -1.0, 2.0])[:, None, None]
    shifted = {**prediction, "x1": prediction["x1"] + shift}
    again = flow.value("swd", shifted, batch, swd__mean_removed=True, swd__directions="fixed")
    assert again == pytest.approx(found, rel=1e-4)


def test_sources_as_references_are_the_documents_bug(flow):
    """The distance is then 0 at the identity, whatever the target style (002-M1)."""
    prediction, batch = flow.given()
    identity = {**prediction, "x1": batch["latent"]}
    bug = {**batch, "references": batch["latent"][:, None]}
    assert flow.value("swd", identity, bug) == 0.0
    assert flow.value("swd", identity, batch) > 0.1


@pytest.mark.parametrize("group", ["sample", "style"])
def test_weights_of_styles(flow, group):
    prediction, batch = flow.given()
    by = {
        weights: flow.value("swd", prediction, batch, swd__group=group, swd__style_weights=weights)
        for weights in ((), (1.0, 0.0), (0.0, 1.0), (2.0, 10.0))
    }
    assert by[()] == pytest.approx(by[1.0, 0.0] + by[0.0, 1.0], rel=1e-5)
    assert by[2.0, 10.0] == pytest.approx(2 * by[1.0, 0.0] + 10 * by[0.0, 1.0], rel=1e-5)
    with pytest.raises(ValueError, match="1 do not reach style 1"):
        flow.value("swd", prediction, batch, swd__style_weights=(1.0,))


@pytest.mark.parametrize("group", ["sample", "style", "pooled"])
def test_a_dropped_style_pays_nothing_pooled_or_what_it_was_not_told(flow, group):
    prediction, batch = flow.given()
    prediction["dropped"] = torch.tensor([False, True, False, False])
    kept, gone = [0, 2, 3], [1]

    def total(prediction, batch, **changes):
        return len(batch["seed"]) * flow.value(
            "swd", prediction, batch, swd__group=group, **changes
        )

    told = total(flow.at(prediction, kept), flow.at(batch, kept))
    assert total(prediction, batch) == pytest.approx(told, rel=1e-5)
    pooled = {**flow.at(batch, gone), "references": batch["pooled_references"][gone]}
    alone = {**flow.at(prediction, gone), "dropped": torch.tensor([False])}
    both = told + total(alone, pooled)
    assert total(prediction, batch, swd__dropped="pooled") == pytest.approx(both, rel=1e-5)
    with pytest.raises(ValueError, match="'pooled_references', which it lacks"):
        lacking = {k: v for k, v in batch.items() if k != "pooled_references"}
        total(prediction, lacking, swd__dropped="pooled")
    without = {k: v for k, v in prediction.items() if k != "dropped"}
    unchanged = total(prediction, batch, swd__dropped="target")
    assert unchanged == pytest.approx(total(without, batch), rel=1e-6)


@pytest.mark.parametrize("group", ["sample", "style", "pooled"])
def test_if_all_styles_are_dropped_nothing_pulls(flow, group):
    prediction, batch = flow.given()
    x1 = prediction["x1"].requires_grad_()
    tree = flow.Tree(swd__group=group)
    total = TERMS["swd"].sum({"x1": x1, "dropped": torch.ones(B)}, batch, tree)
    total.backward()
    assert float(total.detach()) == 0.0
    assert not x1.grad.any()


# Batches


@pytest.mark.parametrize("cap", [0, 5])
@pytest.mark.parametrize("directions", ["sample", "update"])
def test_swd_by_sample_of_a_batch_is_the_mean_of_its_samples(flow, cap, directions):
    prediction, batch = flow.given()
    changes = {"swd__max_samples": cap, "swd__directions": directions, "swd__patch_1": True}
    whole = flow.value("swd", prediction, batch, **changes)
    parts = [
        flow.value("swd", flow.at(prediction, [i]), flow.at(batch, [i]), **changes)
        for i in range(B)
    ]
    assert whole == pytest.approx(np.mean(parts), rel=1e-6)


def test_pooled_is_no_mean_of_samples_and_does_not_see_who_has_which_style(flow):
    """Samples that have each other's styles, each without any noise (002-M7)."""
    prediction, batch = flow.given()
    field = torch.randn(R, C, S, S, generator=torch.Generator().manual_seed(1))
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(B, 1, 1, 1)
    batch["references"] = sign[:, None] * (field + 3.0)
    prediction["x1"] = -sign * (field[0] + 3.0)
    batch["references"] = batch["references"][:, :1]
    batch["target"] = torch.tensor([0, 1, 0, 1])
    pooled = flow.value("swd", prediction, batch, swd__group="pooled")
    parts = [
        flow.value("swd", flow.at(prediction, [i]), flow.at(batch, [i]), swd__group="pooled")
        for i in range(B)
    ]
    assert pooled < 1e-9
    assert np.mean(parts) > 1.0
    assert flow.value("swd", prediction, batch, swd__group="style") > 1.0
    assert flow.value("swd", prediction, batch) > 1.0


@pytest.mark.parametrize("cap", [0, 20])
@pytest.mark.parametrize("group", ["style", "pooled"])
def test_what_compares_samples_keeps_the_rules_of_sets(flow, group, cap):
    prediction, batch = flow.given()
    tree = flow.Tree(swd__group=group, swd__max_samples=cap)
    found = terms(tree)["swd"]
    assert found.splits
    case = TermCase(
        name="swd",
        node="loss.swd",
        term=found,
        settings=tree,
        batch=batch,
        raw=prediction["x1"],
        predict=lambda batch, settings, raw: {"x1": raw},
        others=(),
    )
    asked = [rules.is_finite_with_a_gradient(case), sets.is_a_function_of_a_set(case)]
    asked += [sets.splits_where_it_says_so(case), rules.draws_nothing(case)]
    asked += [sets.returns_its_value_times_its_count(case)] if cap == 0 else []
    assert not [str(fault) for faults in asked for fault in faults]
    assert not terms(flow.Tree())["swd"].splits


@pytest.mark.parametrize("name", TERMS)
def test_sums_and_counts_add_up_and_leave_no_key_undeclared(flow, name):
    prediction, batch = flow.given()
    tree = flow.Tree()
    total, count = TERMS[name](prediction, batch, tree)
    parts = [TERMS[name](flow.at(prediction, [i]), flow.at(batch, [i]), tree) for i in range(B)]
    assert float(count) == sum(float(part[1]) for part in parts)
    assert float(total) == pytest.approx(sum(float(part[0]) for part in parts), rel=1e-5)
    node = child_nodes(LossSettings)[name]
    own = {key for key in leaves(node) if not key.startswith("schedule.")} - set(
        own_leaves(TermSettings)
    )
    assert set(TERMS[name].reads) == {f"loss.{name}.{key}" for key in own}


def test_validation_has_directions_and_draws_that_never_change(flow):
    """One state validated twice gives equal bits, wherever the generators are; a training draws
    anew in every update.
    """
    prediction, batch = flow.given(training=False)
    changes = {"swd__max_samples": 7, "ssm__max_positions": 9}

    def both():
        return [flow.value(name, prediction, batch, **changes) for name in ("swd", "ssm")]

    torch.manual_seed(1)
    first = both()
    torch.manual_seed(2)
    assert both() == first
    for directions in ("sample", "update"):
        alike = flow.value("swd", prediction, batch, **changes, swd__directions=directions)
        assert alike == first[0]
    updates = [
        flow.value("swd", prediction, {**batch, "update_seed": torch.full((B,), seed)},
              swd__directions="update")
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert updates[0] == updates[1] != updates[2]
