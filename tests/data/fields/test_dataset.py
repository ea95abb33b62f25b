"""Settings, conversion, split, and the samples of the conditioner."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Subset, default_collate

from data.fields.augment import AugmentSettings
from data.fields.dataset import Arrays, DataSettings, prepare_arrays
from data.fields.outlines import samples
from data.fields.samples import ConditionerData, collate
from data.files import DataError
from settings.flat import leaves, replace
from settings.schema import SettingsError

SMALL = DataSettings(count=20, test_count=3, image_size=16, times=4, probes_per_side=3)
OFTEN = AugmentSettings(
    outer_probability=0.9,
    inner_probability=0.9,
    mixup_probability=0.3,
    noise_probability=0.3,
    flip_symmetric=True,
)
KEYS = {"image", "main", "hier", "paired", "paired_valid"}


def write_latents(folder: Path, count: int) -> Path:
    """Latents that tell the sample: main[p] = p + j/10."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.arange(count, dtype=np.float32)
    np.save(folder / "main.npy", rows[:, None] + np.arange(4, dtype=np.float32) / 10)
    np.save(folder / "hier.npy", rows[:, None, None] * np.ones((1, 3, 2), np.float32))
    return folder


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> Arrays:
    return prepare_arrays(SMALL, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    return write_latents(tmp_path_factory.mktemp("latents"), SMALL.count + SMALL.test_count)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.zeros((16, 16), np.uint8)
        pixels[4:12, 4:12] = 10 * i + 5
        Image.fromarray(pixels).save(folder / f"img{i}.png")
    return folder


def folder_settings(images: Path, targets: Path, **changes) -> DataSettings:
    return replace(
        DataSettings(),
        {
            "source": "folder",
            "images": str(images),
            "targets": str(targets),
            "image_size": 16,
            **changes,
        },
    )


def test_generated_arrays_are_the_generators(arrays):
    images, fields = np.load(arrays.images_file), np.load(arrays.fields)
    assert np.load(arrays.fields, mmap_mode="r").shape[1:] == (4, 9)
    for row, (image, field) in enumerate(samples(23, 0, 16, 4, 3, False)):
        np.testing.assert_allclose(images[row, 0] / 255.0, image, atol=0.5 / 255 + 1e-9)
        np.testing.assert_allclose(fields[row], field, rtol=1e-6)
    assert arrays.notes == {"samples": 23.0, "train": 16.0, "validation": 4.0, "test": 3.0}


def test_generated_samples_for_a_test_come_on_top(arrays, tmp_path):
    """Training and validation are what they are without them."""
    without = prepare_arrays(replace(SMALL, {"test_count": 0}), tmp_path)
    for split in ("train", "validation"):
        assert arrays.indices(split).tolist() == without.indices(split).tolist()
    assert arrays.indices("test").tolist() == [20, 21, 22]
    assert not len(without.indices("test"))
    for name in ("images_file", "fields"):
        most, fewer = np.load(getattr(arrays, name)), np.load(getattr(without, name))
        np.testing.assert_array_equal(most[:20], fewer)


def test_a_folders_test_is_taken_out_of_those_to_train_on(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((20, 4, 9), np.float32))
    images = write_images(tmp_path / "images", 20)
    none, fifth = (
        prepare_arrays(
            folder_settings(images, tmp_path / "f.npy", test_share=share), tmp_path / "cache"
        )
        for share in (0.0, 0.2)
    )
    assert none.notes["test"] == 0.0
    assert fifth.notes["test"] == 4.0
    assert none.indices("validation").tolist() == fifth.indices("validation").tolist()
    train, test = (fifth.indices(split).tolist() for split in ("train", "test"))
    assert sorted(train + test) == none.indices("train").tolist()
    with pytest.raises(ValueError, match=r"data\.test_share=0\.85 takes 17 of the 16 samples"):
        prepare_arrays(
            folder_settings(images, tmp_path / "f.npy", test_share=0.85), tmp_path / "cache"
        )


@hypothesis_settings(max_examples=min(20, hypothesis_settings.default.max_examples))
@given(
    count=st.integers(2, 25),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 100),
)
def test_the_split_covers_all_and_shares_none(tmp_path_factory, count, share, seed):
    folder = tmp_path_factory.mktemp("split")
    np.save(folder / "f.npy", np.zeros((count, 2, 2), np.float32))
    Path(folder / "images").mkdir()
    for i in range(count):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(folder / "images" / f"{i}.png")
    settings = folder_settings(
        folder / "images", folder / "f.npy", validation_share=share, split_seed=seed, image_size=8
    )
    arrays = prepare_arrays(settings, folder / "cache")
    train, validation = arrays.indices("train"), arrays.indices("validation")
    assert sorted([*train, *validation]) == list(range(count))
    assert len(train) >= 1
    assert len(validation) == min(max(1, round(share * count)), count - 1)
    assert (np.diff(train) > 0).all()


