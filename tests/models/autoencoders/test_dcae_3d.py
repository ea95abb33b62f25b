"""The 3-D DC-AE against its shortcuts written out by hand, and the documented size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.autoencoders.build import build_autoencoder
from models.autoencoders.dcae_3d import ChannelNorm, Down, Up, networks
from models.autoencoders.settings import DcaeSettings, ModelSettings
from models.space_to_depth import pixel_shuffle, pixel_unshuffle

DOCUMENTED = DcaeSettings(
    latent_channels=32,
    widths=(64, 128, 256, 256, 512, 512),
    layers=(2,) * 6,
    decoder_layers=(2,) * 6,
    depth_factors=(2, 2, 1, 1, 1),
)
FACTORS = [(2, 2, 2), (1, 2, 2), (2, 1, 2)]


def unshuffled(x: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """By loops: channel c of a cell holds its own pixels in row-major order."""
    (b, c, *sides), (fd, fh, fw) = x.shape, factors
    cells = [side // factor for side, factor in zip(sides, factors, strict=True)]
    out = np.empty((b, c * fd * fh * fw, *cells), x.dtype)
    for channel, (i, j, k) in itertools.product(range(c), itertools.product(*map(range, factors))):
        place = ((channel * fd + i) * fh + j) * fw + k
        out[:, place] = x[:, channel, i::fd, j::fh, k::fw]
    return out


@pytest.mark.parametrize("factors", FACTORS)
def test_pixel_unshuffle_by_loops(factors: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, 4, 6, 8)
    expected = unshuffled(x.numpy(), factors)
    np.testing.assert_array_equal(pixel_unshuffle(x, factors).numpy(), expected)


@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 3)] * 3))
def test_pixel_shuffle_is_the_inverse(
    factors: tuple[int, int, int], cells: tuple[int, int, int]
) -> None:
    x = torch.randn(2, 2, *(f * n for f, n in zip(factors, cells, strict=True)))
    assert torch.equal(pixel_shuffle(pixel_unshuffle(x, factors), factors), x)


def test_flat_volumes_are_torchs_two_dimensional_ones() -> None:
    x = torch.randn(2, 3, 1, 6, 8)
    found = pixel_unshuffle(x, (1, 2, 2))[:, :, 0]
    assert torch.equal(found, F.pixel_unshuffle(x[:, :, 0], 2))


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 8), (8, 8), (8, 16)])
def test_down_by_hand(factors: tuple[int, int, int], inputs: int, outputs: int) -> None:
    """Convolution, then unshuffle; the shortcut averages groups of the unshuffled input."""
    torch.manual_seed(0)
    layer, x = Down(inputs, outputs, factors), torch.randn(2, inputs, 4, 6, 8)
    shortcut = unshuffled(x.numpy(), factors)
    group = shortcut.shape[1] // outputs
    means = [shortcut[:, at : at + group].mean(1) for at in range(0, shortcut.shape[1], group)]
    learned = unshuffled(layer.conv(x).detach().numpy(), factors)
    expected = learned + np.stack(means, axis=1)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 4), (8, 8), (16, 8)])
def test_up_by_hand(factors: tuple[int, int, int], inputs: int, outputs: int) -> None:
    """Unshuffling what comes out gives the convolution plus repeated input channels."""
    torch.manual_seed(0)
    layer, x = Up(inputs, outputs, factors), torch.randn(2, inputs, 2, 3, 4)
    cells = int(np.prod(factors))
    repeats = outputs * cells // inputs
    repeated = np.stack([x.numpy()[:, place // repeats] for place in range(outputs * cells)], 1)
    expected = layer.conv(x).detach().numpy() + repeated
    np.testing.assert_allclose(unshuffled(layer(x).detach().numpy(), factors), expected, atol=1e-5)


def test_the_norm_is_over_channels_at_each_voxel() -> None:
    torch.manual_seed(0)
    norm, x = ChannelNorm(6), torch.randn(2, 6, 2, 3, 4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    values = x.double().movedim(1, -1)
    expected = F.rms_norm(values, (6,), norm.weight.double(), 1e-5) + norm.bias
    torch.testing.assert_close(norm(x).double(), expected.movedim(-1, 1), atol=1e-5, rtol=1e-5)


def test_without_learned_parts_the_encoder_averages_and_the_decoder_repeats() -> None:
    """All convolutions and norms at zero leave the shortcuts: means over blocks of voxels."""
    shape = DcaeSettings(
        latent_channels=1,
        widths=(8, 8, 8),
        layers=(1, 1, 1),
        decoder_layers=(1, 1, 1),
        depth_factors=(2, 1),
    )
    encoder, decoder = networks(shape, 1)
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            parameter.zero_()
        first = encoder.get_submodule("conv_in").get_parameter("weight")
        first[:, :, 1, 1, 1] = 1.0  # the input in every channel
        x = torch.rand(2, 1, 4, 8, 8)
        expected = F.avg_pool3d(x, (2, 4, 4))
        torch.testing.assert_close(encoder(x), expected)
        kept: list[Tensor] = []
        decoder.get_submodule("norm_out").register_forward_hook(
            lambda _, inputs, __: kept.append(inputs[0])
        )
        decoder(expected)
    large = expected.repeat_interleave(2, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    torch.testing.assert_close(kept[0], large.expand(-1, 8, -1, -1, -1))


def test_the_documented_size() -> None:
    """256 x 256 x 160 -> [32, 40, 8, 8]."""
    choice = ModelSettings(kind="dcae", spatial_dims=3, dcae=DOCUMENTED)
    with torch.device("meta"):
        model = build_autoencoder(choice, 1)
        found = model(torch.zeros(1, 1, 160, 256, 256))
    assert found["latent"].shape[1:] == (32, 40, 8, 8) == model.latent_shape((160, 256, 256))
    assert found["reconstruction"].shape[1:] == (1, 160, 256, 256)
