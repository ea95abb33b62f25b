"""Samples: their target and references, by their seed alone."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from data.style.dataset import open_split, prepare
from data.style.settings import DataSettings, PairSettings
from settings.flat import leaves, replace
from settings.schema import SettingsError

FIELDS = DataSettings(
    source="fields", field_channels=2, field_side=4, crops=24, held_out_crops=8, references=3
)
STYLES = len(FIELDS.field_lengths)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(FIELDS, tmp_path_factory.mktemp("cache"))


def opened(prepared, split="train", **changes):
    drawn = {key: value for key, value in changes.items() if key in leaves(PairSettings)}
    settings = replace(FIELDS, {key: changes[key] for key in changes.keys() - drawn.keys()})
    return open_split(prepared, split, settings, replace(PairSettings(), drawn))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def draws(samples, count=600):
    return [samples[(n % len(samples), n)] for n in range(count)]


def test_a_sample_is_drawn_by_its_seed_whatever_was_drawn_before(prepared):
    first, second = opened(prepared), opened(prepared)
    forwards = [first[(n, 100 + n)] for n in range(20)]
    backwards = [second[(n, 100 + n)] for n in reversed(range(20))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not same(first[(3, 5)], first[(3, 6)])
    assert first[(3, 5)]["seed"] == 5
    assert first[(3, 2**63 - 1)]["references"].shape == (3, 2, 4, 4)


def test_validation_is_the_same_each_time_and_has_every_other_style(prepared):
    samples, again = opened(prepared, "validation"), opened(prepared, "validation")
    assert len(samples) == STYLES * 8 * (STYLES - 1)
    assert all(same(samples[n], again[n]) for n in range(len(samples)))
    seen = Counter(
        (int(s["style"]), int(s["target"])) for s in map(samples.__getitem__, range(48))
    )
    assert set(seen.values()) == {8}
    assert len(seen) == STYLES * (STYLES - 1)
    assert samples.units[:2] == ["field_0/0 as field_1", "field_0/0 as field_2"]
    few = opened(prepared, "validation", validation_samples=7)
    assert len(few) == 7
    assert len(set(few.units)) == 7


def test_references_are_others_of_the_target_style(prepared):
    samples = opened(prepared, identity_share=0.5)
    for sample in draws(samples, 200):
        members = torch.from_numpy(samples.latents[samples.members[int(sample["target"])]].copy())
        found = {
            int((members == reference).flatten(1).all(dim=1).nonzero()[0])
            for reference in sample["references"]
        }
        assert len(found) == 3
        assert not (sample["references"] == sample["latent"]).flatten(1).all(dim=1).any()


def test_pooled_references_are_of_all_styles_and_leave_the_others_as_they_are(prepared):
    samples, plain = opened(prepared, pooled_references=True), opened(prepared)
    everything = torch.from_numpy(samples.latents.copy())
    styles = Counter()
    for n, sample in enumerate(draws(samples, 300)):
        pooled = sample.pop("pooled_references")
        assert same(sample, plain[(n % len(plain), n)])
        assert not (pooled == sample["latent"]).flatten(1).all(dim=1).any()
        rows = [int((everything == one).flatten(1).all(dim=1).nonzero()[0]) for one in pooled]
        assert len(set(rows)) == 3
        styles.update(samples.styles[rows].tolist())
    assert all(styles[style] == pytest.approx(300, abs=60) for style in range(STYLES))


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_target_differs_from_the_source_but_for_a_share(prepared, share):
    found = draws(opened(prepared, identity_share=share))
    own = np.mean([bool(s["style"] == s["target"]) for s in found])
    assert own == pytest.approx(share, abs=3 * (share * (1 - share) / len(found)) ** 0.5)
    others = Counter(int(s["target"]) for s in found if s["style"] == 0 and s["target"] != 0)
    assert set(others) == {1, 2}
    assert others[1] == pytest.approx(others[2], rel=0.4)


def test_permuted_targets_are_the_source_s_own_by_its_share(prepared):
    """002-M12: with as many latents of each of 3 styles, in a third of the samples."""
    found = draws(opened(prepared, targets="permuted"))
    own = np.mean([bool(s["style"] == s["target"]) for s in found])
    assert own == pytest.approx(1 / 3, abs=3 * (2 / 9 / len(found)) ** 0.5)


def test_one_style_may_be_the_content(prepared):
    samples = opened(prepared, content="field_1")
    assert len(samples) == 24
    assert {int(s["style"]) for s in draws(samples, 50)} == {1}
    assert {int(s["target"]) for s in draws(samples, 50)} == {0, 2}
    pairs = opened(prepared, "validation", content="field_1")
    assert {unit.split("/")[0] for unit in pairs.units} == {"field_1"}


def test_pairs_tell_an_order_their_targets(prepared):
    samples = opened(prepared, target_by="pair")
    assert len(samples) == 2 * 72
    assert samples.targets == [int(samples[(n, 9)]["target"]) for n in range(len(samples))]
    assert Counter(samples.targets) == {0: 48, 1: 48, 2: 48}
    with pytest.raises(ValueError, match=r"Set pairs.target_by=pair"):
        assert opened(prepared).targets


def test_a_copy_in_another_process_maps_the_file_anew(prepared):
    samples = opened(prepared)
    before = samples[(3, 4)]
    state = pickle.dumps(samples)
    assert len(state) < 20_000
    copy = pickle.loads(pickle.dumps(samples))  # noqa: S301
    assert same(copy[(3, 4)], before)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"validation_share": 0.5, "test_share": 0.5}, "must leave something to train on"),
        ({"source": "folder"}, "data.source=folder needs data.root"),
        ({"root": "latents"}, "reads no folder, but data.root=latents is given"),
        ({"field_lengths": (1.0,)}, "a length for each of 2 styles or more"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, said):
    with pytest.raises(SettingsError, match=said):
        replace(FIELDS, changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_by": "pair", "identity_share": 0.1}, "pairs.target_by=pair has each target but"),
        ({"targets": "permuted", "identity_share": 0.1}, "has an identity share of its own"),
    ],
)
def test_targets_that_contradict_each_other_are_refused(changes, said):
    with pytest.raises(SettingsError, match=said):
        replace(PairSettings(), changes)