def test_the_split_is_random_and_its_seeds(tmp_path):
    def split(**changes) -> list[int]:
        return prepare_arrays(replace(SMALL, changes), tmp_path).indices("validation").tolist()

    assert split() == split(validation_share=0.2)
    assert split() != split(split_seed=1)
    assert split() not in ([0, 1, 2, 3], [16, 17, 18, 19])


def test_conversion_is_done_once_and_depends_on_what_it_reads(tmp_path):
    few = replace(SMALL, {"count": 6})
    first = prepare_arrays(few, tmp_path)
    written = Path(first.folder, "images.npy").stat().st_mtime_ns
    assert prepare_arrays(replace(few, {"on_device": "never"}), tmp_path) == first
    assert Path(first.folder, "images.npy").stat().st_mtime_ns == written
    folders = {first.folder}
    for key, value in {
        "count": 5, "seed": 1, "image_size": 24, "times": 5, "probes_per_side": 2,
        "symmetric": True, "binarize_at": 9, "split_seed": 2, "validation_share": 0.5,
    }.items():
        folders.add(prepare_arrays(replace(few, {key: value}), tmp_path).folder)
    assert len(folders) == 10
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_interrupted_conversion_leaves_nothing_that_looks_complete(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((3, 2, 2), np.float32))
    images = write_images(tmp_path / "images", 3)
    (images / "img1.png").write_bytes(b"broken")
    settings = folder_settings(images, tmp_path / "f.npy")
    with pytest.raises(DataError, match=r"1 of 3 images.*\n.*img1\.png"):
        prepare_arrays(settings, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(images / "img1.png")
    prepare_arrays(settings, tmp_path / "cache")


def test_a_folder_of_users_files(tmp_path):
    fields = np.random.default_rng(0).normal(size=(12, 5, 7))
    images = write_images(tmp_path / "images", 12)
    (images / "readme.txt").write_text("x")
    np.save(tmp_path / "double.npy", fields)
    arrays = prepare_arrays(folder_settings(images, tmp_path / "double.npy"), tmp_path / "cache")
    stored = np.load(arrays.images_file)
    assert [int(stored[i].max()) for i in range(12)] == [10 * i + 5 for i in range(12)]  # natural
    assert Path(arrays.fields).parent == Path(arrays.folder)
    np.testing.assert_allclose(np.load(arrays.fields), fields, rtol=1e-6)
    assert np.load(arrays.fields).dtype == np.float32
    assert arrays.counts["other_files"] == 1
    # In float32 already: read where it lies, not stored twice.
    np.save(tmp_path / "single.npy", fields.astype(np.float32))
    arrays = prepare_arrays(folder_settings(images, tmp_path / "single.npy"), tmp_path / "cache")
    assert arrays.fields == str(tmp_path / "single.npy")
    # Another content under the same name is another data set.
    np.save(tmp_path / "single.npy", fields[:, :4].astype(np.float32))
    again = prepare_arrays(folder_settings(images, tmp_path / "single.npy"), tmp_path / "cache")
    assert again.folder != arrays.folder
    np.save(tmp_path / "few.npy", fields[:11])
    with pytest.raises(DataError, match=r"12 images in .*images and 11 samples in .*few\.npy"):
        prepare_arrays(folder_settings(images, tmp_path / "few.npy"), tmp_path / "cache")


def test_latents_of_ones_own(tmp_path):
    images, own = write_images(tmp_path / "images", 6), write_latents(tmp_path / "latents", 6)
    settings = folder_settings(images, own, kind="latents")
    arrays = prepare_arrays(settings, tmp_path / "cache")
    assert arrays.fields == ""
    data = ConditionerData(arrays, Path(arrays.latents), "validation", AugmentSettings())
    assert set(data[0]) == KEYS
    assert float(data[0]["main"][0]) == float(arrays.indices("validation")[0])


def test_light_and_blank_images_are_mentioned(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        pixels = np.full((16, 16), 255, np.uint8)
        pixels[4:12, 4:12] = 255 if i == 0 else 0
        Image.fromarray(pixels).save(images / f"{i}.png")
    np.save(tmp_path / "f.npy", np.zeros((4, 2, 2), np.float32))
    settings = folder_settings(images, tmp_path / "f.npy")
    light, blank = prepare_arrays(settings, tmp_path / "cache").warnings
    assert "4 of 4 images have a light border" in light
    assert "1 of 4 images shows one grey value" in blank
    inverted = prepare_arrays(replace(settings, {"invert": True}), tmp_path / "cache")
    assert len(inverted.warnings) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source": "folder"},
            "needs both data.images and data.targets; set to something: neither",
        ),
        ({"source": "folder", "images": "x"}, "set to something: data.images"),
        ({"images": "x"}, "reads no files, but data.images is 'x'"),
        ({"kind": "latents"}, "needs latents of your own"),
        ({"invert": True}, "generated ones have a black one"),
        ({"validation_share": 1.0}, "validation_share"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(SettingsError, match=message):
        replace(DataSettings(), changes)


def test_every_setting_has_help_and_pickles_a_warning():
    for node in (DataSettings, AugmentSettings):
        assert all(leaf.help for leaf in leaves(node).values())
    assert "run anything" in leaves(DataSettings)["allow_pickle"].help


def test_samples_have_the_agreed_names_shapes_and_values(arrays, latents):
    for split, keys in (("train", KEYS), ("validation", KEYS | {"field"})):
        data = ConditionerData(arrays, latents, split, OFTEN)
        sample = data[(1, 7)] if split == "train" else data[1]
        assert set(sample) == keys
        shapes = {name: tuple(tensor.shape) for name, tensor in sample.items()}
        assert shapes["image"] == shapes["paired"] == (1, 16, 16)
        assert (shapes["main"], shapes["hier"], shapes["paired_valid"]) == ((4,), (3, 2), ())
        assert {tensor.dtype for tensor in sample.values()} == {torch.float32}
        assert sample["image"].min() >= 0.0
        assert sample["image"].max() <= 1.0
        with pytest.raises(IndexError, match=f"{split} has samples 0 .. {len(data) - 1}"):
            data[len(data)]


def test_validation_is_clean_fixed_and_its_other_view_is_every_trials(arrays, latents):
    one = ConditionerData(arrays, latents, "validation", OFTEN)
    other = ConditionerData(arrays, latents, "validation", AugmentSettings())
    images, fields = np.load(arrays.images_file), np.load(arrays.fields)
    for row, number in enumerate(arrays.indices("validation")):
        sample = one[row]
        np.testing.assert_array_equal(
            sample["image"].numpy(), images[number].astype(np.float32) / 255
        )
        np.testing.assert_array_equal(sample["field"].numpy(), fields[number])
        assert float(sample["main"][0]) == float(number)
        assert sample["paired_valid"] == 1.0
        assert not torch.equal(sample["paired"], sample["image"])
        assert all(torch.equal(other[row][name], sample[name]) for name in sample)
    recorded = one.draws(np.arange(4), ())
    assert recorded.warped.all()


def test_training_samples_are_mixed_with_their_targets(arrays, latents):
    """main[p] = p: what it is after mixing tells own share and partner."""
    data = ConditionerData(arrays, latents, "train", replace(OFTEN, {"noise_probability": 0.0}))
    rows, seeds = np.arange(16), list(range(100, 116))
    draws = data.draws(rows, seeds)
    batch = data.__getitems__(list(zip(rows.tolist(), seeds, strict=True)))
    own = data.indices[rows].astype(float)
    partner = data.indices[draws.partner].astype(float)
    assert draws.mixed.any()
    assert not draws.mixed.all()
    wanted = np.where(draws.mixed, draws.own_share * own + (1 - draws.own_share) * partner, own)
    np.testing.assert_allclose(batch["main"][:, 0].numpy(), wanted, rtol=1e-5)
    np.testing.assert_allclose(batch["hier"][:, 2, 1].numpy(), wanted, rtol=1e-5)
    # The other view is the image as it was; it counts where the views differ and are unmixed.
    images = np.load(arrays.images_file)[data.indices[rows]].astype(np.float32) / 255
    np.testing.assert_array_equal(batch["paired"].numpy(), images)
    differ = (batch["image"] != batch["paired"]).flatten(1).any(1).numpy()
    assert batch["paired_valid"].tolist() == (differ & ~draws.mixed).astype(float).tolist()
    assert 0 < batch["paired_valid"].sum() < 16
    only_mixed = draws.mixed & ~draws.warped
    if only_mixed.any():
        row = int(np.flatnonzero(only_mixed)[0])
        blend = draws.own_share[row] * images[row]
        blend += (1 - draws.own_share[row]) * (
            np.load(arrays.images_file)[data.indices[draws.partner[row]]] / 255
        )
        np.testing.assert_allclose(batch["image"][row].numpy(), blend, atol=1e-6)


@given(keys=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 2**63 - 1)), min_size=1))
def test_a_sample_does_not_depend_on_its_batch(arrays, latents, keys):
    data = ConditionerData(arrays, latents, "train", OFTEN)
    batch = data.__getitems__(keys)
    for place, key in enumerate(keys):
        alone = data[key]
        assert all(torch.equal(batch[name][place], alone[name]) for name in alone)


