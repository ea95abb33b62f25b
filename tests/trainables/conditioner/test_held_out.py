"""A simulation VAE from elsewhere says which fields it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from data.fields.seen import hashes_of, packed, unpacked
from data.fields.vae_dataset import open_fields
from settings.schema import SettingsError
from trainables.conditioner.field_vae_file import trained_on


@pytest.fixture
def own(conditioner):
    """(file of the VAE that `prepare` trained, what was prepared)."""
    prepared = conditioner.prepared()
    folder = conditioner.cache / prepared.latents.relative_to(conditioner.cache).parts[0]
    (file,) = folder.rglob("vae.safetensors")
    return file, prepared


def without_hashes(file, target):
    """As an earlier version wrote it."""
    with safe_open(file, framework="pt") as opened:
        kind = json.loads(opened.metadata()["weighbridge"])
    del kind["trained_on"]
    save_file(load_file(file), target, {"weighbridge": json.dumps(kind)})
    return target


def test_a_hash_is_that_of_the_values_in_float32(tmp_path):
    fields = np.random.default_rng(0).normal(size=(6, 3, 4))
    np.save(tmp_path / "fields.npy", fields[::-1].astype("<f4"))
    turned = hashes_of(open_fields(tmp_path / "fields.npy"), np.arange(6))
    assert np.array_equal(hashes_of(fields, np.arange(6)), turned[::-1])
    assert np.unique(turned).size == 6
    assert np.array_equal(unpacked(packed(turned)), np.sort(turned))
    assert unpacked("").size == 0


def test_a_vae_knows_its_training_fields(own):
    file, prepared = own
    text, is_whole = trained_on(file)
    fields, train = open_fields(Path(prepared.arrays.fields)), prepared.arrays.indices("train")
    assert is_whole
    assert set(unpacked(text)) == set(hashes_of(fields, train))


def test_one_that_saw_fields_of_another_split_is_refused_with_the_counts(conditioner, own):
    file, prepared = own
    other = {"vae.checkpoint": str(file), "data.split_seed": 1}
    with pytest.raises(SettingsError) as refused:
        conditioner.prepared(other)
    train = set(prepared.arrays.indices("train"))
    arrays = conditioner.prepared({"data.split_seed": 1}).arrays
    for split in ("validation", "test"):
        held_out = arrays.indices(split)
        seen = len(train & set(held_out))
        counted = f"{seen} of the {len(held_out)} {split} fields"
        assert (counted in str(refused.value)) == (seen > 0)
    assert "the same data.split_seed, data.validation_share" in str(refused.value)


def test_one_of_the_same_split_is_taken_without_a_word(conditioner, own):
    changes = {"vae.checkpoint": str(own[0])}
    prepared = conditioner.prepared(changes)
    assert not prepared.warnings
    texts = [f.text for f in conditioner.system.preflight(conditioner.settings(changes), prepared)]
    assert not [text for text in texts if "vae.checkpoint" in text]


def test_one_of_an_earlier_version_is_taken_with_a_warning(conditioner, own, tmp_path):
    changes = {"vae.checkpoint": str(without_hashes(own[0], tmp_path / "old.safetensors"))}
    for _ in range(2):  # what was looked up says it again
        prepared = conditioner.prepared(changes)
        found = conditioner.system.preflight(conditioner.settings(changes), prepared)
        (text,) = (f.text for f in found if "vae.checkpoint" in f.text)
        assert "does not say which fields" in text
