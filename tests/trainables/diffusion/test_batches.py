"""Batches of one modality, where images of several are trained together."""

from __future__ import annotations

from itertools import chain, groupby

import pytest

from settings.flat import replace
from settings.schema import SettingsError
from trainables.contract.examined import Examined
from trainables.contract.training import resumes_exactly
from trainables.diffusion.system import Diffusion
from trainables.stepping.batches import Share, StepSampler

SYSTEM = Diffusion()
MULTI = {
    "data.group": "multi_modality",
    "condition.mode.enabled": True,
    "train.batch_size": 4,
}


def opened(cache, **changes):
    """(the training samples, their order, whether it is one of its own)"""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **MULTI, **named})
    loaders = SYSTEM.loaders(settings, SYSTEM.prepare(settings, cache))
    return loaders.train, loaders.order


def drawn(loaders, share, first=0, last=24):
    """Micro-batches as indices, of one rank."""
    train, order = loaders
    sampler = StepSampler(len(train), share, 3, first, last, order)
    return [[index for index, _ in micro] for micro in sampler]


def modalities(loaders, micros):
    """Of each micro-batch, those of its samples as the network is told them."""
    train, _ = loaders
    return [{int(train[(index, 0)]["modality"]) for index in micro} for micro in micros]


def test_the_order_of_before_is_the_default(shared_cache):
    loaders = opened(shared_cache)
    assert loaders[1] is None
    assert max(map(len, modalities(loaders, drawn(loaders, Share(4, 1))))) > 1


@pytest.mark.parametrize("batches", ["grouped", "in_turn"])
def test_a_batch_is_of_one_modality_and_each_has_as_many(shared_cache, batches):
    """21 slices of each of 4 modalities: 7 batches of 3 each, an epoch of 28."""
    loaders = opened(shared_cache, condition__mode__batches=batches)
    assert len(loaders[0]) == 84
    epochs = drawn(loaders, Share(3, 1), last=56)
    for micros in (epochs[:28], epochs[28:]):
        assert sorted(chain(*micros)) == list(range(84))
        found = modalities(loaders, micros)
        assert all(len(one) == 1 for one in found)
        runs = len(list(groupby(found)))
        assert runs == 4 if batches == "in_turn" else runs > 8
    assert epochs[:28] != epochs[28:]


@pytest.mark.parametrize("batches", ["grouped", "in_turn"])
def test_two_workers_have_the_batches_of_one_and_a_resume_goes_on(shared_cache, batches):
    loaders = opened(shared_cache, condition__mode__batches=batches)
    alone = drawn(loaders, Share(4, 1))
    ranks = [drawn(loaders, Share(2, 1, 2, rank)) for rank in range(2)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == alone
    again = opened(shared_cache, condition__mode__batches=batches)
    assert drawn(again, Share(4, 1), first=11) == alone[11:]


def test_batches_of_one_modality_need_several(shared_cache):
    with pytest.raises(SettingsError, match=r"condition\.mode\.batches=grouped"):
        replace(SYSTEM.Settings(), {"condition.mode.batches": "grouped"})


@pytest.mark.slow
def test_a_training_with_batches_of_one_modality_resumes_to_the_bit(shared_cache):
    changes = {**MULTI, "condition.mode.batches": "grouped", "train.steps": 4}
    examined = Examined(SYSTEM, shared_cache, changes)
    assert [str(fault) for fault in resumes_exactly(examined)] == []


@pytest.mark.slow
def test_latents_of_several_modalities_are_grouped_as_their_images(
    shared_cache, autoencoders, latents
):
    changes = {**MULTI, "condition.mode.batches": "grouped"}
    settings = latents.settings(autoencoders("vae"), **changes)
    loaders = SYSTEM.loaders(settings, SYSTEM.prepare(settings, shared_cache))
    opened = loaders.train, loaders.order
    found = modalities(opened, drawn(opened, Share(4, 1)))
    assert all(len(one) == 1 for one in found)
    assert len(set().union(*found)) == 4
