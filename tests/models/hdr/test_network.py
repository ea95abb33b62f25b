"""The network: sizes, gates, what it refuses; and the whole model's promise outside the mask."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from models.hdr.head import HeadSettings
from models.hdr.network import (
    GatedConv,
    GatedUNet,
    HdrPatchModel,
    ModelSettings,
    SeparableGate,
    boundary_map,
    group_count,
    laplacian,
)

MakeBatch = Callable[..., dict[str, Tensor]]


@pytest.mark.parametrize("width", [8, 9, 13, 24, 40, 64])
def test_any_width_returns_a_residual_of_the_image_shape(
    make_batch: MakeBatch, width: int
) -> None:
    batch = make_batch(1)
    network = GatedUNet(ModelSettings(width=width))
    assert network(batch["warped"], batch["hole"]).shape == (1, 3, 32, 32)


def test_the_batch_and_the_aspect_are_free() -> None:
    network = GatedUNet(ModelSettings(width=8))
    image = torch.rand(3, 3, 32, 80)
    out = network(image, torch.zeros(3, 1, 32, 80))
    assert out.shape == (3, 3, 32, 80)
    # GroupNorm has no batch statistics: a sample's output does not depend on its neighbours.
    alone = network(image[1:2], torch.zeros(1, 1, 32, 80))
    torch.testing.assert_close(out[1:2], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(16, 64), (40, 64), (64, 30), (64, 16)])
def test_a_bad_side_is_refused_with_the_rule(height: int, width: int) -> None:
    network = GatedUNet(ModelSettings(width=8))
    with pytest.raises(
        ValueError, match=rf"multiples of 16 .* 32 px.*{height} x {width}.*data.crop"
    ):
        network(torch.rand(1, 3, height, width), torch.zeros(1, 1, height, width))


def test_an_untrained_model_returns_about_the_prefilled_patch(make_batch: MakeBatch) -> None:
    torch.manual_seed(0)
    batch = make_batch()
    model = HdrPatchModel(ModelSettings(width=8), HeadSettings(prefill="nearest"))
    prediction = model(batch)
    assert prediction["raw"].abs().max() < 0.2
    assert prediction["raw"].abs().max() > 0.0


@pytest.mark.parametrize("mask", [True, False])
def test_pixels_outside_the_mask_come_back_bit_by_bit(make_batch: MakeBatch, mask: bool) -> None:
    torch.manual_seed(0)
    batch = make_batch()
    batch["seed"] = torch.arange(len(batch["hole"]))
    model = HdrPatchModel(ModelSettings(width=8), HeadSettings(mask=mask, dither=True))
    with torch.no_grad():
        model.network.output.bias.fill_(0.3)
        radiance = model(batch)["radiance"]
    outside = (torch.nn.functional.max_pool2d(batch["hole"], 3, 1, 1) == 0).expand_as(radiance)
    same = bool((radiance[outside] == batch["warped"][outside]).all())
    assert same is mask


def test_every_parameter_gets_a_gradient(make_batch: MakeBatch) -> None:
    torch.manual_seed(0)
    batch = make_batch()
    model = HdrPatchModel(ModelSettings(width=8), HeadSettings(prefill="push_pull"))
    (model(batch)["log_delta"] - 1.0).abs().mean().backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_no_decay_names_exist_and_hold_the_gates() -> None:
    settings_ = HeadSettings()
    model = HdrPatchModel(ModelSettings(width=8), settings_)
    names = {name for name, _ in model.named_parameters()}
    assert model.no_decay <= names
    assert "network.stem.boundary_weight" in model.no_decay


def test_optional_channels_are_read_and_demanded(make_batch: MakeBatch) -> None:
    torch.manual_seed(0)
    batch = make_batch(2)
    settings_ = ModelSettings(width=8, use_occlusion=True, use_motion=True)
    assert settings_.channels == 7
    network = GatedUNet(settings_)
    image, hole = torch.rand(2, 3, 32, 32), batch["hole"]
    still = network(image, hole, batch["occlusion"], batch["motion"])
    moved = network(image, hole, batch["occlusion"], batch["motion"] + 8.0)
    covered = network(image, hole, batch["occlusion"] + 1.0, batch["motion"])
    assert not torch.equal(still, moved)
    assert not torch.equal(still, covered)
    with pytest.raises(
        ValueError, match=r"model\.use_motion is true, but the batch has no 'motion'"
    ):
        network(image, hole, batch["occlusion"])


def test_what_moves_in_a_hole_is_fed_on_demand_only(make_batch: MakeBatch) -> None:
    batch = make_batch(2)
    image, hole, motion = torch.rand(2, 3, 32, 32), batch["hole"], batch["motion"]
    elsewhere = torch.where(hole > 0, motion + 8.0, motion)
    for fed in (False, True):
        network = GatedUNet(ModelSettings(width=8, use_motion=True, motion_in_holes=fed))
        still, moved = (network(image, hole, motion=each) for each in (motion, elsewhere))
        assert torch.equal(still, moved) is not fed


def test_a_channel_says_where_motion_is_known(make_batch: MakeBatch) -> None:
    """Built only where the data lacks some, of what is fed."""
    torch.manual_seed(0)
    settings_, batch = ModelSettings(width=8, use_motion=True), make_batch(2)
    plain, marked = (GatedUNet(settings_, lacking) for lacking in ((), ("occlusion", "motion")))
    shapes = [network.stem.conv.weight.shape[1] for network in (plain, marked)]
    assert shapes == [6, 7]
    image, hole, motion = torch.rand(2, 3, 32, 32), batch["hole"], batch["motion"]
    whole = torch.ones(2, 1, 1, 1)
    known = {"motion": torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1), "occlusion": whole}
    some = marked(image, hole, motion=motion, known=known)
    every = marked(image, hole, motion=motion)
    torch.testing.assert_close(some[0], every[0])
    assert not torch.allclose(some[1], every[1])
    assert torch.equal(every, marked(image, hole, motion=motion, known={"motion": whole}))
    with pytest.raises(ValueError, match=r"some frames have no motion, and this network was"):
        plain(image, hole, motion=motion, known=known)
    model = HdrPatchModel(settings_, HeadSettings(), ("motion",))
    batch = {**batch, "motion_known": known["motion"]}
    assert model(batch)["radiance"].shape == (2, 3, 32, 32)


def test_laplacian_and_boundary_map_against_scipy() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 12, 9, generator=generator, dtype=torch.float64)
    hole = (torch.rand(1, 1, 12, 9, generator=generator) < 0.3).double()

    def by_scipy(plane: np.ndarray) -> np.ndarray:
        kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=float)
        return ndimage.correlate(plane, kernel, mode="nearest")

    grey = image.mean(dim=1)[0].numpy()
    np.testing.assert_allclose(laplacian(hole)[0, 0].numpy(), by_scipy(hole[0, 0].numpy()))
    sigmoid = lambda x: 1.0 / (1.0 + np.exp(-x))  # noqa: E731
    expected = sigmoid(np.abs(by_scipy(grey)))
    expected += 0.3 * sigmoid(0.5 * np.abs(by_scipy(hole[0, 0].numpy())))
    np.testing.assert_allclose(boundary_map(image, hole)[0, 0].numpy(), expected, rtol=1e-12)


@given(st.floats(0.0, 1e6))
def test_the_boundary_map_cannot_reach_the_source_limit_of_two(step: float) -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = step
    hole = torch.zeros(1, 1, 8, 8)
    hole[..., 3:5, 3:5] = 1.0
    values = boundary_map(image, hole)
    assert values.min() >= 0.65 - 1e-6
    assert values.max() <= 1.3 + 1e-6


def test_gated_convolution_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = GatedConv(3, 4, boundary_gate=0.5)
    x, boundary = torch.randn(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    both = torch.nn.functional.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1)
    feature, gate = both[:, :4], both[:, 4:]
    leaky = torch.where(feature > 0, feature, 0.2 * feature)
    expected = leaky / (1.0 + (-gate).exp()) * (1.0 + 0.5 * boundary)
    torch.testing.assert_close(layer(x, boundary), expected, rtol=1e-5, atol=1e-6)


def test_separable_gate_with_weight_zero_is_the_identity_and_is_bounded_otherwise() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 6)
    assert torch.equal(SeparableGate(8, 0.0)(x), x)
    ratio = SeparableGate(8, 0.5)(x) / x
    assert ratio.min() > 1.0
    assert ratio.max() < 1.5


@given(st.integers(1, 512), st.integers(1, 64))
@settings(max_examples=2 * settings.default.max_examples)
def test_groups_divide_the_channels_and_come_nearest(channels: int, size: int) -> None:
    count = group_count(channels, size)
    assert channels % count == 0
    miss = abs(math.log(channels / count / size))
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    assert all(miss <= abs(math.log(channels / n / size)) + 1e-12 for n in divisors)


def test_bf16_autocast_stays_near_fp32(make_batch: MakeBatch) -> None:
    torch.manual_seed(0)
    batch = make_batch()
    model = HdrPatchModel(ModelSettings(width=8), HeadSettings(prefill="push_pull")).eval()
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(batch)
    assert all(value.dtype == torch.float32 for value in rough.values())
    torch.testing.assert_close(rough["raw"], exact["raw"], rtol=0.1, atol=5e-3)
    torch.testing.assert_close(rough["log_base"], exact["log_base"], rtol=0, atol=0)
