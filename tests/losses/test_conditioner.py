"""Every term of the conditioner against numpy, scipy or torchmetrics, and where gradients go."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error

from losses.composite import Composite
from losses.conditioner import NEED_DECODER, TERMS, LossSettings
from losses.conditioner_terms import linear_cka, projections, top_share
from models.fields.latent_projection import LatentProjections
from settings.schema import SettingsError


@pytest.fixture
def conditioner(describe):
    """Makers of settings, batches and predictions."""
    return describe("conditioner").MAKERS


KINDS = ("main", "hier")


@pytest.fixture
def case(conditioner):
    """Settings, five samples (two without a second view), a prediction of random numbers."""
    batch = conditioner.batch(seed=1, images=5, empty=(1, 3))
    settings = conditioner.settings()
    prediction = conditioner.prediction(batch, settings, conditioner.raw(batch, seed=2))
    shift = torch.Generator().manual_seed(3)
    for kind in KINDS:
        noise = torch.randn(batch[kind].shape, generator=shift)
        prediction[f"paired_{kind}"] = batch[kind] + 0.2 * noise
    return settings, batch, prediction


def mean_of(name, settings, batch, prediction):
    total, count = TERMS[name](prediction, batch, settings)
    assert total.dtype == torch.float32
    assert count.dtype == torch.float64
    return float(total) / float(count)


def as_numpy(tensors):
    return {name: value.double().numpy() for name, value in tensors.items()}


# Regression


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_squares_and_absolute_values(conditioner, case, kind, smoothing):
    _, batch, prediction = case
    settings = conditioner.settings(loss__label_smoothing=smoothing)
    found, target = prediction[kind], (1 - smoothing) * batch[kind]
    expected = float(mean_squared_error(found.flatten(), target.flatten()))
    assert mean_of(f"{kind}_mse", settings, batch, prediction) == pytest.approx(expected, rel=1e-5)
    expected = float(mean_absolute_error(found.flatten(), target.flatten()))
    assert mean_of(f"{kind}_mae", settings, batch, prediction) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_smooth_l1_is_huber_over_beta(conditioner, case, kind, beta):
    """000-M20: what the source calls Huber is Huber's loss divided by beta."""
    _, batch, prediction = case
    settings = conditioner.settings(
        **{f"loss__{kind}_huber__beta": beta, "loss__label_smoothing": 0.2}
    )
    error = prediction[kind].double().numpy() - 0.8 * batch[kind].double().numpy()
    expected = (scipy.special.huber(beta, error) / beta).mean()
    found = mean_of(f"{kind}_huber", settings, batch, prediction)
    assert found == pytest.approx(expected, rel=1e-5)


# Likeness


