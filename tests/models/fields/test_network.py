"""The conditioner's network: its size, shapes, starts, heads and features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from models.fields.network import (
    ConditionerModel,
    Head,
    ModelSettings,
    SqueezeExcite,
    Stage,
    group_norm,
    shared_parameters,
)
from settings.schema import SettingsError


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# Size and shapes


def test_parameters_at_the_documented_widths():
    """1.268 M; the source says about 2.1 M (000-M20)."""
    assert count(ConditionerModel(ModelSettings(), 32, (3, 8))) == 1_268_180
    assert count(ConditionerModel(ModelSettings(spectral_norm=False), 32, (3, 8))) == 1_268_180
    assert count(ConditionerModel(ModelSettings(output_scale=0.1), 32, (3, 8))) == 1_268_182


def test_heads_as_wide_as_they_are_set():
    """0 is the source's: as many units as main numbers, then half of the head's own."""
    source, wide = ModelSettings(), ModelSettings(trunk_width=48, head_width=20)
    for settings, trunks, hidden in ((source, (32, 32), (16, 12)), (wide, (48, 48), (20, 20))):
        model = ConditionerModel(settings, 32, (3, 8))
        heads = model.main, model.hier
        assert tuple(head.trunk.out_features for head in heads) == trunks
        assert tuple(head.hidden.out_features for head in heads) == hidden


def test_a_head_puts_out_as_many_directions_as_its_narrowest_layer_has_units():
    torch.manual_seed(0)
    head = Head(32, 32, ModelSettings(filters=(8, 8), trunk_width=40, head_width=5), 1.0).double()
    before_tanh = torch.atanh(head(torch.randn(200, 8, dtype=torch.float64)).double())
    assert torch.linalg.matrix_rank(before_tanh - before_tanh.mean(0), rtol=1e-4) == 5


def test_a_reach_stretches_the_outputs():
    """The targets of +- 0.7 come to lie at 0.5 on tanh's scale; 0 leaves them where they are."""
    torch.manual_seed(0)
    inputs = torch.randn(4, 8)
    settings = ModelSettings(filters=(8, 8), reach=0.5)
    plain, stretched = (Head(6, 6, settings, bound) for bound in (1.0, settings.bound(0.7)))
    stretched.load_state_dict(plain.state_dict())
    assert settings.bound(0.7) == pytest.approx(1.4)
    torch.testing.assert_close(stretched.eval()(inputs), 1.4 * plain.eval()(inputs))
    assert ModelSettings(reach=0.0).bound(0.5) == 1.0
    with pytest.raises(SettingsError, match=r"at least 0\.1"):
        ModelSettings(reach=0.05).check()


def test_the_documented_shapes(net):
    torch.manual_seed(0)
    model = ConditionerModel(ModelSettings(), 32, (3, 8)).eval()
    assert model.settings.stride == 8
    with torch.no_grad():
        found = model(net.images(2, 256), collect=True)
    shapes = {name: tuple(value.shape[1:]) for name, value in found.items()}
    assert shapes == {
        "main": (32,),
        "hier": (3, 8),
        "feature_0": (32, 64, 64),
        "feature_1": (64, 64, 64),
        "feature_2": (128, 32, 32),
        "feature_3": (256, 32, 32),
    }


