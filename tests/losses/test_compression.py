"""Every term of the autoencoders against numpy, scipy, torch's distributions or MONAI; which model
has which.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch

from data.mri.batch_augment import BatchAugment, BatchAugmentSettings
from losses.adversarial import critic_terms
from losses.composite import Composite
from losses.compression import TERMS, terms
from losses.compression_terms import edge_map
from models.perceptual import chosen_slices, content_seeds, distance, frozen_features
from settings.mri import SIZE_EDGES_MM, SIZE_NAMES


@pytest.fixture
def compression(describe):
    """Makers of settings, batches and predictions."""
    return describe("compression").MAKERS


DIMS = [2, 3]


@pytest.fixture
def case(compression):
    """(settings, batch, prediction) in `dims` axes: three images, the last without a lesion."""

    def make(dims, channels=1, size=16, **changes):
        settings = compression.settings(**changes)
        batch = compression.batch(seed=1, size=size, empty=(2,), dims=dims)
        prediction = compression.prediction(batch, settings, compression.raw(batch, seed=2))
        if channels > 1:
            noise = torch.rand(3, channels, *[size] * dims, generator=torch.manual_seed(3))
            batch = {**batch, "image": noise}
            prediction = {**prediction, "reconstruction": noise.flip(1) * 0.9}
        return settings, batch, prediction

    return make


def as_numpy(tensors):
    return {name: value.double().numpy() for name, value in tensors.items()}


def mean_of(name, case):
    settings, batch, prediction = case
    total, count = TERMS[name](prediction, batch, settings)
    assert total.dtype == torch.float32 and count.dtype == torch.float64
    return float(total / count)


# Images


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("channels", [1, 2])
def test_l1(case, dims, channels):
    found = case(dims, channels)
    b, p = as_numpy(found[1]), as_numpy(found[2])
    expected = np.abs(p["reconstruction"] - b["image"]).mean()
    assert mean_of("l1", found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("channels", [1, 2])
def test_l1_by_region(case, dims, channels):
    changes = {"loss__l1__regional__enabled": True, "loss__l1__regional__tiny": 3.0}
    found = case(dims, channels, **changes)
    b, p = as_numpy(found[1]), as_numpy(found[2])
    weight = np.array([1.0, 3.0, 1.8, 1.4, 1.2])[b["region"].astype(int)]
    assert set(np.unique(b["region"])) == {0, 1, 2, 3, 4}
    error = np.abs(p["reconstruction"] - b["image"])
    expected = np.average(error, weights=np.broadcast_to(weight, error.shape))
    assert mean_of("l1", found) == pytest.approx(expected, rel=1e-5)


def test_lesions_do_not_raise_the_l1_by_being_there(case):
    """001-M17: divided by the pixels, a uniform error of 0.2 grows with the lesions; divided by
    the weights it stays 0.2.
    """
    settings, batch, _ = case(2, loss__l1__regional__enabled=True)
    off = {"reconstruction": batch["image"] + 0.2}
    assert mean_of("l1", (settings, batch, off)) == pytest.approx(0.2, rel=1e-5)
    by_pixels = float(TERMS["l1"].sum(off, batch, settings)) / batch["image"].numel()
    assert by_pixels > 0.21


def test_the_weights_are_those_of_the_sizes(case):
    """Names and help follow the edges that the data use."""
    settings, _, _ = case(2)
    regional = settings.loss.l1.regional
    assert [getattr(regional, name) for name in SIZE_NAMES] == [2.5, 1.8, 1.4, 1.2]
    assert SIZE_EDGES_MM == (10.0, 20.0, 30.0)


def test_regions_are_asked_for_where_they_are_missing(case):
    settings, batch, prediction = case(2, loss__l1__regional__enabled=True)
    del batch["region"]
    for part in (TERMS["l1"].sum, lambda _, b, s: TERMS["l1"].count(b, s)):
        with pytest.raises(ValueError, match=r"which this batch lacks.*regional.enabled=false"):
            part(prediction, batch, settings)


@pytest.mark.parametrize("dims", [2, 3])
def test_squares_are_the_mean_of_all_values(case, dims):
    found = case(dims, channels=2)
    error = found[2]["reconstruction"].double().numpy() - found[1]["image"].double().numpy()
    assert mean_of("mse", found) == pytest.approx(np.mean(error**2), rel=1e-5)


def test_perceptual_of_images(case):
    found = case(2, channels=2)
    features = frozen_features("efficientnet_lite0", torch.device("cpu"))
    x, y = found[2]["reconstruction"], found[1]["image"]
    single = [
        float(distance(features, x[b : b + 1, c : c + 1], y[b : b + 1, c : c + 1]))
        for b in range(3)
        for c in range(2)
    ]
    assert mean_of("perceptual", found) == pytest.approx(np.mean(single), rel=1e-4)


def test_perceptual_of_volumes_is_that_of_chosen_slices(case):
    """By the sample's own values, or by its `seed` where the batch has one."""
    settings, batch, prediction = case(3, channels=2)
    features = frozen_features("efficientnet_lite0", torch.device("cpu"))
    x, y = prediction["reconstruction"], batch["image"]
    for seeds in (content_seeds(y), torch.tensor([5, 6, 7])):
        pairs = [
            [v[b].select(1 + axis, n) for v in (x, y)]
            for b in range(3)
            for axis in range(3)
            for n in chosen_slices(seeds[b : b + 1], 16, 0.25, axis)[0].tolist()
        ]
        assert len(pairs) == 3 * 3 * 4
        one, other = (torch.stack(images) for images in zip(*pairs, strict=True))
        expected = float(distance(features, one, other).mean())
        assert mean_of("perceptual", (settings, batch, prediction)) == pytest.approx(
            expected, rel=1e-4
        )
        batch = {**batch, "seed": torch.tensor([5, 6, 7])}


