"""Mixing of batches: against the formulas of its papers, by seeds alone, never on masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader, Dataset, default_collate

from data.mri.batch_augment import (
    BatchAugment,
    BatchAugmentSettings,
    add_box,
    add_mosaic,
    blended,
    pasted,
)

SLICE, VOLUME = (16, 12), (6, 12, 16)
MAPS = ("mask", "region", "lesion")
ALL = dict.fromkeys(("mixup_prob", "cutmix_prob", "mosaic_prob", "copy_paste_prob"), 1.0)
NONE = dict.fromkeys(ALL, 0.0)


def sample_of(number, space=SLICE, modality=0, maps=True, lesions=True):
    """Image values in [number, number + 0.5] / 16, so a pixel says whose it is."""
    rng = np.random.default_rng(number)
    image = (number + 0.5 * rng.random((2, *space))) / 16
    lesion = rng.integers(0, 4, (1, *space)) * lesions
    sample = {
        "image": torch.from_numpy(image.astype(np.float32)),
        "mask": torch.from_numpy((lesion > 0).astype(np.float32)),
        "modality": torch.tensor(modality),
        "spacing": torch.ones(len(space)),
        "seed": torch.tensor(1000 + number),
    }
    if maps:
        size = np.where(lesion > 0, 1 + number % 4, 0)
        sample["region"] = torch.from_numpy(size.astype(np.uint8))
        sample["lesion"] = torch.from_numpy(lesion.astype(np.uint8))
    return sample


def mixer(**changes):
    return BatchAugment(BatchAugmentSettings(enabled=True, **changes))


def without_seed(samples):
    return [{k: v for k, v in s.items() if k != "seed"} for s in samples]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def owners(image):
    """Whose pixel it is, [*S]; both channels agree."""
    whose = (image * 16).floor().long()
    assert torch.equal(whose[0], whose[1])
    return whose[0]


def test_disabled_and_without_seeds_it_is_the_default():
    samples = [sample_of(i) for i in range(4)]
    wanted = default_collate(samples)
    assert equal(BatchAugment(BatchAugmentSettings())(samples), wanted)
    assert equal(mixer(**NONE)(samples), wanted)
    bare = without_seed(samples)
    assert equal(mixer(**ALL)(bare), default_collate(bare))


def test_every_sample_keeps_its_own_seed_mixed_or_not():
    samples = [sample_of(i) for i in range(4)]
    for batch in (BatchAugment(BatchAugmentSettings())(samples), mixer(**ALL)(samples)):
        assert batch["seed"].tolist() == [1000, 1001, 1002, 1003]
        assert batch["seed"].dtype == torch.int64


@pytest.mark.parametrize("space", [SLICE, VOLUME])
def test_a_batch_is_a_function_of_samples_and_seeds(space):
    samples = [sample_of(i, space) for i in range(4)]
    copies = [{k: v.clone() for k, v in s.items()} for s in samples]
    first, again = mixer(**ALL)(samples), mixer(**ALL)(copies)
    assert equal(first, again)
    assert all(equal(s, c) for s, c in zip(samples, copies, strict=True)), "never written to"
    assert not torch.equal(first["image"], default_collate(without_seed(samples))["image"])
    # another seed of one sample changes that sample alone
    samples[2] = {**samples[2], "seed": torch.tensor(5)}
    other = mixer(**ALL)(samples)
    same = [torch.equal(first["image"][i], other["image"][i]) for i in range(4)]
    assert same == [True, True, False, True]
    for name in MAPS:
        assert first[name].dtype == samples[0][name].dtype
        assert first[name].shape == (4, 1, *space)
    assert first["image"].dtype == torch.float32


class Samples(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, key):
        index, seed = key
        return {**sample_of(index), "seed": torch.tensor(seed)}


def test_workers_make_the_same_batches():
    keys = [[(i, 7 * i + epoch) for i in range(4 * b, 4 * b + 4)] for epoch in (0, 1)
            for b in range(3)]
    here, there = (
        list(DataLoader(Samples(), batch_sampler=keys, num_workers=n, collate_fn=mixer(**ALL)))
        for n in (0, 2)
    )
    assert len(here) == len(there) == 6
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))
    assert not torch.equal(here[0]["image"], here[3]["image"])


def test_masks_are_never_mixed():
    """001-M26"""
    samples = [sample_of(i, modality=4) for i in range(4)]
    assert equal(mixer(**ALL)(samples), default_collate(samples))


def test_partners_are_of_the_same_modality_and_another_sample():
    samples = [sample_of(i, modality=(0, 1, 0, 1, 2)[i]) for i in range(5)]
    batch = mixer(**{**ALL, "mixup_prob": 0.0})(samples)
    for i, allowed in enumerate(({0, 2}, {1, 3}, {0, 2}, {1, 3}, {4})):
        assert set(owners(batch["image"][i]).unique().tolist()) <= allowed
    assert torch.equal(batch["image"][4], samples[4]["image"])
    alone = [sample_of(0)]
    assert equal(mixer(**ALL)(alone), default_collate(alone))


@given(share=st.floats(0.0, 1.0))
def test_mixup_is_its_formula_and_keeps_the_maps_of_the_stronger(share):
    own, other = sample_of(1), sample_of(2)
    out = blended(own, other, share)
    stronger = max(share, 1 - share)
    wanted = stronger * own["image"].double() + (1 - stronger) * other["image"].double()
    torch.testing.assert_close(out["image"].double(), wanted, atol=1e-6, rtol=0.0)
    assert all(out[name] is own[name] for name in (*MAPS, "modality", "spacing"))


def test_mixup_alone_leaves_every_mask():
    samples = [sample_of(i) for i in range(4)]
    batch, plain = mixer(**NONE | {"mixup_prob": 1.0})(samples), default_collate(samples)
    for name in MAPS:
        assert torch.equal(batch[name], plain[name])
    for i in range(4):
        assert not torch.equal(batch["image"][i], plain["image"][i])


@pytest.mark.parametrize("space", [SLICE, VOLUME])
def test_cutmix_is_a_box_of_which_the_maps_follow(space):
    own, other = sample_of(1, space), sample_of(2, space)
    shares = []
    for seed in range(150):
        out = add_box(own, other, 1.0, np.random.default_rng(seed))
        inside = owners(out["image"]) == 2
        rng = np.random.default_rng(seed)  # the paper's, with numpy: λ, then the middle
        side = np.sqrt(1 - rng.beta(1.0, 1.0)) if len(space) == 2 else np.cbrt(1 - rng.beta(1, 1))
        middles = [rng.uniform(0, n) for n in space]
        edges = [(m - side * n / 2, m + side * n / 2) for m, n in zip(middles, space, strict=True)]
        wanted = np.ones(space, bool)
        for axis, (low, high) in enumerate(edges):
            place = np.arange(space[axis]) + 0.5
            row = (place >= low) & (place < high)
            wanted &= row.reshape([-1 if i == axis else 1 for i in range(len(space))])
        assert np.array_equal(inside.numpy(), wanted)
        shares.append(side ** len(space))
        for name in ("mask", "region"):
            assert torch.equal(out[name][0], torch.where(inside, other[name][0], own[name][0]))
        assert torch.equal(out["lesion"] > 0, out["mask"] > 0)
    assert stats.kstest(shares, stats.uniform(0, 1).cdf).pvalue > 1e-3


@pytest.mark.parametrize("space", [SLICE, VOLUME])
@pytest.mark.parametrize("partners", [1, 3, 6])
def test_mosaic_has_four_quarters_that_meet_in_the_middle_half(space, partners):
    own, others = sample_of(0, space), [sample_of(i, space) for i in range(1, 1 + partners)]
    everyone = [own, *others]
    H, W = space[-2:]
    for seed in range(12):
        out = add_mosaic(own, others, np.random.default_rng(seed))
        whose = owners(out["image"])
        plane = whose.reshape(-1, H, W)[0]
        assert (whose == plane).all(), "all slices alike"
        met = {
            (y, x)
            for y in range(round(H / 4), round(3 * H / 4) + 1)
            for x in range(round(W / 4), round(3 * W / 4) + 1)
            if all(
                len(part.unique()) == 1
                for rows in (plane[:y], plane[y:])
                for part in (rows[:, :x], rows[:, x:])
            )
        }
        assert met
        found = set(plane.unique().tolist())
        assert 0 in found
        assert len(found) == min(partners, 3) + 1 or partners < 3
        for i, sample in enumerate(everyone):
            for name in ("image", "mask", "region"):
                here = whose == i
                assert torch.equal(out[name][:, here], sample[name][:, here])


def test_copy_paste_brings_lesions_with_their_masks_and_new_numbers():
    own, other = sample_of(1), sample_of(2)
    where = other["mask"] > 0
    out = pasted(own, other, where)
    assert torch.equal(out["mask"], torch.maximum(own["mask"], other["mask"]))
    assert torch.equal(out["image"], torch.where(where, other["image"], own["image"]))
    assert torch.equal(out["region"], torch.where(where, other["region"], own["region"]))
    last = own["lesion"].max()
    assert torch.equal(out["lesion"], torch.where(where, other["lesion"] + last, own["lesion"]))
    most = {**own, "lesion": torch.full_like(own["lesion"], 254)}
    assert set(pasted(most, other, where)["lesion"].unique().tolist()) == {254, 255}


def test_copy_paste_takes_who_has_lesions():
    samples = [sample_of(i, lesions=i == 3) for i in range(4)]
    batch = mixer(**NONE | {"copy_paste_prob": 1.0})(samples)
    for i in range(3):
        assert torch.equal(batch["mask"][i], samples[3]["mask"])
        assert torch.equal(owners(batch["image"][i]) == 3, samples[3]["mask"][0] > 0)
    assert torch.equal(batch["image"][3], samples[3]["image"]), "nobody has lesions for it"


def test_training_without_maps():
    samples = [sample_of(i, maps=False) for i in range(4)]
    batch = mixer(**ALL)(samples)
    assert set(batch) == {"image", "mask", "modality", "spacing", "seed"}


def test_the_probabilities_are_shares_of_samples():
    assert BatchAugmentSettings() == BatchAugmentSettings(
        enabled=False, mixup_prob=0.2, cutmix_prob=0.2, mosaic_prob=0.2, copy_paste_prob=0.3
    )
    for name in ALL:
        changed = 0
        one = mixer(**NONE | {name: 0.3}, beta=5.0)
        for seed in range(60):
            samples = [
                {**sample_of(i, (4, 4)), "seed": torch.tensor(4 * seed + i)} for i in (0, 1, 2, 3)
            ]
            batch = one(samples)
            changed += sum(
                not torch.equal(batch["image"][i], samples[i]["image"]) for i in range(4)
            )
        assert stats.binomtest(changed, 240, 0.3).pvalue > 1e-3, name
