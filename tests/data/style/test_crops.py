"""Crops of scikit-image's images: of disjoint regions, textured, grey on request."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data as library

from data.style.crops import IMAGES, corners, images_folder, read_crops, read_image, strips
from data.style.dataset import open_split, prepare
from data.style.settings import DataSettings
from settings.flat import replace
from settings.schema import SettingsError

FEW = DataSettings(crops=24, held_out_crops=8)


@pytest.fixture(scope="module")
def sets():
    return read_crops(FEW)


@pytest.mark.parametrize("crop", [64, 110])
@pytest.mark.parametrize("shape", [(300, 451), (512, 512), (872, 1000), (500, 380)])
def test_the_crops_of_two_splits_share_no_pixel(shape, crop):
    seen, settings = {}, replace(FEW, {"crop": crop})
    for split in ("train", "validation", "test"):
        mask = np.zeros(shape, bool)
        places = list(corners(*shape, split, settings))
        assert places
        for y, x in places:
            assert mask[y : y + crop, x : x + crop].shape == (crop, crop)
            mask[y : y + crop, x : x + crop] = True
        seen[split] = mask
    assert not (seen["train"] & seen["validation"]).any()
    assert not (seen["train"] & seen["test"]).any()
    assert not (seen["validation"] & seen["test"]).any()
    assert seen["train"].sum() > seen["validation"].sum()


def test_strips_for_training_lie_around_those_that_are_held_out():
    assert strips(500, FEW) == {
        "train": [(0, 124), (188, 312), (376, 500)],
        "validation": [(124, 188)],
        "test": [(312, 376)],
    }
    assert strips(300, FEW) == {
        "train": [(0, 86), (150, 236)],
        "validation": [(86, 150)],
        "test": [(236, 300)],
    }
    assert strips(1000, replace(FEW, {"test_share": 0.0, "validation_share": 0.2})) == {
        "train": [(0, 266), (466, 733), (733, 1000)],
        "validation": [(266, 466)],
        "test": [(733, 733)],
    }


def test_the_splits_of_a_style_look_alike():
    """The mean of a colour in held-out crops lies within that of training's deviation."""
    sets = read_crops(DataSettings())
    means = {}
    for split, of in sets.splits.items():
        styles = np.asarray(of.styles)
        means[split] = np.stack([of.values[styles == k].mean(axis=(0, 2, 3)) for k in range(7)])
    train = sets.splits["train"]
    spread = np.stack(
        [train.values[np.asarray(train.styles) == k].std(axis=(0, 2, 3)) for k in range(7)]
    )
    for split in ("validation", "test"):
        assert (np.abs(means[split] - means["train"]) < spread).all()


def test_crops_lie_where_their_split_is(sets):
    """Each one is found again in its image, in its strip."""
    image = read_image(images_folder() / "ihc.png")
    style = sets.names.index("ihc")
    for split, of in sets.splits.items():
        firsts = [
            np.lib.stride_tricks.sliding_window_view(image[0, first:end], (64, 64))[:, :, 0, :8]
            for first, end in strips(512, FEW)[split]
        ]
        rows = [row for row, found in enumerate(of.styles) if found == style]
        assert len(rows) == (24 if split == "train" else 8)
        for row in rows[:4]:
            wanted = of.values[row][0, 0, :8]
            assert any((found == wanted).all(axis=-1).any() for found in firsts)


def test_images_are_those_of_the_library():
    for name in ("astronaut", "coffee", "chelsea"):
        ours = (read_image(images_folder() / f"{name}.png") + 1.0) * 127.5
        expected = getattr(library, name)().transpose(2, 0, 1)
        np.testing.assert_allclose(ours, expected, atol=1e-4)
    brick = read_image(images_folder() / "brick.png")
    np.testing.assert_allclose((brick[0] + 1.0) * 127.5, library.brick(), atol=1e-4)
    retina = (read_image(images_folder() / "retina.jpg") + 1.0) * 127.5
    inside = library.retina()[206:1204, 206:1204].astype(float)
    halved = inside.reshape(499, 2, 499, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(retina[:, :499, :499] - halved).max() <= 1.0


def test_every_style_has_crops_with_a_texture_in_every_split(sets):
    assert list(sets.names) == list(IMAGES)
    for of in sets.splits.values():
        assert of.values.shape[1:] == (3, 64, 64)
        assert of.values.min() >= -1.0 and of.values.max() <= 1.0
        assert sorted(set(of.styles)) == list(range(7))
        assert (of.values.std(axis=(2, 3)).max(axis=1) > 0.01).all()
    photos = {
        u
        for u, s in zip(sets.splits["test"].units, sets.splits["test"].styles, strict=True)
        if s == 0
    }
    assert photos == {"chelsea", "coffee", "astronaut", "rocket"}


def test_grey_copies_have_no_colour():
    colour = read_image(images_folder() / "ihc.png")
    grey = read_image(images_folder() / "ihc.png", grey=True)
    assert np.abs(colour[0] - colour[2]).max() > 0.5
    assert np.array_equal(grey[0], grey[1]) and np.array_equal(grey[0], grey[2])
    luma = np.einsum("c,chw->hw", [0.299, 0.587, 0.114], colour)
    np.testing.assert_allclose(grey[0], luma, atol=1.5 / 127.5)
    of = read_crops(replace(FEW, {"grey": True})).splits["validation"]
    assert np.array_equal(of.values[:, 0], of.values[:, 2])


def test_the_demo_is_prepared_and_read(tmp_path):
    prepared = prepare(FEW, tmp_path)
    assert prepared.are_images
    assert tuple(prepared.shape) == (3, 64, 64)
    samples = open_split(prepared, "validation", FEW)
    assert len(samples) == 6 * 7 * 8
    assert samples[0]["references"].shape == (4, 3, 64, 64)
    assert samples.units[0] == "chelsea as retina"


def test_a_crop_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(SettingsError, match="leaves 51 of 451 pixels along an image for training"):
        strips(451, replace(FEW, {"crop": 200}))
