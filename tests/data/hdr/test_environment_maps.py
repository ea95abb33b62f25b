"""Frame pairs from panoramas: closed forms, a backward visibility test, and the real maps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from data.files import DataError
from data.hdr.dataset import open_split, prepare
from data.hdr.environment_maps import (
    RADII,
    Camera,
    Scene,
    camera_path,
    fetch,
    frame_pair,
    main,
    make_scene,
    render,
)
from data.hdr.files import find_frames, read_frame, write_image
from data.hdr.scenes import write_sequence
from data.hdr.settings import DataSettings
from data.hdr.splits import SPLITS

SIZE = 48
AHEAD = Camera(np.zeros(3), np.eye(3))


def panorama(height: int = 128) -> np.ndarray:
    """Radiance that varies slowly with direction: 2 + right + 0.5 down, seen from the centre."""
    latitude = ((np.arange(height) + 0.5) / height - 0.5) * np.pi
    longitude = ((np.arange(2 * height) + 0.5) / height - 1.0) * np.pi
    right = np.cos(latitude)[:, None] * np.sin(longitude)
    value = 2.0 + right + 0.5 * np.sin(latitude)[:, None]
    return np.repeat(value[..., None], 3, axis=-1).astype(np.float32)


def background_only() -> Scene:
    masks = np.zeros((len(RADII), 128, 256), bool)
    masks[0] = True
    return Scene(np.stack([panorama()] * len(RADII)), masks)


@pytest.fixture(scope="module")
def pairs():
    """(scene, first camera, second camera, frame) of three random scenes."""
    made = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        scene = make_scene(panorama(), rng)
        first, second = camera_path(4, rng)[::3]
        made.append((scene, first, second, frame_pair(scene, first, second, SIZE)))
    return made


def test_a_view_from_the_centre_is_the_map_in_the_direction_of_each_pixel():
    image, points = render(background_only(), AHEAD, SIZE)
    x = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    ray = np.stack([*np.meshgrid(x, x), np.full((SIZE, SIZE), 0.5)], axis=-1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    np.testing.assert_allclose(image[..., 0], 2 + ray[..., 0] + 0.5 * ray[..., 1], atol=1e-3)
    np.testing.assert_allclose(points, RADII[0] * ray, atol=1e-9)


def test_points_lie_on_the_spheres_and_under_their_pixels(pairs):
    for scene, _, camera, _ in pairs:
        _, points = render(scene, camera, SIZE)
        radius = np.linalg.norm(points, axis=-1)
        assert np.abs(radius[..., None] - np.array(RADII)).min(axis=-1).max() < 1e-9
        local = (points - camera.position) @ camera.rotation
        column = (local[..., 0] / local[..., 2] * 0.5 + 0.5) * SIZE - 0.5
        np.testing.assert_allclose(column, np.tile(np.arange(SIZE), (SIZE, 1)), atol=1e-6)


def test_a_camera_at_rest_opens_no_holes(pairs):
    for scene, first, _, _ in pairs:
        frame = frame_pair(scene, first, first, SIZE)
        # But for a sliver of a sphere at a pixel's centre that none of its four samples meets.
        assert frame.hole.mean() < 0.005
        valid = frame.hole[0] == 0
        np.testing.assert_allclose(frame.warped[:, valid], frame.target[:, valid], rtol=0.05)


def test_warped_pixels_are_zero_in_holes_and_the_target_elsewhere(pairs):
    for _, _, _, frame in pairs:
        hole = frame.hole[0] == 1
        assert (frame.warped[:, hole] == 0).all()
        ratio = np.log(frame.warped[:, ~hole] / frame.target[:, ~hole])
        assert np.abs(ratio).mean() < 0.01
        assert np.quantile(np.abs(ratio), 0.99) < 0.1


def test_motion_leads_back_to_the_first_view(pairs):
    """Its radiance there, between the pixels, is what a valid pixel shows."""
    for scene, first, _, frame in pairs:
        seen, _ = render(scene, first, SIZE)
        x, y = np.meshgrid(*[np.arange(SIZE)] * 2) - frame.motion.astype(float)
        valid = frame.hole[0] == 0
        back = ndimage.map_coordinates(np.log(seen[..., 0]), [y, x], order=1, mode="nearest")
        error = np.abs(back - np.log(frame.target[0]))[valid]
        still = np.abs(np.log(seen[..., 0]) - np.log(frame.target[0]))[valid]
        assert np.median(error) < 0.2 * np.median(still)
        assert np.abs(frame.motion[:, valid]).max() < SIZE


def test_holes_are_what_the_first_camera_did_not_see(pairs):
    """Backwards: each surface point of the second view is looked up in the depths of the first."""
    hidden_count = 0
    for scene, first, second, frame in pairs:
        _, seen = render(scene, first, SIZE)
        _, points = render(scene, second, SIZE)
        seen_depth = ((seen - first.position) @ first.rotation)[..., 2]
        local = (points - first.position) @ first.rotation
        pixel = np.floor((local[..., :2] / local[..., 2:] * 0.5 + 0.5) * SIZE).astype(int)
        inner = ((pixel >= 1) & (pixel < SIZE - 1)).all(axis=-1)
        outside = ((pixel < -1) | (pixel > SIZE)).any(axis=-1)
        around = np.stack(
            [
                seen_depth[
                    np.clip(pixel[..., 1] + dy, 0, SIZE - 1),
                    np.clip(pixel[..., 0] + dx, 0, SIZE - 1),
                ]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ]
        )
        same = np.abs(around - local[..., 2]) < 0.1 * local[..., 2]
        hole = frame.hole[0] == 1
        assert hole[~inner & outside].all()
        assert hole[inner & same.all(axis=0)].mean() < 0.02
        hidden = inner & ~same.any(axis=0)
        hidden_count += hidden.sum()
        assert hole[hidden].all()
    assert hidden_count > 30, "the scenes must have something to disocclude"


def test_the_same_seed_makes_the_same_pair():
    def make(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        scene = make_scene(panorama(64), rng)
        return frame_pair(scene, *camera_path(2, rng), 32).warped

    np.testing.assert_array_equal(make(1), make(1))
    assert not np.array_equal(make(1), make(2))


def test_cameras_stay_inside_the_nearest_sphere():
    path = camera_path(500, np.random.default_rng(0))
    assert max(np.linalg.norm(camera.position) for camera in path) < 0.5 * min(RADII)
    for camera in path[::50]:
        np.testing.assert_allclose(camera.rotation.T @ camera.rotation, np.eye(3), atol=1e-12)


@pytest.fixture
def own_maps(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    for name, suffix in (("a", ".exr"), ("b", ".hdr"), ("c", ".exr")):
        write_image(folder / f"{name}{suffix}", panorama(32))
    monkeypatch.setenv("HDR_MAPS", str(folder))
    return folder


def test_maps_of_ones_own_become_sequences_that_train(tmp_path, own_maps, capsys):
    """Of one root, in place of what an earlier call left there."""
    root = tmp_path / "out"
    write_sequence(root / "train", 1, 32, 32, 0)
    main(["--out", str(root), "--size", "48", "--frames", "2"])
    assert f"{root / 'a'}: 2 frame pairs" in capsys.readouterr().out
    names = [entry.name for entry in find_frames(root)[0]]
    assert names == ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]
    settings = DataSettings(
        source="folder",
        root=str(root),
        validation_share=0.34,
        test_share=0.34,
        crop=32,
        stride=16,
        max_bad_share=0.0,
    )
    prepared = prepare(settings, tmp_path / "cache")
    assert (prepared.counts.bad_frames, prepared.note) == (0, "")
    assert len(open_split(prepared, "train")) > 0
    assert [name for name, _ in prepared.units["validation"]] == ["b"]


def test_no_maps_and_no_debian_name_both_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("HDR_MAPS", str(tmp_path))
    with pytest.raises(DataError, match=r"expected at least 2 .* panoramas, found 0"):
        fetch(tmp_path)
    for name in ("a.exr", "a.hdr"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"one panorama of each name, found a\.exr, a\.hdr"):
        fetch(tmp_path)
    monkeypatch.delenv("HDR_MAPS")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"apt-get and dpkg .* blender-data .* HDR_MAPS"):
        fetch(tmp_path / "cache")
    with pytest.raises(SystemExit, match="error: environment maps"):
        main(["--out", str(tmp_path / "out")])


@pytest.mark.slow
def test_the_real_maps(tmp_path):
    root = Path(os.environ.get("HDR_REAL_DATA", ".cache/real-data/hdr_maps"))
    if not root.is_dir():
        pytest.skip(f"no real maps at {root}: `make real-data` fetches them, or set HDR_REAL_DATA")
    low, high, share = np.inf, 0.0, []
    entries, strangers = find_frames(root)
    assert len({entry.sequence for entry in entries}) >= 8
    assert not strangers
    for entry in entries:
        frame, repairs = read_frame(entry)
        assert repairs.negative_values == repairs.values_in_holes == 0
        positive = frame.target[frame.target > 0]
        low, high = min(low, positive.min()), max(high, positive.max())
        share.append(frame.hole.mean())
        valid = frame.hole[0] == 0
        error = np.log(frame.warped[:, valid] + 1e-3) - np.log(frame.target[:, valid] + 1e-3)
        assert np.median(np.abs(error)) < 0.1
    assert high / low > 1e6
    assert 0.02 < np.mean(share) < 0.25
    settings = DataSettings(
        source="folder", root=str(root), validation_share=0.25, test_share=0.25
    )
    prepared = prepare(settings, tmp_path)
    assert prepared.counts.bad_frames == 0
    assert min(prepared.counts.crops.values()) >= 8
    assert [len(prepared.units[split]) for split in SPLITS] == [4, 2, 2]
