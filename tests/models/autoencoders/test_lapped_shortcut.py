"""The linear map beside a VAE's network: the cosine transform of cells at first, lapped later."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct, dctn, idctn
from scipy.linalg import toeplitz

from models.autoencoders.build import build_autoencoder
from models.autoencoders.lapped_shortcut import CORRELATION, LappedShortcut, cosines, strongest
from models.autoencoders.settings import ModelSettings, VaeSettings


def make_vae(shortcut="lapped", channels=1, dims=2, latent=3):
    torch.manual_seed(0)
    shape = VaeSettings(widths=(8, 8, 8), latent_channels=latent, shortcut=shortcut)
    return build_autoencoder(ModelSettings(vae=shape, spatial_dims=dims), channels)


def test_the_cosines_are_scipys_and_their_variances_those_of_the_process() -> None:
    rows, variances = cosines(4)
    expected = dct(np.eye(4), axis=0, norm="ortho")
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-6)
    covariance = toeplitz(CORRELATION ** np.arange(4))
    found = np.diag(expected @ covariance @ expected.T)
    np.testing.assert_allclose(variances.numpy(), found, rtol=1e-6)
    # near the principal components: the largest eigenvalues are no larger
    np.testing.assert_allclose(found, np.linalg.eigvalsh(covariance)[::-1], rtol=0.03)


def test_a_vae_begins_as_the_first_cosines_of_each_cell() -> None:
    image = torch.rand(2, 1, 8, 12)
    cells = image.view(2, 2, 4, 3, 4).permute(0, 1, 3, 2, 4).double().numpy()
    kept = dctn(cells, axes=(3, 4), norm="ortho")
    first = np.zeros((4, 4))
    first[0, 0] = first[0, 1] = first[1, 0] = 1.0
    back = idctn(kept * first, axes=(3, 4), norm="ortho").transpose(0, 1, 3, 2, 4)
    found = make_vae().eval()(image)["reconstruction"]
    np.testing.assert_allclose(found.detach().numpy(), back.reshape(2, 1, 8, 12), atol=1e-5)


@pytest.mark.parametrize(("channels", "factors"), [(1, (4, 4)), (2, (2, 4)), (1, (2, 2, 2))])
def test_with_as_many_channels_as_pixels_it_begins_as_the_identity(channels, factors) -> None:
    numbers = channels * int(np.prod(factors))
    shortcut = LappedShortcut(channels, numbers + 1, factors)  # the last channel is idle
    image = torch.rand(2, channels, *(3 * side for side in factors))
    latent = shortcut.encode(image)
    assert latent.shape == (2, numbers + 1, *[3] * len(factors))
    assert not latent[:, -1].any()
    torch.testing.assert_close(shortcut.decode(latent), image, atol=1e-5, rtol=1e-5)


def test_the_strongest_come_first_and_are_orthonormal() -> None:
    basis, deviations = strongest((4, 4), 2, 5)
    flat = basis.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(5), atol=1e-6, rtol=0.0)
    assert deviations.tolist() == sorted(deviations.tolist(), reverse=True)
    for row in basis[:2]:  # the mean of a cell, of either channel
        assert row.abs().sum() == pytest.approx(4.0)


def test_latents_begin_at_variance_1_under_the_process() -> None:
    axis = toeplitz(CORRELATION ** np.arange(4))
    factor = np.linalg.cholesky(np.kron(axis, axis))
    pixels = 0.3 * factor @ np.random.default_rng(0).normal(size=(16, 20_000))
    image = torch.tensor(pixels.T, dtype=torch.float32).view(-1, 1, 4, 4)
    latent = make_vae().eval().encode(image)
    np.testing.assert_allclose(latent.detach().std(dim=(0, 2, 3)).numpy(), 1.0, atol=0.03)


def test_pixels_of_the_neighbouring_cells_are_learnt() -> None:
    model = make_vae().train()
    image = torch.rand(2, 1, 16, 16)
    prediction = model(image, torch.tensor([1, 2]))
    (prediction["reconstruction"] - image).square().sum().backward()
    for weight in (model.shortcut.down, model.shortcut.up):
        margin = torch.ones(12, 12, dtype=torch.bool)
        margin[4:8, 4:8] = False
        assert not weight[..., margin].any()
        assert weight.grad[..., margin].abs().min() > 0.0


def test_the_network_learns_from_the_first_step_on() -> None:
    """Its last layers begin as 0, so the others move from the second step on."""
    model = make_vae().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for seed in range(2):
        image = torch.rand(2, 1, 16, 16)
        loss = (model(image, torch.tensor([seed, 9]))["reconstruction"] - image).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = model.state_dict()
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []


@pytest.mark.parametrize("dims", [2, 3])
def test_without_it_nothing_is_added(dims) -> None:
    plain, lapped = make_vae("none", dims=dims), make_vae(dims=dims)
    assert not any(name.startswith("shortcut.") for name in plain.state_dict())
    added = set(lapped.state_dict()) - set(plain.state_dict())
    assert added == {"shortcut.down", "shortcut.up"}


def test_it_is_built_without_its_numbers() -> None:
    with torch.device("meta"):
        model = make_vae(dims=3, channels=2)
        found = model(torch.zeros(1, 2, 8, 8, 8), torch.zeros(1, dtype=torch.int64))
    assert model.shortcut.down.is_meta
    assert found["reconstruction"].shape == (1, 2, 8, 8, 8)


@pytest.mark.parametrize("dims", [2, 3])
def test_alone_it_begins_as_with_the_network_that_begins_as_nothing(dims) -> None:
    """To the rounding, and in training as well: mean, deviation, noise and reconstruction."""
    image, seed = torch.rand(2, 1, *[12] * dims), torch.tensor([3, 4])
    alone, beside = make_vae("lapped_alone", dims=dims), make_vae(dims=dims)
    for mode in (True, False):
        found, expected = alone.train(mode)(image, seed), beside.train(mode)(image, seed)
        assert set(found) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def test_alone_its_parameters_are_two_maps_and_a_deviation_a_channel() -> None:
    model = make_vae("lapped_alone", latent=5)
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    maps = dict.fromkeys(("shortcut.down", "shortcut.up"), 5 * 12 * 12)
    assert sizes == {"network.log_variance": 5, **maps}
    assert set(model.state_dict()) == set(sizes)


def test_alone_it_is_linear_and_its_reconstruction_is_through_its_last_layer() -> None:
    model = make_vae("lapped_alone").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        one, other = torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8)
        of_sum = model(0.3 * one - 2.0 * other)["reconstruction"]
        sum_of = 0.3 * model(one)["reconstruction"] - 2.0 * model(other)["reconstruction"]
        torch.testing.assert_close(of_sum, sum_of, atol=1e-5, rtol=1e-4)
        model.last_layer()[0].zero_()
        assert not model(one)["reconstruction"].any()


def test_alone_all_of_it_learns_from_the_first_step_on() -> None:
    model = make_vae("lapped_alone").train()
    prediction = model(torch.rand(2, 1, 16, 16), torch.tensor([1, 2]))
    prediction["reconstruction"].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
