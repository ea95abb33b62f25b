"""Fields from a file or embedded: split, range, samples, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from data.fields.vae_dataset import (
    DataSettings,
    FieldData,
    blocks_of,
    open_fields,
    prepare,
    split_fields,
)
from settings.schema import SettingsError


@pytest.fixture
def file(tmp_path):
    values = np.random.default_rng(0).normal(size=(10, 4, 6)).astype(np.float32)
    path = tmp_path / "fields.npy"
    np.save(path, values)
    return path


def test_the_split_is_disjoint_and_the_range_is_that_of_training(file):
    values = np.load(file)
    found = split_fields(file, np.array([7, 2, 3, 2]))
    assert found.train == (2, 3, 7)
    assert found.validation == (0, 1, 4, 5, 6, 8, 9)
    assert found.shape == (10, 4, 6)
    train = values[[2, 3, 7]]
    assert (found.low, found.high) == (float(train.min()), float(train.max()))
    joined = torch.cat(list(blocks_of(found)))
    np.testing.assert_array_equal(joined.numpy(), train)
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own bytes


def test_a_file_is_split_by_its_indices_or_at_random(file, tmp_path):
    np.save(tmp_path / "train.npy", np.arange(6))
    named = DataSettings(fields=str(file), train_indices=str(tmp_path / "train.npy"))
    assert prepare(named, tmp_path).train == tuple(range(6))
    drawn = [
        prepare(DataSettings(fields=str(file), validation_share=0.3, split_seed=seed), tmp_path)
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0].validation) == 3


def test_both_splits_have_a_sample_whatever_the_share(tmp_path):
    """0.9 of 4 rounds to 4."""
    path = tmp_path / "few.npy"
    np.save(path, np.arange(16.0, dtype=np.float32).reshape(4, 2, 2))
    for share, train in ((0.9, 1), (0.01, 3)):
        fields = prepare(DataSettings(fields=str(path), validation_share=share), tmp_path)
        assert (len(fields.train), len(fields.validation)) == (train, 4 - train)
    np.save(path, np.ones((1, 2, 2), np.float32))
    with pytest.raises(ValueError, match=r"few\.npy: expected samples for .*, found 1"):
        prepare(DataSettings(fields=str(path)), tmp_path)


def test_embedded_fields_are_made_once_and_are_a_function_of_the_seed(tmp_path):
    small = {"count": 6, "test_count": 2, "length": 5, "probes_per_side": 3}
    one = prepare(DataSettings(**small), tmp_path)
    before = one.path, open_fields_bytes(one.path)
    again = prepare(DataSettings(**small), tmp_path)
    assert (again.path, open_fields_bytes(again.path)) == before
    other = prepare(DataSettings(**small, seed=1), tmp_path)
    assert one.shape == (8, 5, 9)
    assert not np.array_equal(np.load(one.path), np.load(other.path))


def test_embedded_fields_for_a_test_come_on_top(tmp_path):
    """Training and validation are what they are without them."""
    small = {"count": 6, "length": 5, "probes_per_side": 3}
    most, fewer = (prepare(DataSettings(**small, test_count=n), tmp_path) for n in (2, 0))
    assert (most.test, fewer.test) == ((6, 7), ())
    assert (most.train, most.validation) == (fewer.train, fewer.validation)
    assert (most.low, most.high) == (fewer.low, fewer.high)
    np.testing.assert_array_equal(np.load(most.path)[:6], np.load(fewer.path))


def open_fields_bytes(path):
    return open(path, "rb").read()


def test_a_sample_is_a_function_of_index_and_seed(file):
    found = split_fields(file, np.arange(8))
    data = FieldData(found, found.train, 5, (2, 3))
    sample = data[(4, 11)]
    np.testing.assert_array_equal(sample["field"].numpy(), np.load(file)[4])
    assert sample["noise_main"].shape == (5,)
    assert sample["noise_hier"].shape == (2, 3, 4)
    torch.manual_seed(99)
    assert all(torch.equal(value, sample[key]) for key, value in data[(4, 11)].items())
    assert not torch.equal(data[(4, 12)]["noise_main"], sample["noise_main"])
    assert data[4].keys() == {"field"}
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - our own bytes
    assert torch.equal(copy[(4, 11)]["noise_hier"], sample["noise_hier"])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "training indices are none"),
        ([0, 10], r"has samples 0 \.\. 9, and the training indices are 0 \.\. 10"),
        ([-1, 2], "training indices are -1"),
        (range(10), "none is left for validation"),
    ],
)
def test_impossible_splits_are_refused(file, train, message):
    with pytest.raises(ValueError, match=message):
        split_fields(file, np.array(train))


def test_bad_files_are_named(tmp_path, file):
    with pytest.raises(FileNotFoundError, match="no such file of fields"):
        open_fields(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("fields")
    with pytest.raises(ValueError, match=r"text\.npy cannot be read as \.npy"):
        open_fields(tmp_path / "text.npy")
    np.save(tmp_path / "flat.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"found float64 \[3, 4\]"):
        open_fields(tmp_path / "flat.npy")
    values = np.load(file)
    values[3, 1, 1] = np.nan
    np.save(file, values)
    with pytest.raises(ValueError, match="fields 3 hold NaN"):
        split_fields(file, np.arange(5))
    assert split_fields(file, np.arange(4, 8)).low < 0  # validation is not looked at
    with pytest.raises(SettingsError, match="belongs to a file of fields"):
        DataSettings(train_indices="train.npy")
