"""What `visualize_augmentations` shows of a diffusion: each augmentation alone, ScoreAug's
transformations and patterns, the pair of SDA.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from ray_jobs import visualize_augmentations as verb
from settings.flat import replace
from trainables.diffusion.system import Diffusion

SYSTEM = Diffusion()
GREY = 0.5
V2 = {
    "score_aug.enabled": True,
    "score_aug.kind": "v2",
    "score_aug.translation.enabled": True,
    "score_aug.brightness.enabled": True,
}

pytestmark = pytest.mark.usefixtures("one_thread")


def settings_of(changes):
    return replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})


def batch_of(settings, prepared, count=3):
    train = SYSTEM.loaders(replace(settings, SYSTEM.originals), prepared).train
    return default_collate([train[index, 7 + index] for index in range(count)])


def views_of(cache, settings):
    prepared = SYSTEM.prepare(settings, cache)
    return SYSTEM.augmented_views(settings, prepared, batch_of(settings, prepared))


def test_each_augmentation_is_shown_alone_and_always(shared_cache):
    settings = settings_of({"augment.kind": "diffusion"})
    prepared = SYSTEM.prepare(settings, shared_cache)
    alone = SYSTEM.augmentations(settings)
    assert list(alone) == ["flip", "rotation", "shift scale"]
    plain = batch_of(settings, prepared)["image"]

    def under(name, seed):
        train = SYSTEM.loaders(replace(settings, alone[name]), prepared).train
        return torch.stack([train[index, seed]["image"] for index in range(3)])

    for seed in range(6):
        assert torch.equal(under("flip", seed), plain.flip(-1)), "left to right, whatever the seed"
        for name in ("rotation", "shift scale"):
            assert not torch.equal(under(name, seed), plain)
    assert not torch.equal(under("rotation", 0), under("rotation", 1))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"augment.kind": "none"}, []),
        ({"model.spatial_dims": 3}, ["flip", "turn", "rotation", "shift scale"]),
        ({"model.spatial_dims": 3, "augment.volumes": "flips"}, ["flip", "turn"]),
    ],
)
def test_augmentations_that_a_training_never_makes_are_not_shown(changes, names):
    given = {"augment.kind": "diffusion", "augment.volumes": "all", **changes}
    assert list(SYSTEM.augmentations(replace(SYSTEM.Settings(), given))) == names


def test_score_aug_transforms_what_is_seen_and_what_is_predicted_alike(shared_cache):
    figures = views_of(shared_cache, settings_of(V2))
    assert list(figures) == ["score_aug", "patterns"]
    shown = {name: images.numpy() for name, images in figures["score_aug"].items()}
    plain = shown["as it is"]
    assert plain.shape == (3, 2, 16, 16)
    axes = (-2, -1)
    expected = {
        "turn 90": np.rot90(plain, 1, axes),
        "turn 180": np.rot90(plain, 2, axes),
        "turn 270": np.rot90(plain, 3, axes),
        "flip W": np.flip(plain, -1),
        "flip H": np.flip(plain, -2),
    }
    for name, wanted in expected.items():
        np.testing.assert_array_equal(shown[name], wanted, err_msg=name)
    mirrored = [np.rot90(plain, turns, axes)[..., ::-1] for turns in (1, 3)]
    for name, wanted in zip(("turn 90, flip W", "turn 270, flip W"), mirrored, strict=True):
        np.testing.assert_array_equal(shown[name], wanted, err_msg=name)
    for name, factor in (("brightness 0.83", 1 / 1.2), ("brightness 1.2", 1.2)):
        wanted = np.clip(GREY + factor * (plain - GREY), 0.0, 1.0)
        inside = (plain > 0.0) & (plain < 1.0)
        np.testing.assert_allclose(shown[name][inside], wanted[inside], atol=1e-6)
    rows, columns = 3, 6  # .2 and .4 of 16, as whole cells
    moved = np.full_like(plain, GREY)
    moved[..., rows:, columns:] = plain[..., :-rows, :-columns]
    np.testing.assert_array_equal(shown["shift"], moved)
    box = (shown["cutout"] == GREY).all(axis=(0, 1))
    at = np.argwhere(box)
    assert 0 < box.sum() < 0.3**2 * 16**2 + 16
    assert box.sum() == np.prod(np.ptp(at, axis=0) + 1), "a box"
    np.testing.assert_array_equal(shown["cutout"][..., ~box], plain[..., ~box])


def test_patterns_are_the_numbers_of_the_families_that_are_on(shared_cache):
    settings = settings_of({**V2, "score_aug.v2.patterns.grid": False})
    shown = views_of(shared_cache, settings)["patterns"]
    numbers = [number for number in range(16) if number not in range(4, 8)]
    assert list(shown) == ["as it is", *(f"pattern {number}" for number in numbers)]
    plain = shown["as it is"].numpy()
    dropped = {name: (images.numpy() == GREY).all(axis=(0, 1)) for name, images in shown.items()}
    for name, images in list(shown.items())[1:]:
        kept = ~dropped[name]
        assert 0.1 < dropped[name].mean() < 0.6
        np.testing.assert_array_equal(images.numpy()[..., kept], plain[..., kept])
    assert np.array_equal(dropped["pattern 0"], ~dropped["pattern 1"])
    corners = np.zeros((16, 16), bool)
    for rows in (slice(0, 4), slice(12, 16)):
        for columns in (slice(0, 4), slice(12, 16)):
            corners[rows, columns] = True
    assert np.array_equal(dropped["pattern 11"], corners)


@pytest.mark.parametrize("form", ["normalised", "document"])
def test_a_pair_of_sda_is_a_turned_image_nearer_to_the_noise(shared_cache, form):
    """Of rectified flow x_t = (1 - t) x_0 + t noise and the target is x_0 - noise, so that x_s =
    x_t + (t - s) target, turned. The document's form cuts a time of 0 ... 1000 at 1 (001-M7).
    """
    settings = settings_of({"loss.sda.enabled": True, "loss.sda.form": form})
    figures = views_of(shared_cache, settings)
    assert list(figures) == ["sda"]
    shown = {name: images.numpy().astype(np.float64) for name, images in figures["sda"].items()}
    times = [float(re.search(r"t = ([\d.]+)", name)[1]) for name in shown]
    t, shifted = times[0], times[1]
    assert set(times[1:]) == {shifted}
    assert shifted == pytest.approx(t + 0.1 if form == "normalised" else 0.001, abs=1e-3)
    noisy, target = next(iter(shown.values())).swapaxes(0, 1)
    at_s = GREY + (noisy - GREY) + (t - shifted) * (target - GREY)
    pair = np.stack([at_s, target], axis=1)
    is_cut = [(values <= 0.0) | (values >= 1.0) for values in (noisy, target, at_s)]
    inside = np.broadcast_to(~np.any(is_cut, axis=0)[:, None], pair.shape)
    for name, wanted, is_inside in (
        (f"turn 90, t = {shifted:.3g}", *(np.rot90(x, 1, (-2, -1)) for x in (pair, inside))),
        (f"flip W, t = {shifted:.3g}", *(np.flip(x, -1) for x in (pair, inside))),
    ):
        assert is_inside.mean() > 0.8
        np.testing.assert_allclose(shown[name][is_inside], wanted[is_inside], atol=2e-3)


def test_nothing_is_shown_of_what_is_off(shared_cache):
    assert views_of(shared_cache, settings_of({})) == {}


@pytest.mark.slow
def test_the_verb_writes_a_figure_for_each(shared_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    given = [
        f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in {**SYSTEM.small, **V2, "augment.kind": "diffusion"}.items()
    ]
    for name in "ab":
        target = tmp_path / name / "views.png"
        wanted = ("--count", "2", "--views", "1", "--output", str(target))
        assert verb.main(["diffusion", *given, *wanted]) == 0
    names = ["views.png", "views_each.png", "views_patterns.png", "views_score_aug.png"]
    files = [sorted((tmp_path / name).iterdir()) for name in "ab"]
    assert [file.name for file in files[0]] == names
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert f"score aug: {tmp_path / 'a' / 'views_score_aug.png'}" in capsys.readouterr().out
    each = np.asarray(Image.open(files[0][1]))
    side, gap = 160, verb._GAP
    cells = [
        each[verb._HEADER : verb._HEADER + side, left : left + side]
        for left in range(gap, each.shape[1] - side, side + gap)
    ]
    assert len(cells) == 4, "as it is, flipped, rotated, shifted"
    grey = [np.where((cell == verb._OUTLINE).all(-1), 0, cell[..., 0]) for cell in cells]
    known = ~((cells[0] == verb._OUTLINE).all(-1)[:, ::-1] | (cells[1] == verb._OUTLINE).all(-1))
    assert np.array_equal(grey[0][:, ::-1][known], grey[1][known])
    patterns = np.asarray(Image.open(files[0][2]))
    assert patterns.shape[1] == gap + 17 * (2 * side + gap)
