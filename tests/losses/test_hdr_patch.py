"""Every term against a reference in numpy, scipy or POT that shares no code with it."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import scipy.ndimage
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.hdr_patch import REFUSED, TERMS, idle_terms, refused_keys, terms
from losses.hdr_patch_terms import frozen_features, masked_moments
from settings.flat import leaves
from settings.schema import SettingsError

EPSILON = 0.03
"""`hdr.epsilon` of the tests: large enough for every logarithm to feel it."""


@pytest.fixture
def hdr(describe):
    """Makers of settings, batches and predictions."""
    return describe("hdr_patch").MAKERS


@pytest.fixture
def case(hdr):
    """Settings, three images (the last without a hole), a prediction of random numbers."""
    settings = hdr.settings(
        loss__log__kind="smooth_l1", hdr__ring_kernel=5, hdr__epsilon=EPSILON
    )
    batch = hdr.batch(seed=1, size=32, empty=(2,))
    rng = np.random.default_rng(2)
    shape = batch["target"].shape
    arrays = {
        "radiance": np.exp(rng.normal(0, 1.5, shape)),
        "log_delta": rng.normal(0, 4, shape),
        "log_base": rng.normal(0, 2, shape),
        "raw": rng.normal(0, 1, shape),
        "scale": rng.uniform(4, 12, (shape[0], 1, 1, 1)),
    }
    prediction = {name: torch.tensor(value, dtype=torch.float32) for name, value in arrays.items()}
    return settings, batch, prediction


def as_numpy(tensors):
    return {name: value.double().numpy() for name, value in tensors.items()}


def mean_of(name, case):
    settings, batch, prediction = case
    total, count = TERMS[name](prediction, batch, settings)
    assert total.dtype == torch.float32
    return float(total) / float(count)


def ring_of(hole, kernel):
    return scipy.ndimage.maximum_filter(hole, (1, 1, kernel, kernel)) - hole


def mu_law(radiance):
    return np.log(1 + 300 * 0.8 * radiance) / np.log(301)


def inside(values, hole, index, channel):
    return values[index, channel][hole[index, 0] > 0]


@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "charbonnier"])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_log(hdr, case, kind, mask, masked):
    """Masked, as in the document, half of Delta on the ring is compared with all that is needed
    (004-M3).
    """
    _, batch, prediction = case
    settings = hdr.settings(
        loss__log__kind=kind,
        loss__log__beta=0.7,
        loss__log__masked=masked,
        hdr__epsilon=EPSILON,
        hdr__ring_scale=0.3,
        hdr__mask=mask,
    )
    b, p = as_numpy(batch), as_numpy(prediction)
    weight = b["hole"] + 0.3 * ring_of(b["hole"], 3) if mask else np.ones_like(b["hole"])
    delta = weight * p["log_delta"] if masked else p["log_delta"]
    error = delta - (np.log(b["target"] + EPSILON) - p["log_base"])
    cost = {
        "l1": np.abs(error),
        "smooth_l1": scipy.special.huber(0.7, error) / 0.7,
        "charbonnier": np.hypot(error, 1e-3),
    }[kind]
    expected = np.average(cost, weights=np.broadcast_to(weight, cost.shape))
    assert mean_of("log", (settings, batch, prediction)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["l1", "hole", "boundary", "context"])
def test_mu_law_means(case, name):
    b, p = as_numpy(case[1]), as_numpy(case[2])
    error = np.abs(mu_law(p["radiance"]) - mu_law(b["target"]))
    ring = ring_of(b["hole"], 5)
    region = {
        "l1": np.ones_like(ring),
        "hole": b["hole"],
        "boundary": ring,
        "context": 1 - b["hole"] - ring,
    }[name]
    expected = error[np.broadcast_to(region, error.shape) > 0].mean()
    assert mean_of(name, case) == pytest.approx(expected, rel=1e-5)


def test_means_over_the_image(hdr, case):
    """The document's: its masks multiply, its mean is over everything, and the hole's is raised
    by min(4, 1 / hole share), of each image by itself.
    """
    _, batch, prediction = case
    batch = {**batch, "hole": batch["hole"].clone()}
    batch["hole"][1, :, :, 4:] = 1.0  # most of an image, where 1 / share is below 4
    names = ("hole", "boundary", "context")
    settings = hdr.settings(
        hdr__ring_kernel=5, **{f"loss__{name}__over": "image" for name in names}
    )
    b, p = as_numpy(batch), as_numpy(prediction)
    error = np.abs(mu_law(p["radiance"]) - mu_law(b["target"]))
    ring = ring_of(b["hole"], 5)
    share = b["hole"].mean((1, 2, 3))
    assert share[0] < 0.25 < share[1] and share[2] == 0.0
    factors = np.array([4.0, 1.0 / share[1], 4.0])
    expected = {
        "hole": (factors * (b["hole"] * error).mean((1, 2, 3))).mean(),
        "boundary": (ring * error).mean(),
        "context": ((1 - b["hole"] - ring) * error).mean(),
    }
    for name, mean in expected.items():
        found = mean_of(name, (settings, batch, prediction))
        assert found == pytest.approx(mean, rel=1e-5), name


def test_edge(case):
    b, p = as_numpy(case[1]), as_numpy(case[2])
    predicted, target = mu_law(p["radiance"]), mu_law(b["target"])
    steps = [np.abs(np.diff(predicted, axis=a) - np.diff(target, axis=a)).ravel() for a in (2, 3)]
    assert mean_of("edge", case) == pytest.approx(np.concatenate(steps).mean(), rel=1e-5)


def test_sparsity_refers_to_the_prefill(hdr, case):
    """|Delta| over a prefilled base; over a base of 0 the distance to the ring's median."""
    _, batch, prediction = case
    b, p = as_numpy(batch), as_numpy(prediction)
    hole = np.broadcast_to(b["hole"] > 0, p["log_delta"].shape)
    filled = hdr.settings(hdr__prefill="push_pull")
    expected = np.abs(p["log_delta"][hole]).mean()
    assert mean_of("sparsity", (filled, batch, prediction)) == pytest.approx(expected, rel=1e-5)

    zero = hdr.settings(hdr__prefill="zero", hdr__epsilon=EPSILON)
    ring = ring_of(b["hole"], 3)
    costs = []
    for index in range(2):
        for channel in range(3):
            rim = np.sort(np.log(inside(b["warped"], ring, index, channel) + EPSILON))
            median = rim[(len(rim) - 1) // 2]  # the lower of the two middle ones
            wanted = median - inside(p["log_base"], b["hole"], index, channel)
            costs.append(np.abs(inside(p["log_delta"], b["hole"], index, channel) - wanted))
    expected = np.concatenate(costs).mean()
    assert mean_of("sparsity", (zero, batch, prediction)) == pytest.approx(expected, rel=1e-4)


def test_sparsity_does_not_pull_a_hole_to_black(hdr):
    """Over a base of 0 the document's form draws Delta to 0, black; ours to the fill (004-M15)."""
    settings = hdr.settings(hdr__prefill="zero")
    batch = hdr.batch(seed=3)
    hole = batch["hole"].expand_as(batch["target"]) > 0
    raw = torch.zeros_like(batch["target"], requires_grad=True)
    term = TERMS["sparsity"]
    total = term.sum(hdr.prediction(batch, settings, raw), batch, settings)
    total.backward()
    assert (raw.grad[hole] < 0).all()


def test_range(case):
    b, p = as_numpy(case[1]), as_numpy(case[2])
    region = np.broadcast_to(b["hole"] + ring_of(b["hole"], 5) > 0, p["raw"].shape)
    expected = np.maximum(p["scale"] * np.abs(p["raw"]) - 6.0, 0.0)[region].mean()
    assert mean_of("range", case) == pytest.approx(expected, rel=1e-5)


def test_range_keeps_its_slope_where_the_squash_saturates(hdr):
    settings = hdr.settings(hdr__prefill="push_pull")
    batch = hdr.batch(seed=3)
    raw = torch.full_like(batch["target"], 15.0, requires_grad=True)
    prediction = hdr.prediction(batch, settings, raw)
    assert (
        torch.autograd.grad(prediction["log_delta"].sum(), raw, retain_graph=True)[0].max() < 1e-8
    )
    TERMS["range"].sum(prediction, batch, settings).backward()
    hole = batch["hole"].expand_as(raw) > 0
    torch.testing.assert_close(raw.grad[hole], torch.full_like(raw.grad[hole], 1.2 * 16.0))


def test_wasserstein_equals_pot(case):
    b, p = as_numpy(case[1]), as_numpy(case[2])
    needed = np.log(b["target"] + EPSILON) - p["log_base"]
    distances = [
        ot.wasserstein_1d(
            inside(p["log_delta"], b["hole"], i, c), inside(needed, b["hole"], i, c), p=1
        )
        for i in range(2)  # the third image has no hole
        for c in range(3)
    ]
    assert mean_of("wasserstein", case) == pytest.approx(np.mean(distances), rel=1e-5)


def test_moments(case):
    b, p = as_numpy(case[1]), as_numpy(case[2])
    needed = np.log(b["target"] + EPSILON) - p["log_base"]
    costs = []
    for i in range(2):
        for c in range(3):
            first, second = (inside(x, b["hole"], i, c) for x in (p["log_delta"], needed))
            costs.append(abs(first.mean() - second.mean()) + abs(first.std() - second.std()))
    assert mean_of("moments", case) == pytest.approx(np.mean(costs), rel=1e-5)


def test_color(case):
    b, p = as_numpy(case[1]), as_numpy(case[2])
    region = b["hole"] + ring_of(b["hole"], 5)
    weights = np.array([0.2126, 0.7152, 0.0722])
    costs = []
    for i in range(2):
        statistics = []
        for image in (mu_law(p["radiance"][i]), mu_law(b["target"][i])):
            luma = np.einsum("c,chw->hw", weights, image)
            chroma = [(image[c] - luma)[region[i, 0] > 0] for c in (0, 2)]
            statistics.append([(x.mean(), x.std()) for x in chroma])
        first, second = np.array(statistics)
        costs.append(np.abs(first - second).sum(1).mean())
    # float32 and the floor under the root: 1e-8 of a variance near 0.01
    assert mean_of("color", case) == pytest.approx(np.mean(costs), rel=1e-4)


@pytest.mark.parametrize("weights", [(), (1.5, 1.5, 2.0, 2.0)])
def test_perceptual(hdr, case, weights):
    """The mean over the layers, or their sum with the document's factors."""
    _, batch, prediction = case
    settings = hdr.settings(loss__perceptual__layer_weights=weights)
    images = [
        torch.tensor(np.clip(mu_law(x.double().numpy()), 0, 1), dtype=torch.float32)
        for x in (prediction["radiance"], batch["target"])
    ]
    network = frozen_features("efficientnet_lite0", torch.device("cpu"))
    with torch.no_grad():
        first, second = (network(image) for image in images)
    layers = [
        scipy.special.huber(1e-3, (a - b).double().numpy()).mean() / 1e-3
        for a, b in zip(first, second, strict=True)
    ]
    expected = np.dot(weights, layers) if weights else np.mean(layers)
    found = mean_of("perceptual", (settings, batch, prediction))
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_factor_for_each_layer_of_the_backbone(hdr):
    five = (1.5, 1.5, 2.0, 2.0, 1.5)
    with pytest.raises(SettingsError, match=r"the 4 layers of efficientnet_lite0.*not 5"):
        hdr.settings(loss__perceptual__layer_weights=five)
    vgg = hdr.settings(loss__perceptual__backbone="vgg16", loss__perceptual__layer_weights=five)
    assert vgg.loss.perceptual.layer_weights == five


def test_a_kl_of_softmaxes_misses_an_exposure_error_and_the_terms_do_not(hdr, case):
    """The reason in `REFUSED`: a constant added to Delta, a factor e on radiance (004-M12)."""
    settings, batch, prediction = case
    needed = torch.log(batch["target"] + EPSILON) - prediction["log_base"]
    off = needed + 1.0

    def kl(x):
        log_p, log_q = (v.double().flatten(1).log_softmax(1) for v in (x, needed))
        return float((log_q.exp() * (log_q - log_p)).sum())

    assert kl(off) == pytest.approx(0.0, abs=1e-6)
    brighter = {**prediction, "log_delta": off}
    for name in ("wasserstein", "moments"):
        assert mean_of(name, (settings, batch, brighter)) == pytest.approx(1.0, rel=1e-4)


def test_refused_terms_do_not_exist(hdr):
    assert not set(REFUSED) & set(TERMS)
    keys = leaves(hdr.Tree)
    for prefix, reason in refused_keys().items():
        assert reason
        assert not any(key.startswith(f"{prefix}.") for key in keys)
    assert "004-M12" in refused_keys()["loss.kl"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, None),
        ({"loss__context__enabled": True}, "loss.context"),
        ({"loss__context__enabled": True, "hdr__mask": False}, None),
        ({"loss__context__enabled": True, "loss__context__weight": 0.0}, None),
        ({"hdr__ring_scale": 0.0}, "loss.boundary"),
        ({"loss__range__enabled": True, "hdr__prefill": "zero"}, "loss.range"),
        ({"loss__range__enabled": True, "hdr__prefill": "nearest"}, None),
        ({"discriminator__enabled": True}, "discriminator.enabled"),
        ({"loss__adversarial__enabled": True}, "loss.adversarial"),
        (
            {"loss__range__enabled": True, "hdr__prefill": "zero", "loss__range__safe_range": 20},
            None,
        ),
    ],
)
def test_idle_terms(hdr, changes, found):
    problems = idle_terms(hdr.settings(**changes))
    assert [p for p in problems if found and p.startswith(found)] == problems
    assert bool(problems) == (found is not None)