def test_an_epoch_leaves_the_data_as_it_was(arrays, latents):
    """000-M14: an augmentation that edits a batch in place edits the data set that it views."""

    def checksum(data: ConditionerData) -> str:
        store = data.store
        held = [np.asarray(store.images), store.main.numpy(), store.hier.numpy()]
        return hashlib.sha256(b"".join(array.tobytes() for array in held)).hexdigest()

    data = ConditionerData(arrays, latents, "train", OFTEN)
    before, on_disk = checksum(data), Path(arrays.images_file).read_bytes()
    for seed in range(3):
        for start in range(0, 16, 4):
            batch = data.__getitems__([(i, 31 * seed + i) for i in range(start, start + 4)])
            for values in batch.values():
                values.add_(1.0)  # nor does it matter what becomes of a batch
    assert checksum(data) == before
    assert Path(arrays.images_file).read_bytes() == on_disk


@pytest.mark.parametrize("workers", [0, 1])
def test_torchs_loader_asks_for_whole_batches(arrays, latents, workers):
    train = ConditionerData(arrays, latents, "train", OFTEN)
    batches = [[(0, 5), (3, 6), (9, 7)], [(1, 8), (2, 9)]]
    loader = DataLoader(train, batch_sampler=batches, num_workers=workers, collate_fn=collate)
    for batch, keys in zip(loader, batches, strict=True):
        singly = default_collate([train[key] for key in keys])
        assert all(torch.equal(batch[name], singly[name]) for name in singly)
    validation = ConditionerData(arrays, latents, "validation", OFTEN)
    part = DataLoader(Subset(validation, [1, 3]), batch_size=2, collate_fn=collate)
    assert torch.equal(next(iter(part))["field"][1], validation[3]["field"])
    assert torch.equal(collate([validation[0], validation[1]])["main"][1], validation[1]["main"])


