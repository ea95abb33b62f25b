"""The metrics of style_flow against POT, sums in NumPy, and the terms that train a flow."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch

from losses.style.flow import TERMS
from losses.style.terms import LossSettings
from metrics.style import flow as style_flow
from metrics.style.flow import MEASURES, SIZES, directions, style_flow_metrics, style_sums
from settings.flat import replace

B, R, C, S = 5, 4, 3, 6
STYLES = ("brick", "grass", "ihc")


def given(seed=0, references=R):
    """(prediction, batch) of samples of two of three target styles."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    batch = {
        "latent": normal(B, C, S, S),
        "references": normal(B, references, C, S, S) + 0.5,
        "target": torch.tensor([0, 2, 2, 0, 2]),
        "seed": torch.arange(B),
    }
    return {"x1": normal(B, C, S, S) + 0.3}, batch


def columns(latents, size):
    return torch.nn.functional.unfold(latents, size).movedim(1, 2).flatten(0, 1).double().numpy()


def by_pot(x, y):
    """SW_2^2 of all patches of latents, of each size, as a mean."""
    costs = [
        ot.sliced_wasserstein_distance(
            columns(x, size),
            columns(y, size),
            projections=directions(C, size).T.double().numpy(),
            p=2,
        )
        ** 2
        for size in SIZES
    ]
    return np.mean(costs)


def measured(prediction, batch, styles=STYLES):
    """Every column on the whole batch."""
    values = {}
    for metric in style_flow_metrics(styles):
        sums, count = metric.measure(prediction, batch, None)
        values[metric.name] = metric.finish(sums, float(count))
    return values


def test_directions_are_unit_vectors_that_never_change():
    for size in SIZES:
        found = directions(C, size)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
        directions.cache_clear()
        torch.manual_seed(size)
        assert torch.equal(directions(C, size), found)
        assert (found.mean(dim=0).abs() < 4 / (len(found) * C * size**2) ** 0.5).all()


