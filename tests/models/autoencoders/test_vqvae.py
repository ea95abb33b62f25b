"""The codebook against a reference in numpy: assignment, gradient, moving averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.autoencoders.build import build_autoencoder
from models.autoencoders.settings import ModelSettings, VqvaeSettings
from models.autoencoders.vqvae import Vqvae

CODES, WIDTH, DECAY = 20, 4, 0.9
SHAPE = VqvaeSettings(widths=(8,), codes=CODES, code_width=WIDTH, decay=DECAY)
PLANE = VqvaeSettings(widths=(96, 96, 192), res_blocks=3)


def make(dims: int = 2, shape: VqvaeSettings = SHAPE) -> Vqvae:
    torch.manual_seed(0)
    made = build_autoencoder(ModelSettings(kind="vqvae", spatial_dims=dims, vqvae=shape), 1)
    assert isinstance(made, Vqvae)
    return made


def image_of(dims: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 1, *(8, 6, 4)[:dims], generator=generator)


def vectors(latent: Tensor) -> np.ndarray:
    """[B, c, *s] -> [cells, c] in double precision."""
    return latent.detach().movedim(1, -1).flatten(0, -2).double().numpy()


@pytest.mark.parametrize("dims", [2, 3])
def test_every_cell_gets_the_nearest_code(dims: int) -> None:
    model = make(dims).eval()
    found = model(image_of(dims))
    book = model.codes.detach().double().numpy()
    cells = vectors(found["unquantised"])
    nearest = ((cells[:, None] - book) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(found["codes"].flatten().numpy(), nearest)
    np.testing.assert_allclose(vectors(found["latent"]), book[nearest], atol=1e-6)
    torch.testing.assert_close(model.encode(image_of(dims)), found["latent"], atol=1e-6, rtol=0)


def test_the_nearest_code_is_found_in_single_precision_under_autocast() -> None:
    """In bf16 the distances to 512 codes differ by less than their rounding."""
    model = make(2, VqvaeSettings(widths=(8,), codes=512, code_width=3)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(torch.rand(4, 1, 32, 32))
        again = model.encode(torch.rand(4, 1, 32, 32))
    cells = vectors(found["unquantised"])
    nearest = (
        ((cells[:, None] - model.codes.detach().double().numpy()) ** 2).sum(axis=2).argmin(axis=1)
    )
    np.testing.assert_array_equal(found["codes"].flatten().numpy(), nearest)
    assert again.dtype == found["latent"].dtype == torch.float32


def test_the_gradient_passes_straight_through() -> None:
    model = make().eval()
    found = model(image_of(2))
    (of_latent,) = torch.autograd.grad(
        found["reconstruction"].sum(), found["latent"], retain_graph=True
    )
    (of_encoder,) = torch.autograd.grad(found["reconstruction"].sum(), found["unquantised"])
    torch.testing.assert_close(of_encoder, of_latent)
    assert bool(of_encoder.abs().sum() > 0)


def test_the_codes_are_moving_averages_from_one_use_each() -> None:
    """Two steps: uses and sums decay by 0.9, the code is their smoothed ratio."""
    model = make().train()
    uses, sums = np.ones(CODES), model.codes.detach().double().numpy()
    book = sums.copy()
    for seed in (1, 2):
        found = model(image_of(2, seed))
        model.take_in()
        cells = vectors(found["unquantised"])
        nearest = ((cells[:, None] - book) ** 2).sum(axis=2).argmin(axis=1)
        hot = np.eye(CODES)[nearest]
        uses = DECAY * uses + (1 - DECAY) * hot.sum(axis=0)
        sums = DECAY * sums + (1 - DECAY) * hot.T @ cells
        total = uses.sum()
        smoothed = (uses + 1e-5) / (total + CODES * 1e-5) * total
        book = sums / smoothed[:, None]
        np.testing.assert_allclose(model.codes.detach().numpy(), book, rtol=1e-4, atol=1e-5)


def test_codes_that_nobody_uses_stay_where_they_are() -> None:
    model = make().train()
    before = model.codes.detach().clone()
    used = model(image_of(2))["codes"].unique()
    model.take_in()
    unused = [code for code in range(CODES) if code not in used.tolist()]
    assert unused and len(used) > 1
    torch.testing.assert_close(model.codes[unused], before[unused], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(model.codes[used], before[used], rtol=1e-3, atol=1e-3)


def test_an_update_moves_the_codes_once_by_all_its_forwards_as_monai_does_in_one() -> None:
    image = torch.cat([image_of(2, 1), image_of(2, 2)])
    model, peer = make().train(), make().train()
    for part in image.split(1):
        model(part)
    model.take_in()
    peer._codebook.train()(peer._unquantised(image))
    torch.testing.assert_close(model.codes, peer.codes, rtol=1e-5, atol=1e-6)
    before = model.codes.clone()
    model.take_in()  # nothing was gathered since
    model(image)
    model.forget()
    model.take_in()
    assert torch.equal(model.codes, before)


def test_only_a_forward_in_training_moves_the_codes() -> None:
    model = make().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = image_of(2)
    latent = model.encode(image)
    model.decode(latent)
    model.eval()
    model.quantise(model(image), 0.5)
    model.take_in()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_symbols_are_the_codes_and_cost_no_second_decoding() -> None:
    model = make().eval()
    found = model(image_of(2))
    rated = model.quantise(found, 0.5)
    torch.testing.assert_close(rated["symbols"], found["codes"][:, None])
    torch.testing.assert_close(rated["quantised_reconstruction"], found["reconstruction"])


@pytest.mark.parametrize(
    ("dims", "widths", "sides", "latent"),
    [
        (2, (96, 96, 192), (256, 256), (3, 32, 32)),
        (2, (96, 192), (256, 256), (3, 64, 64)),
        (3, (96, 96, 192), (160, 256, 256), (3, 20, 32, 32)),
    ],
    ids=["2d", "2d_4x", "3d"],
)
def test_documented_sizes(
    dims: int, widths: tuple[int, ...], sides: tuple[int, ...], latent: tuple[int, ...]
) -> None:
    """512 codes of 3 numbers, 8x and 4x."""
    with torch.device("meta"):
        model = make(dims, VqvaeSettings(widths=widths, res_blocks=3))
        found = model.decode(torch.zeros(1, *latent))
    assert model.latent_shape(sides) == latent
    assert model.codes.shape == (512, 3)
    assert found.shape[2:] == sides
