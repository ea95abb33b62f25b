"""Codecs, folder layout, and every way in which a frame can be bad."""

from __future__ import annotations

import dataclasses
import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import OpenEXR
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data.files import DataError
from data.hdr.files import Frame, find_frames, read_frame, read_image, write_frame, write_image


def a_frame(height: int = 20, width: int = 24, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    target = np.exp(rng.normal(0.0, 3.0, (3, height, width))).astype(np.float32)
    hole = np.zeros((1, height, width), np.float32)
    hole[:, 3:9, 5:11] = 1.0
    return Frame(warped=target * (1 - hole), hole=hole, target=target)


@given(
    image=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3)),
        elements=st.floats(width=32, allow_nan=False),
    ),
    suffix=st.sampled_from([".exr", ".npy"]),
)
def test_exr_and_npy_are_exact(tmp_path_factory, image, suffix):
    path = tmp_path_factory.mktemp("image") / f"a{suffix}"
    write_image(path, image)
    np.testing.assert_array_equal(read_image(path, image.shape[2]), image)


def test_threads_read_arrays_at_once(tmp_path):
    """Threads change places in the collector, also where it runs while a header is parsed."""
    path = tmp_path / "a.npy"
    write_image(path, np.ones((4, 6, 3), np.float32))
    threshold = gc.get_threshold()

    def give_way(*_):
        time.sleep(0)

    gc.callbacks.append(give_way)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(read_image, [path] * 1000, [3] * 1000))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(give_way)
    assert len(images) == 1000


@pytest.mark.parametrize("suffix", [".exr", ".npy", ".hdr"])
def test_frames_round_trip_with_their_optional_parts(tmp_path, suffix):
    frame = dataclasses.replace(
        a_frame(),
        motion=np.full((2, 20, 24), 3.0, np.float32),
        occlusion=a_frame().hole,
    )
    write_frame(tmp_path, 7, frame, suffix)
    (entry,), strangers = find_frames(tmp_path)
    back, repairs = read_frame(entry)
    assert (entry.id, strangers) == (7, [])
    assert repairs.negative_values == repairs.values_in_holes == 0
    for part in dataclasses.fields(Frame):
        # RGBE shares one exponent among the channels: half a step of the largest.
        bound = 0.004 * frame.target.max(axis=0) if suffix == ".hdr" else 0.0
        error = np.abs(getattr(back, part.name) - getattr(frame, part.name))
        assert (error <= bound + 0.02 * (suffix == ".hdr")).all(), part.name
    assert (back.warped[:, back.hole[0] == 1] == 0).all()


def test_ids_are_sorted_as_numbers(tmp_path):
    for number in (10, 9, 2, 100):
        write_frame(tmp_path, number, a_frame(), ".npy")
    found = find_frames(tmp_path)[0]
    assert [(entry.sequence, entry.id) for entry in found] == [("", n) for n in (2, 9, 10, 100)]


@pytest.mark.parametrize("place", ["bistro/correct", "correct"])
def test_the_documents_places_of_the_mask(tmp_path, place):
    write_frame(tmp_path, 3, a_frame())
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / "hole").rename(tmp_path / place)
    np.testing.assert_array_equal(read_frame(find_frames(tmp_path)[0][0])[0].hole, a_frame().hole)


def test_an_exr_of_another_writer(tmp_path):
    """Half floats, an alpha channel, and channel names with a layer, as renderers write them."""
    image = np.random.default_rng(0).random((5, 6, 3), np.float32).astype(np.float16)
    planes = {f"combined.{name}": image[..., i].copy() for i, name in enumerate("RGB")}
    planes["combined.A"] = np.ones((5, 6), np.float16)
    header = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, planes).write(str(tmp_path / "a.exr"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.exr", 3), image.astype(np.float32))


def write_layers(path, **layers: np.ndarray) -> None:
    """One EXR of layers [H, W, 3] by name, as a renderer writes its passes; "_" has no name."""
    planes = {
        f"{layer}.{name}".removeprefix("_."): np.ascontiguousarray(image[..., i], np.float32)
        for layer, image in layers.items()
        for i, name in enumerate("RGB")
    }
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, planes).write(str(path))


def test_an_exr_of_several_layers(tmp_path):
    """Which one is meant is never guessed, whatever the order of their names."""
    path = tmp_path / "ref-1.exr"
    one, two = np.random.default_rng(0).random((2, 5, 6, 3), np.float32)
    for other in ("aa", "zz"):
        write_layers(path, _=one, **{other: two})
        np.testing.assert_array_equal(read_image(path, 3), one)
    write_layers(path, combined=one, diffuse=two)
    for channels in (3, 1):
        with pytest.raises(DataError, match=r"ref-1\.exr: .*one layer.* combined, diffuse"):
            read_image(path, channels)
    planes = {f"combined.{name}": one[..., i].copy() for i, name in enumerate("RGB")}
    planes |= {f"vector.{name}": two[..., i].copy() for i, name in enumerate("XY")}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, planes).write(str(path))
    np.testing.assert_array_equal(read_image(path, 3), one)
    depth = {"depth.Z": one[..., 0].copy()}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, depth).write(str(path))
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], one[..., 0])
    with pytest.raises(DataError, match=r"expected channels R,G,B, found depth\.Z"):
        read_image(path, 3)