def test_swd_is_pots_and_its_columns_are_means_over_styles():
    prediction, batch = given()
    found = measured(prediction, batch)
    real, style = batch["references"], batch["target"].numpy()
    target = np.array([by_pot(prediction["x1"][i : i + 1], real[i]) for i in range(B)])
    source = np.array([by_pot(batch["latent"][i : i + 1], real[i]) for i in range(B)])
    halves = np.array([by_pot(real[i, :2], real[i, 2:]) for i in range(B)])
    floor = np.array(
        [
            np.mean([by_pot(real[i, [j]], real[i, [k for k in range(R) if k != j]])
                     for j in range(R)])
            for i in range(B)
        ]
    )  # fmt: skip

    def mean(values):
        return np.mean([values[style == s].mean() for s in (0, 2)])

    worst = max(target[style == s].mean() for s in (0, 2))
    expected = {
        "swd_target": mean(target),
        "swd_source": mean(source),
        "swd_floor": mean(floor),
        "swd_halves": mean(halves),
        "swd_target_worst": worst,
        "swd_style_ihc": target[style == 2].mean(),
        "identity_gap": mean(source) - mean(target),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert math.isnan(found["swd_style_grass"])


def test_sums_add_up_over_batches_to_the_bit_of_each_sample():
    prediction, batch = given()
    whole, count = style_sums(3, prediction, batch, None)
    parts = [
        style_sums(3, {k: v[[i]] for k, v in prediction.items()},
                   {k: v[[i]] for k, v in batch.items()}, None)
        for i in range(B)
    ]  # fmt: skip
    torch.testing.assert_close(whole, sum(part[0] for part in parts), rtol=1e-12, atol=0)
    assert float(count) == B == sum(float(part[1]) for part in parts)
    assert len(whole) == 3 * (len(MEASURES) + 1)


def test_two_measurements_of_one_state_are_equal_to_the_bit():
    prediction, batch = given()
    style_flow._known.clear()
    first = measured(prediction, batch)
    directions.cache_clear()
    style_flow._known.clear()
    torch.manual_seed(5)
    second = measured(prediction, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        third = measured(prediction, batch)
    for name, value in first.items():
        assert value == second[name] == third[name] or math.isnan(value), name


def test_what_is_remembered_of_a_pair_is_of_that_source_and_those_references():
    """Floor, halves and source are computed once for a pair; other pairs have their own."""
    prediction, batch = given()
    measured(prediction, batch)
    each = {"latent": ("swd_source",), "references": ("swd_floor", "swd_halves")}
    for name, moved in each.items():
        other = {**batch, name: batch[name].flip(-1) * 1.5}
        seen = measured(prediction, other)
        style_flow._known.clear()
        fresh = measured(prediction, other)
        for column in ("swd_source", "swd_floor", "swd_halves"):
            assert seen[column] == fresh[column], (name, column)
        plain = measured(prediction, batch)
        assert all(seen[column] != plain[column] for column in moved)


def test_a_real_latent_is_at_the_floor_and_the_source_is_not():
    """In the mean over draws of the style; the floor has a reference less to compare with."""
    targets, floors, sources = [], [], []
    for seed in range(6):
        _, batch = given(seed)
        real = torch.randn(B, C, S, S, generator=torch.Generator().manual_seed(90 + seed)) + 0.5
        found = measured({"x1": real}, batch)
        targets.append(found["swd_target"])
        floors.append(found["swd_floor"])
        sources.append(found["swd_source"])
    assert np.mean(targets) == pytest.approx(np.mean(floors), rel=0.3)
    assert np.mean(sources) > 2 * np.mean(floors)


def test_one_reference_has_no_floor():
    found = measured(*given(references=1))
    assert math.isnan(found["swd_floor"])
    assert math.isnan(found["swd_halves"])
    assert found["swd_target"] > 0.0


def test_content_distance_is_that_of_all_pairs_of_different_positions():
    prediction, batch = given()
    found = measured(prediction, batch)
    expected = []
    for x, y in zip(prediction["x1"], batch["latent"], strict=True):
        cosine = []
        for latent in (x, y):
            v = latent.flatten(1).double().numpy()
            u = v / np.linalg.norm(v, axis=0)
            cosine.append(u.T @ u)
        error = (cosine[0] - cosine[1]) ** 2
        expected.append(error[~np.eye(S * S, dtype=bool)].mean())
    assert found["content_distance"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["content_floor"] == 0.0


def test_a_sample_is_at_no_distance_from_itself_and_has_no_identity_gap():
    _, batch = given()
    found = measured({"x1": batch["latent"]}, batch)
    assert found["content_distance"] == found["content_floor"] == 0.0
    assert found["identity_gap"] == 0.0


def test_measures_are_those_that_the_terms_are_at_all_positions_and_many_directions():
    """Within what 64 directions leave of 512."""
    prediction, batch = given()

    class Tree:
        loss = replace(
            LossSettings(),
            {
                "swd.patch_1": True,
                "swd.projections": 4096,
                "swd.max_samples": 0,
                "ssm.max_positions": 0,
            },
        )

    swd, ssm = (float(TERMS[name].sum(prediction, batch, Tree())) / B for name in ("swd", "ssm"))
    sums, _ = style_sums(1, prediction, {**batch, "target": torch.zeros(B).long()}, None)
    assert float(sums[0]) / B == pytest.approx(swd, rel=0.05)
    total, count = style_flow.content_distance(prediction, batch, None)
    assert float(total / count) == pytest.approx(ssm, rel=1e-6)


# Signs


def test_how_far_patches_have_moved_grows_as_a_square():
    """Of x_1 = c source, W_2^2 = (c - 1)^2 times the mean square of the projections."""
    _, batch = given()
    shares = [measured({"x1": c * batch["latent"]}, batch)["moved_share"] for c in (1.0, 1.5, 3.0)]
    assert shares[0] == 0.0
    assert shares[2] == pytest.approx(16.0 * shares[1], rel=1e-4)
    far = measured({"x1": 3.0 * batch["latent"]}, batch)
    squares = [
        np.mean(
            (columns(batch["latent"][i : i + 1], size) @ directions(C, size).double().numpy().T)
            ** 2
        )
        for i in range(B)
        for size in SIZES
    ]
    by_sample = 4.0 * np.reshape(squares, (B, -1)).mean(axis=1)
    expected = np.mean([by_sample[[0, 3]].mean(), by_sample[[1, 2, 4]].mean()])
    assert far["moved_share"] * far["swd_floor"] == pytest.approx(expected, rel=1e-4)


def test_values_beyond_all_references_are_counted_channel_by_channel():
    prediction, batch = given()
    x1, real = prediction["x1"].numpy(), batch["references"].numpy()
    axes = (1, 3, 4)
    low, high = (each(real, axis=axes)[:, :, None, None] for each in (np.min, np.max))
    expected = np.mean((x1 < low) | (x1 > high))
    assert measured(prediction, batch)["outside_share"] == pytest.approx(expected, rel=1e-12)
    assert measured({"x1": batch["references"][:, 0]}, batch)["outside_share"] == 0.0
    assert measured({"x1": 1e3 + prediction["x1"]}, batch)["outside_share"] == 1.0