def test_perceptual_of_a_training_volume_takes_other_slices_in_another_epoch(case):
    """In the batches of the loader, where only the seed of a sample differs between epochs."""
    settings, batch, prediction = case(3)
    made = {"reconstruction": prediction["reconstruction"][:1]}
    collate = BatchAugment(BatchAugmentSettings())

    def distance_at(seed):
        volume = collate([{"image": batch["image"][0], "seed": torch.tensor(seed)}])
        return mean_of("perceptual", (settings, volume, made))

    assert distance_at(5) == distance_at(5)
    assert distance_at(5) != distance_at(6)


# Latents


@pytest.mark.parametrize("dims", DIMS)
def test_kl(case, dims):
    found = case(dims)
    mean, deviation = (found[2][name].double() for name in ("mean", "deviation"))
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0))
    assert mean_of("kl", found) == pytest.approx(float(kl.flatten(1).sum(1).mean()), rel=1e-5)


def test_kl_of_the_least_deviation_is_finite_in_half_precision(case):
    """MONAI lets log sigma^2 fall to -30; sigma = 3e-7 squared is 0 in fp16. With the documented
    weight, without which its gradient of 1 / sigma would leave fp16.
    """
    settings, batch, prediction = case(2)
    for dtype in (torch.float16, torch.bfloat16):
        log_variance = torch.full_like(prediction["mean"], -30.0).requires_grad_()
        deviation = torch.exp(0.5 * log_variance).to(dtype)
        assert not (deviation.square() > 1e-13).any()
        total, _ = TERMS["kl"]({**prediction, "deviation": deviation.float()}, batch, settings)
        (gradient,) = torch.autograd.grad(settings.loss.kl.weight * total, log_variance)
        assert torch.isfinite(total) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dims", DIMS)
def test_vq_is_a_mean_over_the_latent_and_moves_the_encoder_alone(case, dims):
    settings, batch, prediction = case(dims)
    z = prediction["unquantised"].clone().requires_grad_()
    q = prediction["latent"].clone().requires_grad_()
    total, count = TERMS["vq"]({"unquantised": z, "latent": q}, batch, settings)
    expected = np.square(z.detach().double().numpy() - q.detach().double().numpy()).mean()
    assert float((total / count).detach()) == pytest.approx(expected, rel=1e-5)
    gradient, none = torch.autograd.grad(total, (z, q), allow_unused=True)
    torch.testing.assert_close(gradient, 2.0 * (z - q).detach() / z[0].numel())
    assert none is None


def test_vq_is_monais_commitment(case):
    """With the documented weight of 0.25 it is the loss that MONAI's quantiser returns."""
    from monai.networks.layers.vector_quantizer import EMAQuantizer

    settings, batch, prediction = case(2)
    torch.manual_seed(0)
    quantiser = EMAQuantizer(2, 16, 2, commitment_cost=0.25).eval()
    z = prediction["unquantised"]
    quantised, peer, _ = quantiser(z)
    total, count = TERMS["vq"]({"unquantised": z, "latent": quantised}, batch, settings)
    assert settings.loss.vq.weight == 0.25
    assert 0.25 * float(total / count) == pytest.approx(float(peer), rel=1e-5)


