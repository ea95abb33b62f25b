"""The generator: a warp by pixel loops as reference, holes that are disocclusions, seeds."""

from __future__ import annotations

import hashlib
import multiprocessing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.hdr.files import find_frames, read_frame
from data.hdr.scenes import (
    FRAMES_PER_SHOT,
    HIGHEST,
    LIGHT_DRIFT,
    LOWEST,
    View,
    sequence,
    warp_forward,
    write_sequence,
)


def digest(seed: int) -> str:
    whole = hashlib.sha256()
    for frame in sequence(4, 40, 56, seed):
        for part in (frame.warped, frame.hole, frame.target, frame.occlusion, frame.motion):
            whole.update(part.tobytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def frames():
    return list(sequence(12, 64, 96, 3))


def test_valid_pixels_are_the_targets_up_to_the_drift_of_light(frames):
    for frame in frames:
        valid = np.broadcast_to(frame.hole == 0, frame.target.shape)
        ratio = frame.warped[valid] / frame.target[valid]
        assert np.abs(np.log(ratio)).max() <= LIGHT_DRIFT * 1.001
    drift = [np.abs(f.warped - f.target)[:, f.hole[0] == 0].max() for f in frames]
    assert max(drift) > 0, "a frame is not a copy of the last one"


def test_holes_are_exactly_zero_and_nothing_else_is(frames):
    for frame in frames:
        assert set(np.unique(frame.hole)) == {0.0, 1.0}
        assert (np.all(frame.warped == 0, axis=0) == (frame.hole[0] == 1)).all()
        assert (frame.target > 0).all()


def test_parallax_opens_holes_inside_the_frame(frames):
    for frame in frames:
        assert (frame.occlusion <= frame.hole).all()
    share = np.mean([frame.hole.mean() for frame in frames])
    hidden = np.mean([frame.occlusion.mean() for frame in frames])
    assert 0.02 < hidden < share < 0.3


def test_radiance_spans_the_range_of_scenes():
    low, high = np.inf, 0.0
    for frame in sequence(60, 48, 64, 0):
        assert frame.target.dtype == np.float32
        low, high = min(low, frame.target.min()), max(high, frame.target.max())
    assert np.float32(LOWEST) <= low <= 10 * LOWEST
    assert HIGHEST / 10 <= high <= HIGHEST


def test_motion_says_where_a_valid_pixel_came_from():
    """The target of one frame is the first view of the next of its shot."""
    frames = list(sequence(FRAMES_PER_SHOT, 64, 96, 5))
    before, after = frames[0].target, frames[1]
    y, x = np.nonzero(after.hole[0] == 0)
    dx, dy = after.motion[:, y, x].astype(int)
    np.testing.assert_array_equal(after.warped[:, y, x], before[:, y - dy, x - dx])


def splat_by_loops(before: View, after: View, motion: np.ndarray):
    height, width = after.layer.shape
    warped = np.zeros_like(before.radiance)
    landed = np.full((height, width), -1)
    for y in range(height):
        for x in range(width):
            layer = before.layer[y, x]
            to_y, to_x = y + motion[layer, 0], x + motion[layer, 1]
            inside = 0 <= to_y < height and 0 <= to_x < width
            if inside and layer > landed[to_y, to_x]:
                landed[to_y, to_x] = layer
                warped[:, to_y, to_x] = before.radiance[:, y, x]
    hole = landed != after.layer
    warped[:, hole] = 0
    return warped, hole


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    motion=st.lists(st.tuples(st.integers(-11, 11), st.integers(-11, 11)), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_the_warp_is_a_z_buffered_splat(size, motion, seed):
    rng = np.random.default_rng(seed)
    before, after = (
        View(
            rng.random((3, *size), np.float32) + np.float32(0.1),
            rng.integers(0, 3, size).astype(np.int8),
        )
        for _ in range(2)
    )
    frame = warp_forward(before, after, np.array(motion))
    warped, hole = splat_by_loops(before, after, np.array(motion))
    np.testing.assert_array_equal(frame.warped, warped)
    np.testing.assert_array_equal(frame.hole[0] == 1, hole)


def test_a_seed_is_a_promise_also_in_another_process():
    here = digest(11)
    assert here == digest(11)
    assert here != digest(12)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(digest, (11,)) == here


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 33, 47), (4, 32, 32), (7, 50, 40)])
def test_any_count_and_size(frames, height, width):
    made = list(sequence(frames, height, width, 0))
    assert len(made) == frames
    assert {frame.target.shape for frame in made} == {(3, height, width)}


def test_longer_sequences_start_with_the_shorter_ones():
    short, long = sequence(3, 32, 32, 0), sequence(7, 32, 32, 0)
    for a, b in zip(short, long, strict=False):
        np.testing.assert_array_equal(a.target, b.target)


@pytest.mark.parametrize("suffix", [".exr", ".npy"])
def test_the_written_layout_is_the_sequence(tmp_path, suffix):
    write_sequence(tmp_path, 3, 40, 48, 0, suffix)
    entries, _ = find_frames(tmp_path)
    for entry, frame in zip(entries, sequence(3, 40, 48, 0), strict=True):
        back, repairs = read_frame(entry)
        assert repairs.negative_values == repairs.values_in_holes == 0
        for part in ("warped", "hole", "target", "occlusion", "motion"):
            np.testing.assert_array_equal(getattr(back, part), getattr(frame, part))