def numpy_unlike(a, b):
    return 1 - (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def numpy_network(network, x):
    for layer in range(3):
        weight, bias = (getattr(network, f"{n}{layer}").numpy() for n in ("weight", "bias"))
        x = np.maximum(x, 0) @ weight.T + bias if layer else x @ weight.T + bias
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_perceptual_projection_and_cosine(conditioner, case, kind):
    """Along the last axis, each code by itself (000-M3)."""
    _, batch, prediction = case
    found, target = as_numpy(prediction)[kind], as_numpy(batch)[kind]
    name = f"{kind}_perceptual"
    cosine = conditioner.settings(**{f"loss__{name}__kind": "cosine"})
    expected = numpy_unlike(found, target).mean()
    assert mean_of(name, cosine, batch, prediction) == pytest.approx(expected, rel=1e-4)

    settings = conditioner.settings(
        **{f"loss__{name}__widths": (5, 9, 3), f"loss__{name}__seed": 7}
    )
    networks = LatentProjections(found.shape[-1], (5, 9, 3), 7).networks
    expected = np.mean(
        [numpy_unlike(numpy_network(n, found), numpy_network(n, target)).mean() for n in networks]
    )
    assert mean_of(name, settings, batch, prediction) == pytest.approx(expected, rel=1e-4)


def test_projections_are_fixed_and_cannot_be_trained():
    """000-M4."""
    one = LatentProjections(32, (16, 8), seed=0)
    assert not list(one.parameters())
    assert {b.numel() for b in one.buffers()} == {512, 16, 256, 8, 64, 128}
    assert [f.shape[-1] for f in one(torch.zeros(2, 32))] == [16, 16]
    other = LatentProjections(32, (16, 8), seed=1)
    x = torch.rand(2, 32)
    for a, b, c in zip(one(x), other(x), LatentProjections(32, (16, 8), 0)(x), strict=True):
        assert torch.equal(a, c)
        assert not torch.allclose(a, b)
    cpu = torch.device("cpu")
    assert projections(32, (16, 8), 0, "he", cpu) is projections(32, (16, 8), 0, "he", cpu)
    assert projections(32, (16, 8), 0, "torch", cpu) is not projections(32, (16, 8), 0, "he", cpu)


def test_random_networks_with_torchs_own_start_see_nearly_nothing():
    """Independent latents: 1 - cos is 1 by itself, 0.3 behind our networks, 0.01 behind the
    source's, and as much behind ours that start as those do.
    """
    torch.manual_seed(0)
    found, target = 0.25 * torch.randn(2, 1000, 32)

    def unlike(a, b):
        return float((1 - torch.cosine_similarity(a, b, dim=-1)).mean().detach())

    ours, started, theirs = [], [], []
    for seed in range(10):
        for start, values in (("he", ours), ("torch", started)):
            networks = LatentProjections(32, (16, 8), seed, start)
            pairs = zip(networks(found), networks(target), strict=True)
            values.append(np.mean([unlike(a, b) for a, b in pairs]))
        document = [
            nn.Sequential(
                *(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
                nn.Linear(width, 16),
            )
            for width in (16, 8)
        ]
        theirs.append(np.mean([unlike(n(found), n(target)) for n in document]))
    assert unlike(found, target) == pytest.approx(1.0, abs=0.05)
    assert np.mean(ours) == pytest.approx(0.3, abs=0.07)
    assert np.mean(theirs) < 0.02
    assert np.mean(started) == pytest.approx(np.mean(theirs), rel=0.25)


def test_torchs_own_start_is_that_of_a_linear_layer():
    """Weights and biases of each layer are spread as those of nn.Linear."""
    network = LatentProjections(64, (256,), 0, "torch").networks[0]
    torch.manual_seed(1)
    for layer, (inputs, outputs) in enumerate([(64, 256), (256, 256), (256, 32)]):
        linear = nn.Linear(inputs, outputs)
        for kind in ("weight", "bias"):
            found = network.get_buffer(f"{kind}{layer}").flatten().numpy()
            expected = getattr(linear, kind).detach().flatten().numpy()
            assert scipy.stats.ks_2samp(found, expected).pvalue > 0.01


def numpy_cka(x, y):
    """By kernels and HSIC (Kornblith et al. 2019, equations 3 and 4), not by features."""
    n = len(x)
    center = np.eye(n) - 1 / n
    k, g = center @ x @ x.T @ center, center @ y @ y.T @ center
    return (k * g).sum() / np.sqrt((k * k).sum() * (g * g).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_perceptual_cka(conditioner, case, kind):
    _, batch, prediction = case
    settings = conditioner.settings(**{f"loss__{kind}_perceptual__kind": "cka"})
    found, target = as_numpy(prediction)[kind], as_numpy(batch)[kind]
    if kind == "main":
        expected = 1 - numpy_cka(found, target)
    else:
        expected = np.mean([1 - numpy_cka(found[:, k], target[:, k]) for k in range(3)])
    term = TERMS[f"{kind}_perceptual"]
    total, count = term(prediction, batch, settings)
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(count) == 1.0
    one = {name: value[:1] for name, value in batch.items()}
    total, count = term({kind: prediction[kind][:1]}, one, settings)
    assert (float(total), float(count)) == (0.0, 0.0)


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_cka_sees_neither_scale_nor_rotation_nor_offset(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 8, 1, 4, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    moved = scale * x @ rotation + 3.0
    torch.testing.assert_close(linear_cka(moved, y), linear_cka(x, y), rtol=1e-6, atol=0)
    torch.testing.assert_close(linear_cka(moved, x), torch.ones(1).double(), rtol=1e-6, atol=0)


def test_cka_of_a_constant_prediction_has_a_finite_gradient():
    x = torch.full((6, 2, 3), 0.1, requires_grad=True)
    value = linear_cka(x, torch.rand(6, 2, 3))
    value.sum().backward()
    assert torch.equal(value.detach(), torch.zeros(2))
    assert torch.isfinite(x.grad).all()


# Field, views, spectra


def test_decoded(case):
    settings, batch, prediction = case
    p = as_numpy(prediction)
    norms = [
        np.linalg.norm(a - b) ** 2 / np.linalg.norm(b) ** 2
        for a, b in zip(p["field"], p["target_field"], strict=True)
    ]
    assert mean_of("decoded", settings, batch, prediction) == pytest.approx(np.mean(norms), 1e-5)
    assert NEED_DECODER == ("decoded",)


def test_consistency_looks_at_marked_samples_only(case):
    settings, batch, prediction = case
    p = as_numpy(prediction)
    kept = [0, 2, 4]
    expected = sum(((p[k] - p[f"paired_{k}"])[kept] ** 2).mean() for k in KINDS)
    assert mean_of("consistency", settings, batch, prediction) == pytest.approx(expected, rel=1e-5)
    assert float(TERMS["consistency"].count(batch, settings)) == 3.0


@pytest.mark.parametrize("iterations", [2, 3, 5, 50])
def test_spectral_is_a_share_of_the_svd(conditioner, case, iterations):
    """000-M5: per sample, and the largest singular value, not the sum of all."""
    _, batch, prediction = case
    settings = conditioner.settings(loss__spectral__iterations=iterations)
    shares = []
    for name in ("feature_0", "feature_1"):
        for each in prediction[name].double().numpy():
            values = np.linalg.svd(each.reshape(len(each), -1), compute_uv=False)
            shares.append(values[0] ** 2 / (values**2).sum())
    found = mean_of("spectral", settings, batch, prediction)
    tolerance = {2: 0.15, 3: 0.1, 5: 0.05, 50: 1e-4}[iterations]
    assert np.mean(shares) * (1 - tolerance) < found < np.mean(shares) * (1 + 1e-5)


def test_the_sources_spectral_penalty_is_the_energy():
    """The sum of squared singular values is the squared Frobenius norm (000-M5)."""
    values = np.random.default_rng(0).normal(size=(16, 200))
    energy = (np.linalg.svd(values, compute_uv=False) ** 2).sum()
    assert energy == pytest.approx((values**2).sum())
    share = float(top_share(torch.tensor(values)[None], 200))
    assert share == pytest.approx(np.linalg.norm(values, 2) ** 2 / energy, rel=1e-6)


def test_energy_is_the_sources_penalty_of_a_batch(conditioner, case):
    """Its own lines: the map of a batch as [B, C H W], the sum of the squared singular values, a
    mean over the maps; and one value per batch.
    """
    _, batch, prediction = case
    settings = conditioner.settings(loss__spectral__kind="energy")
    sums = []
    for name in ("feature_0", "feature_1"):
        feature = prediction[name].double()
        sums.append(torch.linalg.svdvals(feature.view(feature.size(0), -1)).square().sum())
    total, count = TERMS["spectral"](prediction, batch, settings)
    assert float(total) == pytest.approx(float(sum(sums) / 2), rel=1e-5)
    assert float(count) == 1.0


def test_the_gradient_of_the_share_is_that_of_the_svd():
    a = torch.randn(2, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    a.requires_grad_()
    top_share(a, 500).sum().backward()
    found, a.grad = a.grad, None
    values = torch.linalg.svdvals(a)
    (values[:, 0].square() / values.square().sum(dim=1)).sum().backward()
    torch.testing.assert_close(found, a.grad, rtol=1e-5, atol=1e-8)


@given(
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
    rank=st.integers(1, 6),
    n=st.integers(6, 9),
)
def test_the_share_has_no_scale_and_known_bounds(scale, seed, rank, n):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(2, 6, rank, generator=generator)
    a = left @ torch.randn(2, rank, n, generator=generator)
    share = top_share(a, 60)
    torch.testing.assert_close(top_share(scale * a, 60), share, rtol=1e-4, atol=0)
    assert (share >= 1 / rank - 1e-3).all()
    assert (share <= 1 + 1e-5).all()


def test_maps_of_zeros_cost_nothing_and_have_a_gradient():
    a = torch.zeros(2, 3, 4, requires_grad=True)
    share = top_share(a, 3)
    share.sum().backward()
    assert torch.equal(share.detach(), torch.zeros(2))
    assert torch.isfinite(a.grad).all()
    opposite = torch.tensor([[[1.0, 2.0], [-1.0, -2.0]]])
    torch.testing.assert_close(top_share(opposite, 2), torch.ones(1))


# Gradients, settings, errors

READS = {
    **{
        f"{kind}_{error}": {kind}
        for kind in KINDS
        for error in ("mse", "mae", "huber", "perceptual")
    },
    "decoded": {"field"},
    "consistency": {"main", "hier"},
    "spectral": {"feature_0", "feature_1"},
}


@pytest.mark.parametrize("name", TERMS)
def test_gradients_flow_into_predictions_and_not_into_targets(case, name):
    settings, batch, prediction = case
    prediction = {key: value.detach().requires_grad_() for key, value in prediction.items()}
    batch = {key: value.detach().requires_grad_() for key, value in batch.items()}
    TERMS[name].sum(prediction, batch, settings).backward()
    reached = {
        key for key, value in prediction.items() if value.grad is not None and value.grad.any()
    }
    assert reached == READS[name]
    if name in ("main_perceptual", "hier_perceptual"):
        assert all(value.grad is None for value in batch.values())


@pytest.mark.parametrize("name", TERMS)
def test_a_missing_entry_is_named(case, name):
    settings, batch, prediction = case
    gone = sorted(READS[name])[0]
    rest = {k: v for k, v in prediction.items() if not k.startswith(gone.rstrip("01"))}
    with pytest.raises(ValueError, match=rf"loss\.{name} reads '{gone}'.*enabled=false"):
        TERMS[name].sum(rest, batch, settings)
    for other in {"decoded": ("target_field",), "consistency": ("paired_main",)}.get(name, ()):
        rest = {k: v for k, v in prediction.items() if k != other}
        with pytest.raises(ValueError, match=other):
            TERMS[name].sum(rest, batch, settings)


def test_the_default_is_ten_to_one():
    weights = Composite(TERMS, LossSettings()).weights(0, 100)
    assert {name: w for name, w in weights.items() if w} == {"main_mse": 10.0, "hier_mse": 1.0}
    document = {name: getattr(LossSettings(), name).weight for name in TERMS}
    assert document["main_mae"] == pytest.approx(10 * 0.1)
    assert document["main_huber"] == pytest.approx(10 * 0.05)
    assert (document["hier_mae"], document["hier_huber"]) == (0.1, 0.05)


def test_no_network_is_refused(conditioner):
    with pytest.raises(SettingsError, match=r"at least one network.*kind=cosine"):
        conditioner.settings(loss__main_perceptual__widths=())