def test_without_a_seed_a_training_sample_is_clean(arrays, latents):
    data = ConditionerData(arrays, latents, "train", OFTEN)
    assert torch.equal(data[3]["image"], data[3]["paired"])
    assert data[3]["paired_valid"] == 0.0
    with pytest.raises(ValueError, match="a seed for every sample, or for none"):
        data.__getitems__([(0, 1), 2])


def test_what_is_prepared_and_the_datasets_travel_to_other_processes(arrays, latents):
    data = ConditionerData(arrays, latents, "validation", OFTEN)
    expected = data[0]
    assert len(pickle.dumps(data)) < 4000
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - our own
    assert all(torch.equal(copy[0][name], expected[name]) for name in expected)
    assert pickle.loads(pickle.dumps(arrays)) == arrays  # noqa: S301 - our own
    json.dumps(arrays.notes)


def test_latents_of_other_samples_are_refused(arrays, tmp_path):
    write_latents(tmp_path, 19)
    with pytest.raises(DataError, match=r"main\.npy: expected 2 axes and the latents of 23 samp"):
        ConditionerData(arrays, tmp_path, "train", OFTEN)[0]
    with pytest.raises(ValueError, match="a split is one of train, validation, test"):
        ConditionerData(arrays, tmp_path, "tests", OFTEN)


@pytest.mark.gpu
def test_the_data_set_on_the_gpu_is_the_one_on_disk(arrays, latents):
    keys = [(i % 16, 1000 + i) for i in range(64)]
    there = ConditionerData(arrays, latents, "train", OFTEN)
    here = ConditionerData(arrays, latents, "train", OFTEN, on_device="never")
    on_gpu, on_cpu = there.__getitems__(keys), here.__getitems__(keys)
    assert {tensor.device.type for tensor in on_gpu.values()} == {"cuda"}
    for name, tensor in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].cpu(), tensor, atol=1e-4, rtol=0)
    before = there.store.images.clone()
    for values in on_gpu.values():
        values.add_(1.0)
    assert torch.equal(there.store.images, before)
    loader = DataLoader(there, batch_sampler=[[(0, 1), (1, 2)]], num_workers=1, collate_fn=collate)
    assert {tensor.device.type for tensor in next(iter(loader)).values()} == {"cpu"}
