"""How a codebook begins, how dead codes begin anew, and cells that are not finite."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from models.autoencoders.build import build_autoencoder
from models.autoencoders.cells import ITERATIONS
from models.autoencoders.settings import ModelSettings, VqvaeSettings
from models.autoencoders.vqvae import Vqvae

CODES = 24
PLAIN = VqvaeSettings(widths=(8,), codes=CODES, code_width=3, decay=0.9)
REVIVED = dataclasses.replace(PLAIN, revive="encoder", revive_below=0.5)
CLUSTERED = dataclasses.replace(PLAIN, start="kmeans")
BOTH = dataclasses.replace(REVIVED, start="kmeans")
SEEDS = torch.arange(100, 104)


def make(shape: VqvaeSettings) -> Vqvae:
    torch.manual_seed(0)
    made = build_autoencoder(ModelSettings(kind="vqvae", vqvae=shape), 1)
    assert isinstance(made, Vqvae)
    return made.train()


def images(seed: int = 1) -> Tensor:
    return torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def moved(shape: VqvaeSettings, updates: int = 1, cut: int = 4, seeds: Tensor = SEEDS) -> Vqvae:
    """The model after so many updates."""
    model = make(shape)
    for update in range(updates):
        for part, of_part in zip(images(update).split(cut), seeds.split(cut), strict=True):
            model(part, of_part + 10 * update)
        model.take_in()
    return model


def state(model: Vqvae) -> dict[str, Tensor]:
    """The codes and their averages."""
    return {
        name: value.clone() for name, value in model.state_dict().items() if "quantizer" in name
    }


def uses(model: Vqvae) -> Tensor:
    return state(model)["network.quantizer.quantizer.ema_cluster_size"]


def cells_of(model: Vqvae, image: Tensor) -> Tensor:
    with torch.no_grad():
        return model(image, SEEDS)["unquantised"].movedim(1, -1).flatten(0, -2)


# Dead codes


def test_dead_codes_take_cells_of_the_update_and_the_others_move_as_ever() -> None:
    plain, model = moved(PLAIN, 8), moved(dataclasses.replace(REVIVED, revive_below=0.0), 8)
    assert all(torch.equal(state(plain)[key], value) for key, value in state(model).items())
    model = copy.deepcopy(plain)
    model.settings = dataclasses.replace(plain.settings, vqvae=REVIVED)
    for each in (plain, model):
        each(images(20), SEEDS)
        each.take_in()
    least = 0.5 * float(uses(plain).mean())
    is_dead = uses(plain) < least
    assert 3 < int(is_dead.sum()) < CODES
    taken = places(model.codes[is_dead], cells_of(plain, images(20)))
    assert len(taken.unique()) == int(is_dead.sum()), "a cell is taken once"
    assert torch.equal(model.codes[~is_dead], plain.codes[~is_dead])
    torch.testing.assert_close(uses(model), torch.where(is_dead, least, uses(plain)))
    sums = state(model)["network.quantizer.quantizer.ema_w"]
    torch.testing.assert_close(sums[is_dead], least * model.codes[is_dead])


def places(codes: Tensor, cells: Tensor) -> Tensor:
    """The cell that each code is equal to."""
    same = torch.isclose(codes[:, None], cells, rtol=1e-5, atol=1e-6).all(dim=2)
    assert bool(same.any(dim=1).all())
    return same.int().argmax(dim=1)


def test_a_code_that_finds_no_cell_is_drawn_anew_after_the_next_update() -> None:
    model = moved(PLAIN, 8)
    model.settings = dataclasses.replace(model.settings, vqvae=REVIVED)
    model(images(20), SEEDS)
    model.take_in()
    is_new = uses(model) == uses(model).min()
    grey = torch.full((4, 1, 16, 16), 0.5)
    is_new[model(grey, SEEDS)["codes"].unique()] = False
    assert int(is_new.sum()) > 3
    model.take_in()
    places(model.codes[is_new], cells_of(model, grey))


@pytest.mark.parametrize("shape", [REVIVED, CLUSTERED, BOTH], ids=["revived", "kmeans", "both"])
def test_an_update_is_the_same_however_it_is_cut(shape: VqvaeSettings) -> None:
    whole = state(moved(shape, 6))
    for cut in (1, 2):
        for key, value in state(moved(shape, 6, cut)).items():
            torch.testing.assert_close(value, whole[key], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(state(moved(PLAIN, 6))[key], value) for key, value in whole.items())


def test_cells_are_drawn_by_the_seeds_of_the_images() -> None:
    found = moved(REVIVED, 6).codes
    with torch.random.fork_rng():
        model = make(REVIVED)
        for update in range(6):
            torch.manual_seed(update)
            model(images(update), SEEDS + 10 * update)
            model.take_in()
    assert torch.equal(model.codes, found)
    assert not torch.equal(moved(REVIVED, 6, seeds=SEEDS + 1000).codes, found)
    with pytest.raises(ValueError, match="draws from the seeds of its samples"):
        make(REVIVED)(images())
    make(PLAIN)(images())


def test_with_fewer_cells_than_dead_codes_some_stay() -> None:
    """One image of four cells."""
    plain, model = moved(PLAIN, 8), moved(PLAIN, 8)
    model.settings = dataclasses.replace(plain.settings, vqvae=REVIVED)
    for each in (plain, model):
        each(images(20)[:1, :, :4, :4], SEEDS[:1])
        each.take_in()
    is_moved = (model.codes != plain.codes).any(dim=1)
    is_dead = uses(plain) < 0.5 * uses(plain).mean()
    assert int(is_dead.sum()) > int(is_moved.sum()) == 4
    assert bool(is_dead[is_moved].all())


def test_validation_and_other_phases_revive_nothing() -> None:
    model = moved(BOTH, 6)
    before = state(model)
    model.is_heard = False
    model(images(20), SEEDS)
    model.take_in()
    model.is_heard = True
    model.eval()(images(20))
    model.take_in()
    model.train()(images(20), SEEDS)
    model.forget()
    model.take_in()
    assert all(torch.equal(before[key], value) for key, value in state(model).items())


# The start


def test_the_first_update_puts_the_codes_where_kmeans_puts_them() -> None:
    model = make(CLUSTERED)
    cells = cells_of(model, images())
    model.take_in()
    book = model.codes.double().numpy()
    assert float(uses(model).min()) == float(uses(model).max()) == 1.0
    more, _ = kmeans2(cells.double().numpy(), book, ITERATIONS)
    error, best = (
        float(np.square(cells.numpy()[:, None] - centres).sum(axis=2).min(axis=1).mean())
        for centres in (book, more)
    )
    spread = float((cells - cells.mean(dim=0)).square().sum(dim=1).mean())
    assert error < 1.1 * best < 0.2 * spread, "hardly better where it goes on from there"
    plain = state(moved(PLAIN, 1))
    assert float(plain["network.quantizer.quantizer.ema_cluster_size"].min()) < 1.0


def test_it_begins_once_also_over_a_resume() -> None:
    whole = moved(BOTH, 4)
    part = moved(BOTH, 2)
    rest = make(BOTH)
    rest.load_state_dict(part.state_dict())
    for update in (2, 3):
        rest(images(update), SEEDS + 10 * update)
        rest.take_in()
    assert all(torch.equal(state(rest)[key], value) for key, value in state(whole).items())
    taken = make(BOTH)
    taken.load_state_dict(moved(PLAIN, 2).state_dict())  # `train.init_from`
    assert taken._sample_size() == CODES, "a trained codebook begins no second time"


def test_a_skipped_first_update_leaves_the_start_to_the_next() -> None:
    model = make(CLUSTERED)
    before = model.codes.clone()
    model(images(9), SEEDS)
    model.forget()
    model.take_in()
    assert torch.equal(model.codes, before)
    model(images(0), SEEDS)
    model.take_in()
    assert torch.equal(model.codes, moved(CLUSTERED, 1).codes)


# Cells that are not finite


@pytest.mark.parametrize("shape", [PLAIN, REVIVED, BOTH], ids=["plain", "revived", "both"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_an_image_that_is_not_finite_is_nobodys_use(shape: VqvaeSettings, value: float) -> None:
    """The codebook is as if the other images had been the update, and goes on."""
    model, peer = make(shape), make(shape)
    for update in range(4):
        batch = images(update)
        peer(batch[1:], SEEDS[1:])
        batch[0] = value
        model(batch, SEEDS)
        for each in (model, peer):
            each.take_in()
        for key, found in state(model).items():
            assert bool(found.isfinite().all()), key
            torch.testing.assert_close(found, state(peer)[key], rtol=1e-4, atol=1e-5)
    before = model.codes.clone()
    model(images(7), SEEDS)
    model.take_in()
    assert bool(model.codes.isfinite().all()) and not torch.equal(model.codes, before)


def test_an_update_without_a_finite_cell_begins_nothing() -> None:
    model = make(BOTH)
    before = state(model)
    model(torch.full((4, 1, 16, 16), math.nan), SEEDS)
    model.take_in()
    assert all(torch.equal(before[key], value) for key, value in state(model).items())
    model(images(0), SEEDS)
    model.take_in()
    assert torch.equal(model.codes, moved(CLUSTERED, 1).codes)
