"""The terms of style_flow against sums over samples, patches and positions in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from losses.gram import gram_distance
from losses.style_flow import TERMS, terms
from losses.style_flow_terms import LossSettings, divergence_image_axes
from losses.terms import TermSettings
from models.draws import draw_normal, draw_uniform
from settings.flat import leaves, replace
from settings.schema import SettingsError, child_nodes, own_leaves
from trainables.contract import sets
from trainables.contract import terms as rules
from trainables.contract.cases import TermCase

B, R, C, S = 4, 3, 3, 6


class Tree:
    """What the terms read of a system's settings."""

    def __init__(self, **changes):
        self.loss = replace(LossSettings(), {k.replace("__", "."): v for k, v in changes.items()})


def given(seed=0, side=S, training=True, dtype=torch.float32):
    """(prediction, batch) of 4 samples of 2 styles, one of which keeps its own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    prediction = {name: normal(B, C, side, side) for name in ("x1", "x0", "velocity")}
    prediction["divergence"] = 5.0 * normal(B)
    batch = {
        "latent": normal(B, C, side, side),
        "reference": normal(B, R, C, side, side) + 0.5,
        "pooled_reference": normal(B, R, C, side, side) - 0.5,
        "style": torch.tensor([0, 1, 0, 0]),
        "target_style": torch.tensor([1, 0, 1, 0]),
        "seed": torch.tensor([11, 7, 5, 3]),
    }
    if training:
        batch["update_seed"] = torch.full((B,), 99)
    return prediction, batch


def at(tensors, places):
    return {name: values[places] for name, values in tensors.items()}


def value(name, prediction, batch, **changes):
    tree = Tree(**changes)
    total, count = terms(tree)[name](prediction, batch, tree)
    return float(total) / float(count)


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
def test_swd_by_sample(sizes, directions):
    prediction, batch = given()
    patch = {f"swd__patch_{size}": size in sizes for size in (1, 3, 5, 7)}
    found = value("swd", prediction, batch, swd__directions=directions, **patch)
    seeds = {"fixed": [0] * B, "update": [99] * B, "sample": [11, 7, 5, 3]}[directions]
    expected = [
        squared_distance(
            columns(prediction["x1"][i : i + 1], size),
            columns(batch["reference"][i], size),
            directions_of(seeds[i], size),
        )
        for i in range(B)
        for size in sizes
    ]
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


def test_swd_by_style_is_of_all_samples_of_a_target_style_weighed_by_their_number():
    prediction, batch = given()
    found = value("swd", prediction, batch, swd__group="style")
    by_style = [
        squared_distance(
            columns(prediction["x1"][places], 3),
            columns(batch["reference"][places].flatten(0, 1), 3),
            directions_of(99, 3),
        )
        for places in ([0, 2], [1, 3])
    ]
    assert found == pytest.approx(np.mean(by_style), rel=1e-5)


def test_swd_pooled_is_of_all_samples():
    prediction, batch = given()
    found = value("swd", prediction, batch, swd__group="pooled")
    x, y = columns(prediction["x1"], 3), columns(batch["reference"].flatten(0, 1), 3)
    assert found == pytest.approx(squared_distance(x, y, directions_of(99, 3)), rel=1e-5)


def test_the_documents_swd():
    """Zero padding, one reference, the same drawn places on both sides of all patches together,
    one set of directions, mean squared difference of sorted projections.
    """
    prediction, batch = given()
    batch["reference"] = batch["reference"][:, :1]
    found = value(
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
        for latents in (prediction["x1"], batch["reference"][:, 0])
    )
    x, y = (np.sort(side @ directions_of(99, 3).T, axis=0) for side in (x, y))
    assert found == pytest.approx(np.mean((x - y) ** 2), rel=1e-5)


def np_padded(latents):
    return torch.from_numpy(np.pad(latents.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1))))


def test_independent_draws_are_of_each_side():
    """Equal latents on both sides: shared draws see no difference, draws of each side do."""
    prediction, batch = given()
    batch["reference"] = prediction["x1"][:, None].expand(-1, R, -1, -1, -1)
    shared, independent = (
        value("swd", prediction, batch, swd__max_samples=8, swd__draws=draws)
        for draws in ("shared", "independent")
    )
    assert shared < 1e-12
    assert independent > 0.01


def test_patches_lose_the_mean_of_each_channel():
    prediction, batch = given()
    found = value("swd", prediction, batch, swd__mean_removed=True, swd__directions="fixed")

    def free(rows):
        by_channel = rows.reshape(-1, C, 9)
        return (by_channel - by_channel.mean(axis=2, keepdims=True)).reshape(len(rows), -1)

    expected = [
        squared_distance(
            free(columns(prediction["x1"][i : i + 1], 3)),
            free(columns(batch["reference"][i], 3)),
            directions_of(0, 3),
        )
        for i in range(B)
    ]
    assert found == pytest.approx(np.mean(expected), rel=1e-5)
    shift = torch.tensor([3.0, -1.0, 2.0])[:, None, None]
    shifted = {**prediction, "x1": prediction["x1"] + shift}
    again = value("swd", shifted, batch, swd__mean_removed=True, swd__directions="fixed")
    assert again == pytest.approx(found, rel=1e-4)


def test_the_source_as_the_reference_is_the_documents_bug():
    """The distance is then 0 at the identity, whatever the target style (002-M1)."""
    prediction, batch = given()
    identity = {**prediction, "x1": batch["latent"]}
    assert value("swd", identity, batch, swd__against="source") == 0.0
    assert value("swd", identity, batch) > 0.1


@pytest.mark.parametrize("group", ["sample", "style"])
def test_weights_of_styles(group):
    prediction, batch = given()
    by = {
        weights: value("swd", prediction, batch, swd__group=group, swd__style_weights=weights)
        for weights in ((), (1.0, 0.0), (0.0, 1.0), (2.0, 10.0))
    }
    assert by[()] == pytest.approx(by[1.0, 0.0] + by[0.0, 1.0], rel=1e-5)
    assert by[2.0, 10.0] == pytest.approx(2 * by[1.0, 0.0] + 10 * by[0.0, 1.0], rel=1e-5)
    with pytest.raises(ValueError, match="1 do not reach style 1"):
        value("swd", prediction, batch, swd__style_weights=(1.0,))


@pytest.mark.parametrize("group", ["sample", "style", "pooled"])
def test_a_dropped_style_pays_nothing_pooled_or_what_it_was_not_told(group):
    prediction, batch = given()
    prediction["dropped"] = torch.tensor([False, True, False, False])
    kept, gone = [0, 2, 3], [1]

    def total(prediction, batch, **changes):
        return len(batch["seed"]) * value("swd", prediction, batch, swd__group=group, **changes)

    told = total(at(prediction, kept), at(batch, kept))
    assert total(prediction, batch) == pytest.approx(told, rel=1e-5)
    pooled = {**at(batch, gone), "reference": batch["pooled_reference"][gone]}
    alone = {**at(prediction, gone), "dropped": torch.tensor([False])}
    both = told + total(alone, pooled)
    assert total(prediction, batch, swd__dropped="pooled") == pytest.approx(both, rel=1e-5)
    without = {k: v for k, v in prediction.items() if k != "dropped"}
    unchanged = total(prediction, batch, swd__dropped="target")
    assert unchanged == pytest.approx(total(without, batch), rel=1e-6)


@pytest.mark.parametrize("group", ["sample", "style", "pooled"])
def test_if_all_styles_are_dropped_nothing_pulls(group):
    prediction, batch = given()
    x1 = prediction["x1"].requires_grad_()
    tree = Tree(swd__group=group)
    total = TERMS["swd"].sum({"x1": x1, "dropped": torch.ones(B)}, batch, tree)
    total.backward()
    assert float(total.detach()) == 0.0
    assert not x1.grad.any()


# Batches


@pytest.mark.parametrize("cap", [0, 5])
@pytest.mark.parametrize("directions", ["sample", "update"])
def test_swd_by_sample_of_a_batch_is_the_mean_of_its_samples(cap, directions):
    prediction, batch = given()
    changes = {"swd__max_samples": cap, "swd__directions": directions, "swd__patch_1": True}
    whole = value("swd", prediction, batch, **changes)
    parts = [value("swd", at(prediction, [i]), at(batch, [i]), **changes) for i in range(B)]
    assert whole == pytest.approx(np.mean(parts), rel=1e-6)


def test_pooled_is_no_mean_of_samples_and_does_not_see_who_has_which_style():
    """Samples that have each other's styles, each without any noise (002-M7)."""
    prediction, batch = given()
    field = torch.randn(R, C, S, S, generator=torch.Generator().manual_seed(1))
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(B, 1, 1, 1)
    batch["reference"] = sign[:, None] * (field + 3.0)
    prediction["x1"] = -sign * (field[0] + 3.0)
    batch["reference"] = batch["reference"][:, :1]
    batch["target_style"] = torch.tensor([0, 1, 0, 1])
    pooled = value("swd", prediction, batch, swd__group="pooled")
    parts = [
        value("swd", at(prediction, [i]), at(batch, [i]), swd__group="pooled") for i in range(B)
    ]
    assert pooled < 1e-9
    assert np.mean(parts) > 1.0
    assert value("swd", prediction, batch, swd__group="style") > 1.0
    assert value("swd", prediction, batch) > 1.0


