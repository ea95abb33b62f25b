"""The velocity network: its counts, its start, and what its style blocks and null style do."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.style_flow.blocks import KERNEL_SIDE, StyleBlock, StyleKernel
from models.style_flow.conditioning import NULL_STYLE, StyleTable, drop_style
from models.style_flow.network import VelocityUnet
from models.style_flow.settings import ModelSettings
from settings.schema import SettingsError

T = torch.tensor([0.1, 0.5, 0.9])
STYLE = torch.tensor([0, 1, 2])


def count(channels: int = 4, styles: int = 2, **changes: object) -> int:
    with torch.device("meta"):
        network = VelocityUnet(ModelSettings(**changes), channels, styles)
    return sum(parameter.numel() for parameter in network.parameters())


def of_layers(base: int, e: int, bias: bool = False) -> int:
    """The document's description, layer by layer."""

    def conv(a: int, b: int, side: int) -> int:
        return side**2 * a * b + b

    widths = (base, 2 * base, 4 * base)
    cells = 9 + bias
    style = [e * cells * c + cells * c + conv(c, c, 1) + 2 * c for c in widths[:2]]
    return sum(
        [
            (e + 1) * 4 * e + (4 * e + 1) * e,  # time
            2 * e,  # styles
            (2 * e + 1) * 2 * e + (2 * e + 1) * e,  # both
            conv(4, base, 3),
            *[4 * (conv(c, c, 3) + 2 * c) for c in widths],  # two blocks of two
            *[conv(a, b, 3) + conv(b, a, 4) for a, b in itertools.pairwise(widths)],
            *[3 * size for size in style],
            2 * base + conv(base, 4, 3),
        ]
    )


@pytest.mark.parametrize(("bias", "millions"), [(False, 20.34), (True, 20.63)])
def test_the_document_s_description_has_its_parameters(bias, millions):
    found = count(base=128, embedding=256, null="mean_at_start", kernel_bias=bias)
    assert found == of_layers(128, 256, bias)
    assert found / 1e6 == pytest.approx(millions, abs=0.005)


def test_a_token_a_style_and_plus_add_what_they_are():
    document = {"base": 128, "embedding": 256, "null": "mean"}
    base = count(**document)
    assert count(**{**document, "null": "token"}) - base == 256
    assert count(**document, styles=9) - base == 7 * 256
    attention = 2 * 512 + 512 * 3 * 512 + 3 * 512 + 512 * 512 + 512
    gates = (256 + 1) * (256 + 128)
    assert count(**document, variant="plus") - base == attention + gates
    assert count() == 1_278_276
    assert count(styles=7) == 1_278_596


@pytest.mark.parametrize("variant", ["base", "plus"])
@pytest.mark.parametrize("kernel", ["base_and_residual", "from_zero"])
def test_the_velocity_is_0_at_the_start(make, latents, variant, kernel):
    network = make(shaken=False, variant=variant, kernel=kernel)
    assert torch.equal(network(latents(), T, STYLE), torch.zeros(3, 2, 8, 8))