def test_a_critic_adds_its_term_and_changes_no_other(hdr):
    assert terms(hdr.settings()) is TERMS
    found = terms(hdr.settings(discriminator__enabled=True, discriminator__objective="hinge"))
    assert list(found) == [*TERMS, "adversarial"]
    assert all(found[name] is term for name, term in TERMS.items())
    assert found["adversarial"].unbounded
    assert not hdr.settings().loss.adversarial.enabled


@given(
    values=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40),
    shift=st.floats(-5, 5),
)
def test_masked_moments_ignore_what_is_outside(values, shift):
    inside_values = torch.tensor(values, dtype=torch.float64)
    n = len(values)
    image = torch.cat((inside_values, inside_values * 3 + 100)).view(1, 1, 2, n)
    mask = torch.cat((torch.ones(n), torch.zeros(n))).view(1, 1, 2, n).double()
    mean, deviation = masked_moments(image + shift, mask)[:, 0, 0]
    assert float(mean) == pytest.approx(np.mean(values) + shift, abs=1e-9)
    assert float(deviation) == pytest.approx(np.sqrt(np.var(values) + 1e-8), abs=1e-6)


def test_a_hole_of_one_pixel_has_a_finite_gradient(hdr):
    settings = hdr.settings(hdr__prefill="push_pull")
    batch = hdr.batch(seed=4, images=1)
    batch["hole"].zero_()[0, 0, 5, 5] = 1.0
    for name in ("moments", "color", "wasserstein"):
        raw = hdr.raw(batch).requires_grad_()
        TERMS[name].sum(hdr.prediction(batch, settings, raw), batch, settings).backward()
        assert torch.isfinite(raw.grad).all(), name
