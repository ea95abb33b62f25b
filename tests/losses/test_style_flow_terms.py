"""The terms of style_flow that are sums over positions and values, against NumPy; the gradients
and the precision of all.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from losses.gram import gram_distance
from losses.style.flow import TERMS
from losses.style.terms import divergence_image_axes
from models.draws import draw_uniform
from settings.schema import SettingsError

B, C, S = 4, 3, 6


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
def test_ssm(flow, form, positions):
    prediction, batch = flow.given()
    found = flow.value(
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


def test_ssm_of_some_positions_is_unbiased_without_the_diagonal_alone(flow):
    """Over all pairs of positions of a small latent, each a draw of S = 2."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, C, 6, generator=generator, dtype=torch.float64)
    pairs = torch.combinations(torch.arange(6))
    for form, factor in (("off_diagonal", 1.0), ("with_diagonal", (1 - 1 / 2) / (1 - 1 / 6))):
        drawn = [gram_distance(x[..., pair], y[..., pair], 1e-9, form) for pair in pairs]
        full = gram_distance(x, y, 1e-9, form)
        assert float(torch.stack(drawn).mean()) == pytest.approx(factor * float(full), rel=1e-9)


def test_ssm_is_blind_to_lengths(flow):
    prediction, batch = flow.given()
    longer = {**prediction, "x1": 3.0 * prediction["x1"]}
    before, after = (flow.value("ssm", each, batch) for each in (prediction, longer))
    assert after == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("case", ["zeros", "equal"])
def test_gradients_are_finite_where_vectors_are_zero_or_equal(flow, name, case):
    prediction, batch = flow.given()
    prediction = {k: v.clone() for k, v in prediction.items()}
    if case == "equal":
        prediction["x1"] = batch["latent"].clone()
        batch["latent"][:, :, 0] = prediction["x1"][:, :, 0] = 0.0
    else:
        prediction = {k: torch.zeros_like(v) for k, v in prediction.items()}
        batch["latent"] = torch.zeros_like(batch["latent"])
    for tensor in prediction.values():
        tensor.requires_grad_()
    total = TERMS[name].sum(prediction, batch, flow.Tree())
    total.backward()
    grads = [t.grad for t in prediction.values() if t.grad is not None]
    assert torch.isfinite(total)
    assert grads
    assert all(torch.isfinite(grad).all() and grad.abs().max() < 1e4 for grad in grads)


# Velocity and the rest


def test_velocity_and_trajectory(flow):
    prediction, batch = flow.given()
    v, x0, x1 = (prediction[k].double().numpy() for k in ("velocity", "x0", "x1"))
    assert flow.value("velocity", prediction, batch) == pytest.approx((v**2).mean(), rel=1e-6)
    expected = ((v - (x1 - x0)) ** 2).mean()
    assert flow.value("trajectory", prediction, batch) == pytest.approx(expected, rel=1e-6)
    moving = {k: v.clone().requires_grad_() for k, v in prediction.items()}
    TERMS["trajectory"].sum(moving, batch, flow.Tree()).backward()
    assert moving["x1"].grad is None
    assert moving["velocity"].grad is not None


def test_divergence_is_of_the_trace_or_along_the_axes_of_the_image(flow):
    prediction, batch = flow.given()
    trace = prediction["divergence"].double().numpy() / (C * S * S)
    assert flow.value("divergence", prediction, batch) == pytest.approx(
        (trace**2).mean(), rel=1e-6
    )
    v = prediction["velocity"].double().numpy()
    along = np.diff(v, axis=3)[:, :, :-1] + np.diff(v, axis=2)[:, :, :, :-1]
    found = flow.value("divergence", prediction, batch, divergence__form="image_axes")
    assert found == pytest.approx((along**2).mean(), rel=1e-6)


def test_the_documents_divergence_says_nothing_of_volumes(flow):
    """v = x grows volumes, with a trace of 1 a value; constant images have no difference along
    the axes of the image (002-M19). v = (column index) has the reverse.
    """
    constant = torch.ones(1, C, S, S)
    assert not divergence_image_axes(constant).any()
    ramp = torch.arange(S).float().expand(1, C, S, S)
    assert (divergence_image_axes(ramp) == 1.0).all()


def test_repulsion_is_of_samples_that_change_their_style_and_ends_at_the_margin(flow):
    _, batch = flow.given()
    distance = torch.tensor([0.0, 0.35, 0.7, 0.1])
    shift = torch.randn(B, C, S, S, generator=torch.Generator().manual_seed(2))
    shift = shift / shift.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    x1 = batch["latent"] + distance.view(B, 1, 1, 1) * shift
    expected = (1.0 + 0.25 + 0.0) / 3  # the last sample keeps its style
    assert flow.value("repulsion", {"x1": x1}, batch) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "entry"), [("swd", "x1"), ("velocity", "velocity"), ("divergence", "divergence")]
)
def test_what_the_forward_did_not_make_is_named(flow, name, entry):
    prediction, batch = flow.given()
    del prediction[entry]
    with pytest.raises(ValueError, match=f"loss.{name} reads '{entry}', which the prediction lac"):
        TERMS[name].sum(prediction, batch, flow.Tree())


# Precision, gradients, settings


@pytest.mark.parametrize("name", TERMS)
def test_autocast_changes_nothing(flow, name):
    prediction, batch = flow.given()
    tree = flow.Tree(swd__group="style", ssm__max_positions=9)
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
def test_gradients(flow, name, entry, changes):
    prediction, batch = flow.given(side=4, dtype=torch.float64)
    prediction, batch = flow.at(prediction, [0, 1, 2]), flow.at(batch, [0, 1, 2])
    tree = flow.Tree(swd__projections=3, **changes)

    def total(x):
        return TERMS[name].sum({**prediction, entry: x}, batch, tree)

    assert gradcheck(total, prediction[entry].clone().requires_grad_(), fast_mode=True)


def test_settings_that_compare_nothing_are_refused(flow):
    with pytest.raises(SettingsError, match="patches of at least one size"):
        flow.Tree(swd__patch_3=False)
    with pytest.raises(SettingsError, match="max_positions must be 2 or more"):
        flow.Tree(ssm__max_positions=1)