@pytest.mark.parametrize("variant", ["base", "plus"])
def test_a_sample_is_computed_by_itself_and_reads_its_time_and_style(make, latents, variant):
    network, x = make(variant=variant).double(), latents().double()
    together = network(x, T, STYLE)
    alone = torch.cat([network(x[i : i + 1], T[i : i + 1], STYLE[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    for other in (network(x, T + 0.05, STYLE), network(x, T, STYLE.flip(0) * 0 + NULL_STYLE)):
        assert ((other - together).flatten(1).norm(dim=1) > 1e-4).all()


def test_every_parameter_has_a_gradient(make, latents):
    network = make(variant="plus", kernel_bias=True)
    style = torch.tensor([0, 2, NULL_STYLE])
    network(latents(), T, style).square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert not network.condition.style.table.weight.grad[1].any()


def test_larger_latents_pass_and_odd_ones_are_refused(make, latents):
    network = make()
    assert network(latents(side=12), T, STYLE).shape == (3, 2, 12, 12)
    with pytest.raises(ValueError, match=r"multiples of 4, not \[3, 2, 10, 10\]"):
        network(latents(side=10), T, STYLE)
    with pytest.raises(ValueError, match=r"one number a sample, \[3\]"):
        network(latents(), T[:1], STYLE)


def test_the_base_kernel_changes_nothing_at_the_start(latents):
    settings = ModelSettings(base=2, embedding=8, norm_groups=1, kernel_bias=True)
    x, condition = latents(), torch.randn(3, 8)
    assert torch.equal(StyleKernel(2, settings)(x, condition), x)
    from_zero = ModelSettings(base=2, embedding=8, norm_groups=1, kernel="from_zero")
    assert not StyleKernel(2, from_zero)(x, condition).any()


def test_a_style_kernel_is_the_convolution_of_each_channel_by_its_kernel(latents):
    torch.manual_seed(0)
    settings = ModelSettings(base=2, embedding=8, norm_groups=1, kernel_bias=True)
    layer = StyleKernel(2, settings)
    nn.init.normal_(layer.predict.weight)
    nn.init.normal_(layer.predict.bias)
    x, condition = latents(), torch.randn(3, 8)
    predicted = layer.predict(condition)
    delta = torch.zeros(KERNEL_SIDE, KERNEL_SIDE)
    delta[1, 1] = 1.0
    for i in range(3):
        for c in range(2):
            kernel = delta + predicted[i, 9 * c : 9 * c + 9].view(3, 3)
            expected = F.conv2d(x[i : i + 1, c : c + 1], kernel[None, None], padding=1)
            torch.testing.assert_close(
                layer(x, condition)[i, c], expected[0, 0] + predicted[i, 18 + c]
            )


def test_a_kernel_from_zero_multiplies_the_gradient(latents):
    """002-M14: the norm behind a layer of zeros divides by the root of its epsilon."""
    norms = {}
    for kernel in ("base_and_residual", "from_zero"):
        torch.manual_seed(0)
        block = StyleBlock(2, ModelSettings(base=2, embedding=8, norm_groups=1, kernel=kernel))
        block(latents(), torch.randn(3, 8)).sum().backward()
        norms[kernel] = block.kernel.predict.weight.grad.norm()
    assert norms["from_zero"] > 50.0 * norms["base_and_residual"]


def test_the_null_style_is_a_token_the_mean_now_or_the_mean_at_the_start():
    null = torch.tensor([NULL_STYLE])
    tables = {}
    for form in ("token", "mean", "mean_at_start"):
        torch.manual_seed(0)
        tables[form] = StyleTable(ModelSettings(embedding=8, null=form), 3)
    before = tables["mean"].table.weight.mean(dim=0).detach().clone()
    for table in tables.values():
        with torch.no_grad():
            table.table.weight += torch.arange(3.0)[:, None]
    assert torch.equal(tables["token"](null)[0], tables["token"].token)
    torch.testing.assert_close(tables["mean"](null)[0], before + 1.0)
    torch.testing.assert_close(tables["mean_at_start"](null)[0], before)
    assert "start" in tables["mean_at_start"].state_dict()  # as it was, in a checkpoint as well
    for table in tables.values():
        mixed = table(torch.tensor([2, NULL_STYLE]))
        torch.testing.assert_close(mixed[0], table.table.weight[2])


def test_styles_are_dropped_by_sample_or_all_at_once():
    style, seed = torch.arange(20_000) % 7, torch.arange(20_000)
    dropped = drop_style(style, seed, 0.15)
    share = (dropped == NULL_STYLE).double().mean()
    assert share == pytest.approx(0.15, abs=3 * (0.15 * 0.85 / 20_000) ** 0.5)
    kept = dropped != NULL_STYLE
    assert torch.equal(dropped[kept], style[kept])
    assert torch.equal(drop_style(style[9:12], seed[9:12], 0.15), dropped[9:12])
    batches = [drop_style(style[:8], torch.tensor([n]), 0.5) for n in range(200)]
    alike = [int((batch == NULL_STYLE).sum()) for batch in batches]
    assert set(alike) == {0, 8}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embedding": 7}, "model.embedding must be even"),
        ({"base": 12}, "model.norm_groups must divide model.base, not 8 of 12"),
        ({"variant": "plus", "base": 40}, None),
        ({"variant": "plus", "base": 24, "head_width": 64}, "model.head_width must divide"),
    ],
)
def test_settings_that_make_no_network_are_refused(changes, said):
    if said is None:
        assert ModelSettings(**changes).widths == (40, 80, 160)
        return
    with pytest.raises(SettingsError, match=said):
        ModelSettings(**changes)