def test_an_exr_of_several_parts(tmp_path):
    """The layers of a multi-part file are its parts, called by the parts' names."""
    path = tmp_path / "ref-1.exr"
    one, two = np.random.default_rng(0).random((2, 5, 6, 3), np.float32)

    def part(name: str, planes: dict[str, np.ndarray]):
        copies = {key: np.ascontiguousarray(plane) for key, plane in planes.items()}
        return OpenEXR.Part({"type": OpenEXR.scanlineimage}, copies, name)

    colour = {name: one[..., i] for i, name in enumerate("RGB")}
    depth = part("depth", {"Z": two[..., 0]})
    OpenEXR.File([depth, part("left", colour)]).write(str(path))
    np.testing.assert_array_equal(read_image(path, 3), one)
    right = part("right", {f"right.{name}": two[..., i] for i, name in enumerate("RGB")})
    OpenEXR.File([part("left", colour), right]).write(str(path))
    with pytest.raises(DataError, match=r"found left, right\."):
        read_image(path, 3)


@pytest.mark.parametrize("suffix", [".exr", ".npy", ".hdr"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_named(tmp_path, suffix, share):
    path = tmp_path / f"ref-12{suffix}"
    write_image(path, a_frame(64, 64).target.transpose(1, 2, 0))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"ref-12\.\w+: expected a complete .* found"):
        read_image(path, 3)


def broken_frame(tmp_path, **changes: np.ndarray):
    write_frame(tmp_path, 1, dataclasses.replace(a_frame(), **changes))
    return find_frames(tmp_path)[0][0]


def with_value(image: np.ndarray, value: float) -> np.ndarray:
    image = image.copy()
    image[1, 0, 0] = value
    return image


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("part", "file"), [("warped", "warped_hole-1"), ("target", "ref-1")])
def test_pixels_that_are_not_finite(tmp_path, part, file, value):
    entry = broken_frame(tmp_path, **{part: with_value(getattr(a_frame(), part), value)})
    with pytest.raises(DataError, match=rf"{file}\.exr: expected finite values, found 1 that"):
        read_frame(entry)


def test_a_frame_without_a_hole_is_a_frame(tmp_path):
    frame, _ = read_frame(broken_frame(tmp_path, hole=np.zeros((1, 20, 24), np.float32)))
    assert not frame.hole.any()
    np.testing.assert_array_equal(frame.target, a_frame().target)


def test_unequal_sizes(tmp_path):
    entry = broken_frame(tmp_path, warped=a_frame(20, 25).warped)
    with pytest.raises(DataError, match=r"warped_hole-1\.exr: expected 20x24 .* found 20x25"):
        read_frame(entry)


@pytest.mark.parametrize("gone", ["warp_hole/warped_hole-1", "ref/ref-1", "hole/hole-1"])
def test_a_missing_file_of_a_frame(tmp_path, gone):
    write_frame(tmp_path, 1, a_frame())
    write_frame(tmp_path, 2, a_frame())
    (tmp_path / f"{gone}.exr").unlink()
    first, second = find_frames(tmp_path)[0]
    with pytest.raises(DataError, match="frame 1: expected its"):
        read_frame(first)
    read_frame(second)


def test_folders_that_are_not_the_layout(tmp_path):
    with pytest.raises(DataError, match="found no such folder"):
        find_frames(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"expected warp_hole/.* found an empty folder"):
        find_frames(tmp_path)
    (tmp_path / "warp_hole").mkdir()
    with pytest.raises(
        DataError, match=r"warp_hole: expected files warped_hole-<id>.* found none"
    ):
        find_frames(tmp_path)