@pytest.mark.parametrize("cap", [0, 20])
@pytest.mark.parametrize("group", ["style", "pooled"])
def test_what_compares_samples_keeps_the_rules_of_sets(group, cap):
    prediction, batch = given()
    tree = Tree(swd__group=group, swd__max_samples=cap)
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
    assert not terms(Tree())["swd"].splits


@pytest.mark.parametrize("name", TERMS)
def test_sums_and_counts_add_up_and_leave_no_key_undeclared(name):
    prediction, batch = given()
    tree = Tree()
    total, count = TERMS[name](prediction, batch, tree)
    parts = [TERMS[name](at(prediction, [i]), at(batch, [i]), tree) for i in range(B)]
    assert float(count) == sum(float(part[1]) for part in parts)
    assert float(total) == pytest.approx(sum(float(part[0]) for part in parts), rel=1e-5)
    node = child_nodes(LossSettings)[name]
    own = {key for key in leaves(node) if not key.startswith("schedule.")} - set(
        own_leaves(TermSettings)
    )
    assert set(TERMS[name].reads) == {f"loss.{name}.{key}" for key in own}


def test_validation_has_directions_and_draws_that_never_change():
    """One state validated twice gives equal bits, wherever the generators are; a training draws
    anew in every update.
    """
    prediction, batch = given(training=False)
    changes = {"swd__max_samples": 7, "ssm__max_positions": 9}

    def both():
        return [value(name, prediction, batch, **changes) for name in ("swd", "ssm")]

    torch.manual_seed(1)
    first = both()
    torch.manual_seed(2)
    assert both() == first
    for directions in ("sample", "update"):
        alike = value("swd", prediction, batch, **changes, swd__directions=directions)
        assert alike == first[0]
    updates = [
        value("swd", prediction, {**batch, "update_seed": torch.full((B,), seed)},
              swd__directions="update")
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert updates[0] == updates[1] != updates[2]


# Content


def numpy_gram_distance(x, y, diagonal):
    """[C, N], by loops over pairs of positions."""
    cosine = [
        [[u @ v / np.linalg.norm(u) / np.linalg.norm(v) for v in z.T] for u in z.T] for z in (x, y)
    ]
    error = (np.array(cosine[0]) - np.array(cosine[1])) ** 2
    return error.mean() if diagonal else error[~np.eye(len(error), dtype=bool)].mean()


@pytest.mark.parametrize("positions", [0, 10])
@pytest.mark.parametrize("form", ["off_diagonal", "with_diagonal"])
def test_ssm(form, positions):
    prediction, batch = given()
    found = value(
        "ssm", prediction, batch, ssm__form=form, ssm__max_positions=positions, ssm__floor=1e-9
    )
    keys = draw_uniform(batch["seed"], "ssm.positions", (S * S,))
    places = keys.argsort(dim=1, descending=True)[:, : positions or S * S].numpy()
    x, y = (t.double().flatten(2).numpy() for t in (prediction["x1"], batch["latent"]))
    expected = [
        numpy_gram_distance(x[i][:, places[i]], y[i][:, places[i]], form == "with_diagonal")
        for i in range(B)
    ]
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


def test_ssm_of_some_positions_is_unbiased_without_the_diagonal_alone():
    """Over all pairs of positions of a small latent, each a draw of S = 2."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, C, 6, generator=generator, dtype=torch.float64)
    pairs = torch.combinations(torch.arange(6))
    for form, factor in (("off_diagonal", 1.0), ("with_diagonal", (1 - 1 / 2) / (1 - 1 / 6))):
        drawn = [gram_distance(x[..., pair], y[..., pair], 1e-9, form) for pair in pairs]
        full = gram_distance(x, y, 1e-9, form)
        assert float(torch.stack(drawn).mean()) == pytest.approx(factor * float(full), rel=1e-9)


def test_ssm_is_blind_to_lengths():
    prediction, batch = given()
    longer = {**prediction, "x1": 3.0 * prediction["x1"]}
    before, after = (value("ssm", each, batch) for each in (prediction, longer))
    assert after == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("case", ["zeros", "equal"])
def test_gradients_are_finite_where_vectors_are_zero_or_equal(name, case):
    prediction, batch = given()
    prediction = {k: v.clone() for k, v in prediction.items()}
    if case == "equal":
        prediction["x1"] = batch["latent"].clone()
        batch["latent"][:, :, 0] = prediction["x1"][:, :, 0] = 0.0
    else:
        prediction = {k: torch.zeros_like(v) for k, v in prediction.items()}
        batch["latent"] = torch.zeros_like(batch["latent"])
    for tensor in prediction.values():
        tensor.requires_grad_()
    total = TERMS[name].sum(prediction, batch, Tree())
    total.backward()
    grads = [t.grad for t in prediction.values() if t.grad is not None]
    assert torch.isfinite(total)
    assert grads
    assert all(torch.isfinite(grad).all() and grad.abs().max() < 1e4 for grad in grads)


# Velocity and the rest


def test_velocity_and_trajectory():
    prediction, batch = given()
    v, x0, x1 = (prediction[k].double().numpy() for k in ("velocity", "x0", "x1"))
    assert value("velocity", prediction, batch) == pytest.approx((v**2).mean(), rel=1e-6)
    expected = ((v - (x1 - x0)) ** 2).mean()
    assert value("trajectory", prediction, batch) == pytest.approx(expected, rel=1e-6)
    moving = {k: v.clone().requires_grad_() for k, v in prediction.items()}
    TERMS["trajectory"].sum(moving, batch, Tree()).backward()
    assert moving["x1"].grad is None
    assert moving["velocity"].grad is not None


def test_divergence_is_of_the_trace_or_along_the_axes_of_the_image():
    prediction, batch = given()
    trace = prediction["divergence"].double().numpy() / (C * S * S)
    assert value("divergence", prediction, batch) == pytest.approx((trace**2).mean(), rel=1e-6)
    v = prediction["velocity"].double().numpy()
    along = np.diff(v, axis=3)[:, :, :-1] + np.diff(v, axis=2)[:, :, :, :-1]
    found = value("divergence", prediction, batch, divergence__form="image_axes")
    assert found == pytest.approx((along**2).mean(), rel=1e-6)


def test_the_documents_divergence_says_nothing_of_volumes():
    """v = x grows volumes, with a trace of 1 a value; constant images have no difference along
    the axes of the image (002-M19). v = (column index) has the reverse.
    """
    constant = torch.ones(1, C, S, S)
    assert not divergence_image_axes(constant).any()
    ramp = torch.arange(S).float().expand(1, C, S, S)
    assert (divergence_image_axes(ramp) == 1.0).all()


def test_repulsion_is_of_samples_that_change_their_style_and_ends_at_the_margin():
    _, batch = given()
    distance = torch.tensor([0.0, 0.35, 0.7, 0.1])
    shift = torch.randn(B, C, S, S, generator=torch.Generator().manual_seed(2))
    shift = shift / shift.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    x1 = batch["latent"] + distance.view(B, 1, 1, 1) * shift
    expected = (1.0 + 0.25 + 0.0) / 3  # the last sample keeps its style
    assert value("repulsion", {"x1": x1}, batch) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "entry"), [("swd", "x1"), ("velocity", "velocity"), ("divergence", "divergence")]
)
def test_what_the_forward_did_not_make_is_named(name, entry):
    prediction, batch = given()
    del prediction[entry]
    with pytest.raises(ValueError, match=f"loss.{name} reads '{entry}', which the prediction lac"):
        TERMS[name].sum(prediction, batch, Tree())


# Precision, gradients, settings


@pytest.mark.parametrize("name", TERMS)
def test_autocast_changes_nothing(name):
    prediction, batch = given()
    tree = Tree(swd__group="style", ssm__max_positions=9)
    plain = TERMS[name].sum(prediction, batch, tree)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = TERMS[name].sum(prediction, batch, tree)
        half = TERMS[name].sum({k: v.bfloat16() for k, v in prediction.items()}, batch, tree)
    rounded = {k: v.bfloat16().float() for k, v in prediction.items()}
    assert cast.dtype == half.dtype == torch.float32
    assert torch.equal(cast, plain)
    assert torch.equal(half, TERMS[name].sum(rounded, batch, tree))


@pytest.mark.parametrize(
    ("name", "entry", "changes"),
    [
        ("swd", "x1", {}),
        ("swd", "x1", {"swd__group": "style", "swd__padding": "reflect"}),
        ("swd", "x1", {"swd__group": "pooled", "swd__padding": "zero", "swd__max_samples": 7}),
        ("ssm", "x1", {}),
        ("ssm", "x1", {"ssm__form": "with_diagonal", "ssm__max_positions": 5}),
        ("velocity", "velocity", {}),
        ("divergence", "divergence", {}),
        ("divergence", "velocity", {"divergence__form": "image_axes"}),
        ("trajectory", "velocity", {}),
        ("repulsion", "x1", {"repulsion__margin": 5.0}),
    ],
)
def test_gradients(name, entry, changes):
    prediction, batch = given(side=4, dtype=torch.float64)
    prediction, batch = at(prediction, [0, 1, 2]), at(batch, [0, 1, 2])
    tree = Tree(swd__projections=3, **changes)

    def total(x):
        return TERMS[name].sum({**prediction, entry: x}, batch, tree)

    assert gradcheck(total, prediction[entry].clone().requires_grad_(), fast_mode=True)


def test_settings_that_compare_nothing_are_refused():
    with pytest.raises(SettingsError, match="patches of at least one size"):
        Tree(swd__patch_3=False)
    with pytest.raises(SettingsError, match="max_positions must be 2 or more"):
        Tree(ssm__max_positions=1)
