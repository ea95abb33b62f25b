"""Latents as samples: what a sample has, and what goes along to another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.files import DataError
from data.latent_samples import LatentSamples
from data.latents import FACTS, LatentBatch, read_latents, write_latents

SHAPE, SPACE = (3, 4, 2, 2), (4, 6, 6)
EDGES_MM = (0.0, 3.0, 6.0, 10.0, 15.0, 20.0, 30.0)
BEFORE = Path(__file__).parents[1] / "compatibility" / "fixtures" / "latents.arrow"


def batch(split: str, count: int, seed: int) -> LatentBatch:
    """Volumes of noise; every second one has lesions."""
    rng = np.random.default_rng(seed)
    mask = rng.random((count, *SPACE)) > 0.7
    mask[1::2] = False
    return LatentBatch(
        split,
        rng.normal(2.0, 3.0, (count, *SHAPE)).astype(np.float32),
        modality=rng.integers(0, 4, count),
        patient=np.arange(count) % 3,
        slice=np.full(count, -1),
        spacing=rng.random((count, 3)).astype(np.float32),
        affine=rng.random((count, 4, 4)),
        inside=np.stack([np.arange(count) % 2, np.full(count, 4)], axis=1),
        mask=mask,
        lesions_mm=[40.0 * rng.random(5 * (1 - i % 2)) for i in range(count)],
    )


def write(path: Path, count: int = 8, seed: int = 0) -> list[LatentBatch]:
    made = [batch("train", count, seed), batch("validation", 5, seed + 1)]
    of_train = made[0].latent.astype(np.float64)
    own = {
        "image_shape": [1, *SPACE],
        "latent_shape": list(SHAPE),
        "shift": of_train.mean(),
        "scale_factor": 1.0 / of_train.std(),
        "channel_mean": of_train.mean(axis=(0, 2, 3, 4)).tolist(),
        "channel_std": of_train.std(axis=(0, 2, 3, 4)).tolist(),
        "patients": {"train": ["a", "b", "c"], "validation": ["d", "e", "f"]},
    }
    write_latents(path, made, lambda: {**dict.fromkeys(FACTS, "x"), **own})
    return made


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[Path, list[LatentBatch]]:
    path = tmp_path_factory.mktemp("latents") / "a.arrow"
    return path, write(path)


def test_a_sample_has_the_latent_and_what_it_is_of(stored):
    path, (train, validation) = stored
    samples = LatentSamples(path, "train", bin_edges_mm=EDGES_MM)
    assert len(samples) == 8
    for i in range(8):
        sample = samples[(i, 2**62 + i)]
        wide = train.latent.astype(np.float64)
        wanted = (wide[i] - wide.mean()) / wide.std()
        assert np.allclose(sample["latent"], wanted, atol=1e-6)
        assert sample["latent"].dtype == torch.float32
        assert np.array_equal(sample["mask"][0].bool(), train.mask[i])
        assert sample["mask"].shape == (1, *SPACE)
        assert np.array_equal(sample["spacing"], train.spacing[i])
        assert sample["inside"].tolist() == train.inside[i].tolist()
        assert int(sample["modality"]) == train.modality[i]
        assert int(sample["seed"]) == 2**62 + i
        found = np.asarray(train.lesions_mm[i], np.float32)
        pairs = zip(EDGES_MM, (*EDGES_MM[1:], np.inf), strict=True)
        assert sample["lesion_counts"].tolist() == [
            int(((found >= low) & (found < high)).sum()) for low, high in pairs
        ]
    plain = LatentSamples(path, "validation")[1]
    assert plain.keys() == {"latent", "modality", "spacing", "inside", "mask"}
    assert np.array_equal(plain["spacing"], validation.spacing[1])
    with pytest.raises(IndexError, match=r"validation has samples 0 \.\. 4, not 5"):
        LatentSamples(path, "validation")[5]


def test_the_seed_changes_nothing_but_itself(stored):
    samples = LatentSamples(stored[0], "train")
    one, other, without = samples[(3, 1)], samples[(3, 2)], samples[3]
    for name, value in without.items():
        assert torch.equal(one[name], value)
        assert torch.equal(other[name], value)
    assert one.keys() - without.keys() == {"seed"}


def test_scales_and_their_inverse(stored):
    path, (train, _) = stored
    each = LatentSamples(path, "train", scale="channel")
    whole = np.stack([each[i]["latent"] for i in range(8)]).astype(np.float64)
    assert np.allclose(whole.mean(axis=(0, 2, 3, 4)), 0.0, atol=1e-6)
    assert np.allclose(whole.std(axis=(0, 2, 3, 4)), 1.0, atol=1e-6)
    back = each.latents.restored(each[5]["latent"].numpy(), per_channel=True)
    assert np.allclose(back, train.latent[5], rtol=1e-6, atol=1e-6)
    raw = LatentSamples(path, "train", scale="none")[5]["latent"]
    assert np.array_equal(raw, train.latent[5])
    raw += 1.0  # a copy: the file stays
    assert np.array_equal(LatentSamples(path, "train", scale="none")[5]["latent"], train.latent[5])


def test_units_are_patients_and_a_subset_is_spread(stored):
    path, (_, validation) = stored
    assert LatentSamples(path, "validation").units == ["d", "e", "f", "d", "e"]
    few = LatentSamples(path, "validation", most=3)
    assert few.units == ["d", "f", "e"]
    assert np.array_equal(few[1]["spacing"], validation.spacing[2])
    with pytest.raises(DataError, match=r"of the split 'test', found those of train, validation"):
        LatentSamples(path, "test")


def test_a_pickle_has_the_path_and_no_sample(tmp_path):
    sizes = []
    for count in (8, 400):
        write(tmp_path / f"{count}.arrow", count)
        samples = LatentSamples(
            tmp_path / f"{count}.arrow", "train", scale="channel", bin_edges_mm=EDGES_MM
        )
        assert samples[0]["mask"].sum() > 0
        assert samples.latents.affine is not None
        sizes.append(len(pickle.dumps(samples)))
    assert sizes[1] <= sizes[0] + 16
    assert sizes[1] < 1000
    again = pickle.loads(pickle.dumps(samples))  # noqa: S301 - our own bytes
    assert len(again) == 400
    assert all(torch.equal(again[399][name], value) for name, value in samples[399].items())


def test_a_copy_refuses_a_file_that_has_become_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a.arrow"))
    sent = pickle.dumps(LatentSamples(Path("a.arrow"), "train"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert len(pickle.loads(sent)) == 8  # noqa: S301 - our own bytes
    write(tmp_path / "a.arrow", seed=3)
    with pytest.raises(DataError, match="found a file of others"):
        pickle.loads(sent)  # noqa: S301 - our own bytes


@pytest.mark.slow
def test_workers_that_are_spawned_open_the_file_anew(stored):
    samples = LatentSamples(stored[0], "train")
    keys = [[(3, 5), (0, 6)], [(7, 7), (7, 8)]]
    loader = DataLoader(
        samples, batch_sampler=keys, num_workers=1, multiprocessing_context="spawn"
    )
    for found, wanted in zip(loader, keys, strict=True):
        here = [samples[key] for key in wanted]
        assert found["seed"].tolist() == [seed for _, seed in wanted]
        for name in here[0]:
            assert torch.equal(found[name], torch.stack([sample[name] for sample in here]))


def test_a_file_of_an_earlier_version_has_less_and_says_what():
    samples = LatentSamples(BEFORE, "train", scale="channel")
    assert samples[(0, 4)].keys() == {"latent", "modality", "seed"}
    assert samples[2]["latent"].shape == (3, 8, 8)
    assert samples.units == ["1"] * 3
    assert samples.latents.absent == ("spacing", "affine", "inside", "mask", "lesions_mm")
    with pytest.raises(DataError, match=r"expected lesions_mm of every sample, found none"):
        LatentSamples(BEFORE, "train", bin_edges_mm=EDGES_MM)


def test_latents_themselves_travel_as_their_path(stored):
    found = read_latents(stored[0])
    assert len(pickle.dumps(found)) < 500
    again = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own bytes
    assert np.array_equal(again.latent(7), found.latent(7))