def test_two_files_for_one_frame(tmp_path):
    write_frame(tmp_path, 4, a_frame(), ".exr")
    write_frame(tmp_path, 4, a_frame(), ".npy")
    with pytest.raises(DataError, match="expected one file for frame 4"):
        find_frames(tmp_path)


def test_several_sequences_in_one_root(tmp_path):
    """In the order of their names, numbers as numbers; ids are of a sequence."""
    for name in ("shot10", "shot2"):
        for number in (1, 0):
            write_frame(tmp_path / name, number, a_frame(), ".npy")
    (tmp_path / ".shot3" / "ref").mkdir(parents=True)
    stray = [tmp_path / "previews" / "a.exr", tmp_path / "b.hdr", tmp_path / "shot2/ref/ref.npy"]
    for path in [*stray, tmp_path / "previews" / "notes.txt"]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    frames, strangers = find_frames(tmp_path)
    assert [(f.sequence, f.id) for f in frames] == [
        *[("shot2", 0), ("shot2", 1)],
        *[("shot10", 0), ("shot10", 1)],
    ]
    assert sorted(strangers) == sorted(stray)
    (tmp_path / "shot2/hole/hole-1.npy").unlink()
    with pytest.raises(DataError, match="frame shot2/1: expected its hole"):
        read_frame(find_frames(tmp_path)[0][1])
    (tmp_path / "shot10/warp_hole").rename(tmp_path / "shot10/other")
    with pytest.raises(DataError, match="shot10: expected warp_hole/"):
        find_frames(tmp_path)


def test_a_root_of_both_forms_is_refused(tmp_path):
    write_frame(tmp_path, 1, a_frame(), ".npy")
    write_frame(tmp_path / "shot1", 1, a_frame(), ".npy")
    with pytest.raises(DataError, match=r"one sequence \(hole/\) .* \(shot1/\), found both"):
        find_frames(tmp_path)


def test_files_with_other_names_are_returned_not_dropped(tmp_path):
    write_frame(tmp_path, 4, a_frame())
    stranger = tmp_path / "ref" / "ref-final.exr"
    stranger.write_bytes((tmp_path / "ref" / "ref-4.exr").read_bytes())
    assert find_frames(tmp_path)[1] == [stranger]


def test_wrong_channels_and_dtypes(tmp_path):
    write_image(tmp_path / "a.exr", np.zeros((4, 4, 2), np.float32))
    with pytest.raises(DataError, match="expected channels R,G,B, found G, R"):
        read_image(tmp_path / "a.exr", 3)
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 2), np.float32))
    with pytest.raises(DataError, match=r"expected \[height, width, 3\], found shape \[4, 4, 2\]"):
        read_image(tmp_path / "a.npy", 3)
    np.save(tmp_path / "b.npy", np.zeros((4, 4, 3), np.complex64))
    with pytest.raises(DataError, match="expected real numbers, found dtype complex64"):
        read_image(tmp_path / "b.npy", 3)
    with pytest.raises(DataError, match=r"a\.png: expected \.exr, \.hdr, \.npy"):
        read_image(tmp_path / "a.png", 3)
    with pytest.raises(DataError, match=r"gone\.exr: expected a file"):
        read_image(tmp_path / "gone.exr", 3)


def test_negatives_and_values_in_holes_are_repaired_and_counted(tmp_path):
    frame = a_frame()
    warped, target = frame.warped.copy(), frame.target.copy()
    warped[0, 0, 0], target[:, 1, 1] = -0.5, -1e-6
    warped[2, 4, 6] = 0.25  # inside the hole
    back, repairs = read_frame(broken_frame(tmp_path, warped=warped, target=target))
    assert (repairs.negative_values, repairs.values_in_holes) == (4, 1)
    assert back.warped[0, 0, 0] == 0
    assert (back.target[:, 1, 1] == 0).all()
    assert back.warped[2, 4, 6] == 0


def test_masks_stored_as_bytes(tmp_path):
    write_frame(tmp_path, 1, a_frame(), ".npy")
    np.save(tmp_path / "hole" / "hole-1.npy", (a_frame().hole[0] * 255).astype(np.uint8))
    np.testing.assert_array_equal(read_frame(find_frames(tmp_path)[0][0])[0].hole, a_frame().hole)
