"""Spaces against matrices and loops, and their moments against those of all voxels at once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.diffusion.spaces import (
    KINDS,
    LATENT,
    SPACES,
    ChannelMoments,
    HaarWavelet,
    SpaceSettings,
    SpaceToDepth,
    build_space,
)

SIDES = {2: (6, 4), 3: (4, 6, 2)}
every_space = pytest.mark.parametrize(
    ("kind", "dims"), [(kind, dims) for kind in SPACES for dims in (2, 3)]
)


def images(dims: int, channels: int = 2, samples: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(dims)
    return torch.randn(samples, channels, *SIDES[dims], generator=generator)


def haar_by_axes(x: np.ndarray) -> np.ndarray:
    """[B, C, *S] -> [B, C, 2^d, *s], one axis after the other, by sums and differences."""
    bands = x[:, :, None]
    for axis in range(3, x.ndim + 1):
        a = bands.take(range(0, bands.shape[axis], 2), axis=axis)
        b = bands.take(range(1, bands.shape[axis], 2), axis=axis)
        both = np.stack([(a + b) / math.sqrt(2.0), (a - b) / math.sqrt(2.0)], axis=3)
        bands = both.reshape(*a.shape[:2], 2 * a.shape[2], *a.shape[3:])
    return bands


def test_kinds_are_those_that_can_be_built():
    assert (*SPACES, LATENT) == KINDS, "latents need their autoencoder"


@every_space
def test_a_space_has_the_shape_it_says_and_is_inverted(kind, dims):
    space, image = build_space(SpaceSettings(kind=kind), dims, channels=2), images(dims)
    values = space.encode(image)
    assert values.shape[1:] == (space.channels_of(2), *space.size_of(SIDES[dims]))
    assert values.numel() == image.numel()
    if kind == "wavelet":
        torch.testing.assert_close(space.decode(values), image, atol=1e-6, rtol=0.0)
    else:
        assert torch.equal(space.decode(values), image)


@every_space
def test_it_is_inverted_under_shift_and_scale_too(kind, dims):
    space, image = build_space(SpaceSettings(kind=kind), dims, channels=2), images(dims)
    plain = space.encode(image)
    count = space.channels_of(2)
    shift, scale = torch.linspace(-2.0, 3.0, count), torch.linspace(0.5, 4.0, count)
    space.standardise(shift, scale)
    values = space.encode(image)
    for channel in range(count):
        expected = (plain[:, channel] - shift[channel]) / scale[channel]
        torch.testing.assert_close(values[:, channel], expected)
    torch.testing.assert_close(space.decode(values), image, atol=3e-6, rtol=0.0)
    assert set(space.state_dict()) == {"shift", "scale", "deviation"}


def test_space_to_depth_is_torchs_in_two_dimensions():
    image = images(2)
    assert torch.equal(SpaceToDepth(2, 2).encode(image), F.pixel_unshuffle(image, 2))


def test_space_to_depth_of_volumes_by_loops():
    image = images(3)
    values = SpaceToDepth(3, 2).encode(image)
    for channel, (i, j, k) in itertools.product(range(2), itertools.product((0, 1), repeat=3)):
        place = 8 * channel + 4 * i + 2 * j + k
        assert torch.equal(values[:, place], image[:, channel, i::2, j::2, k::2])


@pytest.mark.parametrize("dims", [2, 3])
def test_haar_by_sums_and_differences_along_each_axis(dims):
    image = images(dims)
    values = HaarWavelet(dims, 2).encode(image).unflatten(1, (2, -1))
    np.testing.assert_allclose(values.numpy(), haar_by_axes(image.double().numpy()), atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_haar_is_an_orthonormal_matrix(dims):
    space = HaarWavelet(dims, 1).double()
    pixels = math.prod(SIDES[dims])
    units = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, *SIDES[dims])
    matrix = space.encode(units).flatten(1)
    torch.testing.assert_close(
        matrix @ matrix.T, torch.eye(pixels, dtype=torch.float64), atol=1e-14, rtol=0.0
    )


def test_low_frequencies_come_first_and_the_last_axis_is_the_fastest():
    space = HaarWavelet(3, 1)
    constant = space.encode(torch.full((1, 1, 4, 4, 4), 3.0)).abs().amax(dim=(0, 2, 3, 4))
    torch.testing.assert_close(constant, torch.tensor([3.0 * math.sqrt(8.0)] + [0.0] * 7))
    for axis, band in ((4, 1), (3, 2), (2, 4)):
        shape = [4 if each == axis else 1 for each in range(5)]
        waves = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(shape).expand(1, 1, 4, 4, 4)
        found = space.encode(waves).abs().amax(dim=(0, 2, 3, 4))
        assert found.nonzero().flatten().tolist() == [band]


@pytest.mark.parametrize("space", [SpaceToDepth(3, 1), HaarWavelet(3, 1)])
@pytest.mark.parametrize("size", [(4, 4, 3), (4, 4)])
def test_sides_that_are_no_whole_cells_are_refused(space, size):
    with pytest.raises(ValueError, match="multiples of 2"):
        space.size_of(size)
    with pytest.raises(ValueError, match="multiples of 2"):
        space.encode(torch.zeros(1, 1, *size))


@every_space
def test_moments_of_the_training_images_make_channels_standard(kind, dims):
    space = build_space(SpaceSettings(kind=kind), dims, channels=2)
    batches = [5.0 + 0.3 * images(dims, samples=4), 4.0 + 2.0 * images(dims, samples=3)]
    space.standardise(*space.moments(batches))
    values = torch.cat([space.encode(batch) for batch in batches]).double()
    axes = (0, *range(2, values.ndim))
    np.testing.assert_allclose(values.mean(dim=axes), 0.0, atol=1e-5)
    np.testing.assert_allclose(values.std(dim=axes, correction=0), 1.0, atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([0.0, 1e4]))
def test_moments_by_batches_are_those_of_all_voxels_at_once(sizes, offset):
    generator = torch.Generator().manual_seed(sum(sizes))
    batches = [offset + torch.randn(size, 2, 3, 4, generator=generator) for size in sizes]
    moments = ChannelMoments()
    for batch in batches:
        moments.add(batch)
    values = torch.cat(batches).double().numpy()
    np.testing.assert_allclose(moments.mean, values.mean(axis=(0, 2, 3)), atol=1e-9)
    np.testing.assert_allclose(moments.deviation, values.std(axis=(0, 2, 3)), rtol=1e-9)
    of_means = values.mean(axis=(2, 3)).std(axis=0)
    np.testing.assert_allclose(moments.deviation_of_means, of_means, rtol=1e-8, atol=1e-10)


def test_the_documents_form_is_too_small_by_the_root_of_the_voxels():
    """001-M19: of 400 samples with 256 independent voxels of deviation 3."""
    values = 3.0 * torch.randn(400, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    space = build_space(SpaceSettings(), 3, 1)
    _, right = space.moments([values])
    _, documents = space.moments([values], "sample_means")
    assert float(right) == pytest.approx(3.0, rel=0.01)
    assert float(documents) == pytest.approx(3.0 / 16.0, rel=0.1)


def test_what_cannot_standardise_is_refused():
    space = build_space(SpaceSettings(), 2, 2)
    ones = torch.ones(2)
    for shift, scale, message in (
        (ones, torch.tensor([1.0, 0.0]), "all equal"),
        (ones * torch.nan, ones, "shift of a space"),
        (ones, torch.ones(3), "scale of a space"),
    ):
        with pytest.raises(ValueError, match=message):
            space.standardise(shift, scale)
    with pytest.raises(ValueError, match="add a batch"):
        _ = ChannelMoments().deviation
    with pytest.raises(ValueError, match="one size"):
        space.moments([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 2)])