# Masks


def cross_entropy(b, p):
    t, x = b["image"], p["logits"]
    return -(t * scipy.special.log_expit(x) + (1 - t) * scipy.special.log_expit(-x))


@pytest.mark.parametrize("dims", DIMS)
def test_bce(case, dims):
    found = case(dims)
    expected = cross_entropy(as_numpy(found[1]), as_numpy(found[2])).mean()
    assert mean_of("bce", found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dims", DIMS)
def test_dice_is_monais(case, dims):
    from monai.losses import DiceLoss

    found = case(dims)
    peer = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = peer(found[2]["logits"], found[1]["image"])
    assert mean_of("dice", found) == pytest.approx(float(expected), rel=1e-5)


def test_an_empty_mask_that_is_found_empty_costs_nothing(case):
    settings, batch, prediction = case(2)
    nothing = {"image": torch.zeros_like(batch["image"])}
    sure = {"logits": torch.full_like(prediction["logits"], -40.0)}
    assert mean_of("dice", (settings, nothing, sure)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dims", DIMS)
def test_boundary(case, dims):
    found = case(dims)
    b, p = as_numpy(found[1]), as_numpy(found[2])
    size = (1, 1, *[3] * dims)
    edge = scipy.ndimage.maximum_filter(b["image"], size, mode="nearest")
    edge -= scipy.ndimage.minimum_filter(b["image"], size, mode="nearest")
    np.testing.assert_array_equal(edge_map(found[1]["image"]).numpy(), edge)
    assert 0 < edge.mean() < 0.5
    expected = np.average(cross_entropy(b, p), weights=edge)
    assert mean_of("boundary", found) == pytest.approx(expected, rel=1e-5)


# Which model has which


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"model__kind": "vae"}, ["l1", "mse", "perceptual", "kl"]),
        ({"model__kind": "vqvae"}, ["l1", "mse", "perceptual", "vq"]),
        ({"model__kind": "dcae"}, ["l1", "mse", "perceptual"]),
        ({"model__kind": "dcae", "model__seg_mode": True}, ["bce", "dice", "boundary"]),
        ({"model__kind": "vqvae", "model__seg_mode": True}, ["bce", "dice", "boundary", "vq"]),
    ],
)
def test_terms_of_a_kind(compression, changes, names):
    settings = compression.settings(**changes)
    assert list(terms(settings)) == names
    with_critic = compression.settings(discriminator__enabled=True, **changes)
    assert list(terms(with_critic)) == [*names, "adversarial"]
    assert not terms(with_critic)["adversarial"].unbounded
    hinge = compression.settings(
        discriminator__enabled=True, discriminator__objective="hinge", **changes
    )
    assert terms(hinge)["adversarial"].unbounded


def test_the_defaults_are_the_documented_weights(compression):
    settings = compression.settings(
        discriminator__enabled=True, loss__adversarial__enabled=True, model__kind="vae"
    )
    weights = Composite(terms(settings), settings.loss).weights(0, 10)
    assert weights == {"l1": 1.0, "mse": 0, "perceptual": 0.001, "kl": 1e-6, "adversarial": 0.01}
    masks = compression.settings(model__kind="dcae", model__seg_mode=True)
    weights = Composite(terms(masks), masks.loss).weights(0, 10)
    assert weights == {"bce": 1.0, "dice": 1.0, "boundary": 0.5}
    critic = Composite(critic_terms("image"), settings.critic, "critic")
    assert critic.weights(0, 10) == {"patch": 1.0}


def test_a_gan_starts_and_ramps_by_the_term_s_own_schedule(compression):
    ramp = {"kind": "warmup", "start": 0.2, "end": 0.6}
    changes = {f"loss__adversarial__schedule__{key}": value for key, value in ramp.items()}
    settings = compression.settings(
        discriminator__enabled=True, loss__adversarial__enabled=True, **changes
    )
    composite = Composite(terms(settings), settings.loss)
    found = [composite.weights(step, 10)["adversarial"] for step in (0, 2, 4, 6, 9)]
    assert found == pytest.approx([0.0, 0.0, 0.005, 0.01, 0.01])