@hypothesis_settings(max_examples=min(12, hypothesis_settings.default.max_examples))
@given(
    filters=st.lists(st.integers(4, 12), min_size=2, max_size=5),
    extra=st.integers(0, 9),
    channels=st.integers(1, 3),
    hier_shape=st.tuples(st.integers(1, 4), st.integers(1, 5)),
)
def test_any_square_image_of_enough_pixels(net, filters, extra, channels, hier_shape):
    settings = ModelSettings(filters=tuple(filters), input_channels=channels)
    torch.manual_seed(0)
    model = ConditionerModel(settings, 5, hier_shape)
    found = model(net.images(2, settings.smallest_side + extra, channels), collect=True)
    assert found["main"].shape == (2, 5)
    assert found["hier"].shape == (2, *hier_shape)
    assert found["main"].abs().max() < 1.0
    last = found[f"feature_{len(filters) - 1}"]
    assert last.shape[-1] == -(-(settings.smallest_side + extra) // settings.stride)
    assert last.flatten(2).std(dim=2).max() > 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 32, 40), r"square images, not 32 x 40.*data\.image_size"),
        ((2, 1, 15, 15), r"at least 16 px a side, not 15"),
        ((2, 3, 32, 32), r"\[B, 1, S, S\], not \[2, 3, 32, 32\].*model\.input_channels"),
        ((1, 32, 32), r"\[B, 1, S, S\], not \[1, 32, 32\]"),
    ],
)
def test_other_images_are_refused(net, shape, message):
    with pytest.raises(ValueError, match=message):
        net.make()(torch.rand(shape))


@pytest.mark.parametrize("filters", [(8,), (8,) * 9])
def test_a_wrong_number_of_stages_is_refused(filters):
    with pytest.raises(SettingsError, match=r"2 to 8 stages"):
        ModelSettings(filters=filters)


@pytest.mark.parametrize(
    ("channels", "most", "groups"),
    [(8, 32, 8), (32, 32, 32), (48, 32, 24), (256, 32, 32), (37, 32, 1), (32, 4, 4), (6, 4, 3)],
)
def test_groups(channels, most, groups):
    assert group_norm(channels, most).num_groups == groups


