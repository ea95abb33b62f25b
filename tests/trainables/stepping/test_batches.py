"""Which samples a step sees: the same for every way to cut it, each once an epoch, resumable."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from models.draws import hash63
from settings.schema import SettingsError
from trainables.parts import Loaders
from trainables.stepping.batches import Share, StepSampler, train_loader, validation_loader
from trainables.stepping.train_settings import TrainSettings

U64 = (1 << 64) - 1


class Keys(Dataset):
    """Hands back what it was asked for."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        return key


def listed(samples):
    return {"keys": samples}


LOADERS = Loaders(Keys(11), Keys(5), collate=listed)


def steps_of(size, share, seed, first, last):
    """Per step, this worker's samples in the order of its micro-batches."""
    micros = list(StepSampler(size, share, seed, first, last))
    assert len(micros) == (last - first) * share.accumulate
    cut = share.accumulate
    return [list(chain(*micros[i : i + cut])) for i in range(0, len(micros), cut)]


@given(
    size=st.integers(1, 40),
    batch=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    world=st.integers(1, 3),
    seed=st.integers(0, 1 << 40),
    first=st.integers(0, 30),
)
def test_a_step_is_the_same_however_it_is_cut(size, batch, accumulate, world, seed, first):
    whole = steps_of(size, Share(batch * accumulate * world, 1), seed, first, first + 3)
    ranks = [
        steps_of(size, Share(batch, accumulate, world, rank), seed, first, first + 3)
        for rank in range(world)
    ]
    for step, samples in enumerate(whole):
        together = [sample for rank in ranks for sample in rank[step]]
        assert sorted(together) == sorted(samples)
        assert len(set(together)) == batch * accumulate * world, "two samples share a seed"


@given(
    size=st.integers(1, 50),
    batch=st.integers(1, 7),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_every_sample_is_seen_once_an_epoch(size, batch, epochs, seed):
    steps = -(-size * epochs // batch)  # the last one may reach into the next epoch
    drawn = [i for step in steps_of(size, Share(batch, 1), seed, 0, steps) for i, _ in step]
    for epoch in range(epochs):
        assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = ([i for i, _ in steps_of(50, Share(50, 1), 0, n, n + 1)[0]] for n in range(2))
    other = [i for i, _ in steps_of(50, Share(50, 1), 1, 0, 1)[0]]
    assert len({tuple(order) for order in (first, second, other, range(50))}) == 4


@given(first=st.integers(0, 40), share=st.sampled_from([(3, 1, 1), (2, 3, 1), (2, 2, 2)]))
def test_a_training_can_be_resumed_from_any_step(first, share):
    batch, accumulate, world = share
    whole = steps_of(17, Share(batch, accumulate, world, world - 1), 5, 0, 45)
    assert steps_of(17, Share(batch, accumulate, world, world - 1), 5, first, 45) == whole[first:]


@given(st.lists(st.integers(0, U64), min_size=1, max_size=5))
def test_the_hash_is_splitmix64(parts):
    """Against the published generator, in numpy's own wrapping 64-bit arithmetic."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for part in parts:
            state = state + np.uint64(part) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    assert hash63(*parts) == int(state) >> 1


def test_the_hash_never_changes():
    """Checkpoints rely on it: other values are other samples after a resume. The first output of
    splitmix64 from state 0 is published as 0xE220A8397B1DCDAF.
    """
    assert hash63(0) == 0xE220A8397B1DCDAF >> 1
    assert [hash63(0, 1, 0), hash63(0, 2, 7), hash63(123, 3, 0, 0)] == PINNED


PINNED = [5352869105593375612, 6610530718320829396, 2182528867926667034]


def test_the_loader_gives_the_samplers_keys_also_from_processes():
    share = Share(3, 2, world=2, rank=1)
    expected = list(StepSampler(11, share, 4, 2, 6))
    for workers in (0, 2):
        loader = train_loader(LOADERS, share, 4, 2, 6, {"num_workers": workers})
        batches = list(loader)
        assert [batch["keys"] for batch in batches] == expected
        seeds = [[seed for _, seed in micro] for micro in expected]
        assert [batch["seed"].tolist() for batch in batches] == seeds


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_validation_shares_are_disjoint_and_cover_the_set(world):
    loaders = Loaders(Keys(3), Keys(11), collate=listed)
    batches = [list(validation_loader(loaders, 2, world, rank)) for rank in range(world)]
    shares = [[i for batch in share for i in batch["keys"]] for share in batches]
    assert shares == [[i for batch in share for i in batch["seed"].tolist()] for share in batches]
    assert sorted(chain(*shares)) == list(range(11))


def test_sets_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="training set is empty"):
        StepSampler(0, Share(1, 1), 0, 0, 1)
    # On every rank: one that finds nothing to measure would leave the others waiting.
    for rank in range(4):
        with pytest.raises(ValueError, match=r"3 samples .* 4 workers"):
            validation_loader(Loaders(Keys(3), Keys(3)), 2, 4, rank)


# What the DataLoader is told


def test_the_loader_is_told_of_processes_and_what_they_make_ahead():
    def told(gpu=True, **settings):
        loading = TrainSettings(**settings).loading(gpu)
        loader = train_loader(LOADERS, Share(3, 1), 0, 0, 1, loading)
        return loader.num_workers, loader.prefetch_factor, loader.pin_memory

    full = {"loader_workers": 2, "loader_prefetch": 5, "loader_pin_memory": True}
    assert told(**full) == (2, 5, True)
    assert told(gpu=False, **full) == (2, 5, False), "pinning needs a GPU"
    assert told(loader_workers=2) == (2, 2, False)
    assert told() == (0, None, False)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"loader_prefetch": 4}, "prefetch=4"), ({"loader_pin_memory": True}, "pin_memory=true")],
)
def test_what_is_made_ahead_needs_processes_that_make_it(settings, key):
    with pytest.raises(SettingsError, match=rf"loader_{key} .*loader_workers=0 has none.*Use"):
        TrainSettings(**settings)
