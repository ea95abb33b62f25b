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


@pytest.mark.parametrize("width", [451, 512, 1000])
def test_the_crops_of_two_splits_share_no_pixel(width):
    seen = {}
    for split in ("train", "validation", "test"):
        mask = np.zeros((200, width), bool)
        places = list(corners(200, width, split, FEW))
        assert places
        for y, x in places:
            assert x + FEW.crop <= width and y + FEW.crop <= 200
            mask[y : y + FEW.crop, x : x + FEW.crop] = True
        seen[split] = mask
    assert not (seen["train"] & seen["validation"]).any()
    assert not (seen["train"] & seen["test"]).any()
    assert not (seen["validation"] & seen["test"]).any()
    assert seen["train"].sum() > seen["validation"].sum()


def test_crops_lie_where_their_split_is(sets):
    """Each one is found again in its image, in its strip."""
    image = read_image(images_folder() / "ihc.png")
    style = sets.names.index("ihc")
    for split, of in sets.splits.items():
        first, end = strips(image.shape[2], FEW)[split]
        windows = np.lib.stride_tricks.sliding_window_view(image[0, :, first:end], (64, 64))
        firsts = windows[:, :, 0, :8]
        rows = [row for row, found in enumerate(of.styles) if found == style]
        assert len(rows) == (24 if split == "train" else 8)
        for row in rows[:4]:
            assert (firsts == of.values[row][0, 0, :8]).all(axis=-1).any()


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
    with pytest.raises(SettingsError, match="leaves 51 of 451 columns of an image for training"):
        strips(451, replace(FEW, {"crop": 200}))