def test_pool_size_lets_the_heads_see_where(image_size=64):
    """Rolling the image by half its side moves the last map's cells: their mean stays nearly."""
    torch.manual_seed(0)
    image = torch.rand(2, 1, image_size, image_size)
    rolled = image.roll(image_size // 2, dims=3)
    change = {}
    for size in (1, 4):
        torch.manual_seed(1)
        model = ConditionerModel(ModelSettings(filters=(8, 16), pool_size=size), 6, (2, 3)).eval()
        assert model.main.trunk.in_features == 16 * size**2
        seen = []
        model.main.register_forward_hook(
            lambda module, given, out, seen=seen: seen.append(given[0])
        )
        with torch.no_grad():
            model(image), model(rolled)
        change[size] = ((seen[0] - seen[1]).norm() / seen[0].norm()).item()
    assert change[1] < 0.1 * change[4]


# Parts


@pytest.mark.parametrize(("kind", "low"), [("soft", 0.5), ("hard", 0.0)])
def test_squeeze_excite(kind, low):
    torch.manual_seed(0)
    settings = ModelSettings(attention=kind, reduction=4, spectral_norm=False)
    block = SqueezeExcite(8, settings)
    assert block.squeeze.bias is None
    assert block.excite.bias is None
    x = torch.randn(3, 8, 5, 5)
    means = x.mean(dim=(2, 3)).double().numpy()
    hidden = means @ block.squeeze.weight.detach().double().numpy().T
    hidden = hidden / (1 + np.exp(-hidden))
    gate = 1 / (1 + np.exp(-(hidden @ block.excite.weight.detach().double().numpy().T)))
    expected = x.double().numpy() * (low + (1 - low) * gate)[:, :, None, None]
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_attention_none_has_no_gate(net):
    assert count(net.make(attention="none")) < count(net.make(attention="hard"))
    assert not any(isinstance(m, SqueezeExcite) for m in net.make(attention="none").modules())
    few = net.make(reduction=64)  # one hidden unit stays
    assert few.stages[0].attention.squeeze.weight.shape == (1, 8)


def test_shortcut_only_where_the_shape_changes():
    settings = ModelSettings()
    assert isinstance(Stage(8, 8, 1, settings).shortcut, nn.Identity)
    for stage in (Stage(8, 8, 2, settings), Stage(8, 12, 1, settings)):
        assert isinstance(stage.shortcut, nn.Sequential)


def test_starts_keep_the_variance_of_the_forward_pass():
    """000-M16: He's rule with fan_in; linear biases 0."""
    torch.manual_seed(0)
    model = ConditionerModel(ModelSettings(spectral_norm=False), 64, (3, 8))
    conv = model.stages[3].conv1.weight
    assert float(conv.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    trunk = model.main.trunk
    assert float(trunk.weight.detach().std()) == pytest.approx((2 / 256) ** 0.5, rel=0.05)
    output = model.main.output.weight
    assert float(output.detach().abs().max()) == pytest.approx(
        0.1 * (6 / (32 + 64)) ** 0.5, rel=0.02
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "norm" not in name and "." in name:
            assert not parameter.any(), name


@pytest.mark.parametrize("normalised", [True, False])
def test_spectral_norm_of_every_linear_layer_and_second_convolution(net, normalised):
    model = net.make(spectral_norm=normalised).eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or name.endswith("conv2"):
            sigma = float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2))
            if normalised or name.endswith("conv2"):
                assert sigma == pytest.approx(1.0, abs=0.1), name
            else:
                assert abs(sigma - 1.0) > 1e-3, name


# The heads


def test_the_heads_gain_is_no_start_but_a_learning_rate_under_spectral_norm(net):
    """000-M15."""
    x = net.images()
    low, high = (net.make(head_gain=gain).eval() for gain in (0.1, 1.0))
    net.same(low(x), high(x), rtol=1e-4, atol=1e-6)
    plain = [net.make(head_gain=gain, spectral_norm=False).eval() for gain in (0.1, 1.0)]
    spread = [float(model(x)["main"].detach().std()) for model in plain]
    assert spread[1] / spread[0] > 50

    moved = {}
    for gain, model in ((0.1, low), (1.0, high)):
        before = model.main.output.weight.detach().clone()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model.train()
        for _ in range(10):
            optimizer.zero_grad()
            (model(x)["main"] - 0.5).square().mean().backward()
            optimizer.step()
        moved[gain] = float((model.eval().main.output.weight - before).norm().detach())
    assert moved[0.1] > 3 * moved[1.0]


def test_output_scale_makes_the_first_output_small_and_is_learnt(net):
    x = net.images()
    plain, scaled = net.make().eval()(x), net.make(output_scale=0.1).eval()
    net.same(
        {k: v.atanh() for k, v in scaled(x).items()},
        {k: 0.1 * v.atanh() for k, v in plain.items()},
        rtol=1e-3,
        atol=1e-6,
    )
    scaled(x)["main"].sum().backward()
    assert scaled.main.scale.grad.abs() > 0
    assert {n for n, _ in scaled.named_parameters() if "scale" in n} == {
        "main.scale",
        "hier.scale",
    }


def test_dropout_acts_in_training_only(net):
    model, x = net.make(dropout=0.5), net.images()
    torch.manual_seed(0)
    first, second = model(x)["main"], model(x)["main"]
    assert not torch.allclose(first, second, atol=1e-3)
    model.eval()
    assert torch.equal(model(x)["main"], model(x)["main"])


# Features


def test_collected_features_are_the_outputs_of_the_stages(net):
    model, x = net.make().eval(), net.images()
    kept = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, given, output: kept.append(output))
    plain, kept[:] = model(x), []
    collected = model(x, collect=True)
    features = {f"feature_{index}": output for index, output in enumerate(kept)}
    net.same({**plain, **features}, collected, rtol=0, atol=0)
    collected["feature_0"].square().sum().backward()
    assert model.stem[0].weight.grad.abs().max() > 0


def test_a_wrapper_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"holds no ConditionerModel"):
        shared_parameters(nn.ReLU())


def test_shared_parameters_reach_both_heads(net):
    model, x = net.make(), net.images()
    shared = shared_parameters(torch.compile(model, backend="eager"))
    own = {id(p) for p in model.stages[-1].parameters()}
    assert shared
    assert all(id(p) in own and p.is_leaf and p.ndim > 1 for p in shared)
    prediction = model(x)
    for kind in ("main", "hier"):
        gradients = torch.autograd.grad(prediction[kind].sum(), shared, retain_graph=True)
        assert all(g.abs().max() > 0 for g in gradients)
