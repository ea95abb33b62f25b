"""Images and targets on disk: order, conversion, layouts, and errors that name the file."""

from __future__ import annotations

import itertools
import os
import pickle
from functools import cmp_to_key
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.fields.files import check_pairs, read_targets
from data.files import DataError, natural_key
from data.image_folder import ImageCounts, ImageRules, find_images, read_image, write_images

FIELDS = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
MAIN = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
HIER = np.random.default_rng(2).normal(size=(5, 2, 3)).astype(np.float32)
NAMES = [f"img{i}" for i in range(5)]


def save_grey(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def read(path: Path, side: int = 8, **rules) -> tuple[np.ndarray, ImageCounts]:
    counts = ImageCounts()
    return read_image(path, ImageRules(side, **rules), counts), counts


def compare_naturally(a: str, b: str) -> int:
    """The definition, character by character: a run of digits is one number."""
    while a and b:
        if a[0] in "0123456789" and b[0] in "0123456789":
            i = next((i for i, c in enumerate(a) if c not in "0123456789"), len(a))
            j = next((j for j, c in enumerate(b) if c not in "0123456789"), len(b))
            if int(a[:i]) != int(b[:j]):
                return -1 if int(a[:i]) < int(b[:j]) else 1
            a, b = a[i:], b[j:]
        elif a[0] != b[0]:
            return -1 if a[0] < b[0] else 1
        else:
            a, b = a[1:], b[1:]
    return (len(a) > 0) - (len(b) > 0)


@given(st.lists(st.text("ab019", max_size=6), max_size=12))
def test_natural_order_against_its_definition(names):
    by_key = sorted(names, key=natural_key)
    for one, other in itertools.pairwise(by_key):
        assert compare_naturally(one, other) <= 0
    backwards = by_key[::-1]
    assert sorted(backwards, key=natural_key) == by_key
    assert cmp_to_key(compare_naturally)("img2") < cmp_to_key(compare_naturally)("img10")


def test_images_are_found_in_natural_order(tmp_path):
    for name in ("img10.png", "img2.PNG", "img1.jpg", "notes.txt", ".hidden.png", "img02.jpeg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    images, others = find_images(tmp_path)
    assert [path.name for path in images] == ["img1.jpg", "img2.PNG", "img02.jpeg", "img10.png"]
    assert others == 1
    with pytest.raises(DataError, match="found no such folder"):
        find_images(tmp_path / "missing")
    with pytest.raises(DataError, match="found none among 0 files"):
        find_images(tmp_path / "folder.png")


def test_grey_images_of_the_right_size_are_kept_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    kept, counts = read(save_grey(tmp_path / "a.png", pixels))
    assert np.array_equal(kept, pixels)
    assert (counts.resized, counts.not_square, counts.blank) == (0, 0, 0)


def test_colours_become_luma_and_sixteen_bits_eight(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey, _ = read(save_grey(tmp_path / "rgb.png", rgb))
    np.testing.assert_allclose(grey, rgb @ [0.299, 0.587, 0.114], atol=0.51)
    deep = np.random.default_rng(0).integers(0, 65536, (8, 8), dtype=np.uint16)
    grey, _ = read(save_grey(tmp_path / "deep.png", deep))
    np.testing.assert_allclose(grey, deep / 257.0, atol=0.5)


def test_transparent_parts_are_black(tmp_path):
    rgba = np.full((8, 8, 4), 255, np.uint8)
    rgba[:, :4, 3] = 0
    rgba[:, 4, 3] = 128
    grey, counts = read(save_grey(tmp_path / "a.png", rgba))
    assert (grey[:, :4] == 0).all()
    assert (abs(grey[:, 4].astype(int) - 128) <= 1).all()
    assert (grey[:, 5:] == 255).all()
    assert counts.with_transparency == 1


def test_cubic_resizing_keeps_means_and_straight_edges(tmp_path):
    """Bicubic with support stretched over all source pixels: a ramp stays a ramp."""
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    small, counts = read(save_grey(tmp_path / "ramp.png", ramp), side=16)
    wanted = np.arange(16) * 16 + 6.0  # mean of four neighbours
    np.testing.assert_allclose(small[8, 2:-2], wanted[2:-2], atol=1.0)
    assert counts.resized == 1


def test_inverting_and_thresholding(tmp_path):
    pixels = np.array([[0, 149, 150, 151, 255, 10, 20, 30]] * 8, np.uint8)
    path = save_grey(tmp_path / "a.png", pixels)
    assert read(path, binarize_at=150)[0][0].tolist() == [0, 0, 0, 255, 255, 0, 0, 0]
    assert np.array_equal(read(path, invert=True)[0], 255 - pixels)
    white = save_grey(tmp_path / "b.png", np.full((8, 8), 255, np.uint8))
    _, counts = read(white)
    assert (counts.blank, counts.light_border) == (1, 1)


def test_what_is_not_square_is_refused_padded_or_stretched(tmp_path):
    path = save_grey(tmp_path / "wide.png", np.full((8, 16), 200, np.uint8))
    with pytest.raises(DataError, match=r"wide.png: expected a square image, found 16x8 .*pad"):
        read(path)
    padded, counts = read(path, side=16, fit="pad")
    assert (padded[4:12] == 200).all()
    assert (padded[:4] == 0).all()
    assert (padded[12:] == 0).all()
    assert counts.not_square == 1
    assert (read(path, side=16, fit="stretch")[0] == 200).all()


def test_all_bad_images_are_counted_and_the_first_named(tmp_path):
    good = save_grey(tmp_path / "1.png", np.eye(8, dtype=np.uint8) * 255)
    (tmp_path / "2.png").write_bytes(good.read_bytes()[:-30])
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.jpg").write_bytes(b"no image at all")
    images, _ = find_images(tmp_path)
    with pytest.raises(DataError) as caught:
        write_images(images, ImageRules(8), tmp_path / "out.npy")
    message = str(caught.value)
    assert "3 of 4 images cannot be used; each belongs to a target" in message
    assert all(
        f"{name}: expected a PNG or JPEG" in message for name in ("2.png", "3.png", "4.jpg")
    )
    write_images(images[:1], ImageRules(8), tmp_path / "out.npy")
    stored = np.load(tmp_path / "out.npy")
    assert stored.dtype == np.uint8
    assert np.array_equal(stored, np.eye(8, dtype=np.uint8)[None, None] * 255)


def nested(values: np.ndarray) -> list:
    return values.astype(float).tolist()


def write_layouts(folder: Path) -> dict[str, Path]:
    """The same targets in every layout."""
    paths = {name: folder / f"fields.{name}" for name in ("npy", "npz", "parquet", "pickle")}
    np.save(paths["npy"], FIELDS)
    np.savez(paths["npz"], fields=FIELDS, names=NAMES)
    pq.write_table(pa.table({"field": nested(FIELDS), "name": NAMES}), paths["parquet"])
    paths["pickle"].write_bytes(pickle.dumps(FIELDS))
    return paths


@pytest.mark.parametrize("layout", ["npy", "npz", "parquet", "pickle"])
def test_fields_are_the_same_from_every_layout(tmp_path, layout):
    found = read_targets(write_layouts(tmp_path)[layout], "fields", allow_pickle=True)
    np.testing.assert_allclose(found.arrays["fields"], FIELDS, rtol=1e-6)
    assert found.count == 5
    assert found.names == (NAMES if layout in ("npz", "parquet") else None)


def test_latents_are_the_same_from_every_layout(tmp_path):
    folder = tmp_path / "latents"
    folder.mkdir()
    np.save(folder / "main.npy", MAIN)
    np.save(folder / "hier.npy", HIER)
    np.savez(tmp_path / "l.npz", main=MAIN, hier=HIER)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(MAIN.reshape(-1)), 6)
    pq.write_table(pa.table({"main": fixed, "hier": nested(HIER)}), tmp_path / "l.parquet")
    for path in (folder, tmp_path / "l.npz", tmp_path / "l.parquet"):
        found = read_targets(path, "latents")
        np.testing.assert_allclose(found.arrays["main"], MAIN, rtol=1e-6)
        np.testing.assert_allclose(found.arrays["hier"], HIER, rtol=1e-6)
    np.save(folder / "hier.npy", HIER[:4])
    with pytest.raises(DataError, match="5 in main, 4 in hier"):
        read_targets(folder, "latents")
    (folder / "hier.npy").unlink()
    with pytest.raises(DataError, match=r"found no hier\.npy"):
        read_targets(folder, "latents")


def test_parquet_rows_beyond_one_batch_keep_their_order(tmp_path):
    fields = np.random.default_rng(0).normal(size=(150, 2, 3))
    pq.write_table(pa.table({"field": fields.tolist()}), tmp_path / "f.parquet", row_group_size=40)
    found = read_targets(tmp_path / "f.parquet", "fields").arrays["fields"]
    np.testing.assert_array_equal(found, fields)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_pickles_need_a_flag_and_even_then_call_nothing(tmp_path):
    path = write_layouts(tmp_path)["pickle"]
    with pytest.raises(DataError, match=r"a pickle is a program.*data\.allow_pickle=true"):
        read_targets(path, "fields")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(FIELDS, protocol))
        found = read_targets(path, "fields", allow_pickle=True)
        assert np.array_equal(found.arrays["fields"], FIELDS)
    # As numpy 1 named its modules.
    path.write_bytes(pickle.dumps(FIELDS, 2).replace(b"numpy._core", b"numpy.core"))
    assert read_targets(path, "fields", allow_pickle=True).count == 5
    path.write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with pytest.raises(DataError, match=r"needs no (posix|nt|os)\.mkdir"):
        read_targets(path, "fields", allow_pickle=True)
    assert not (tmp_path / "mark").exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - written above
    assert (tmp_path / "mark").exists()  # the file does what it seems to
    for content in (pickle.dumps([1, 2]), pickle.dumps(FIELDS)[:-20], b"rubbish", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"fields\.pickle"):
            read_targets(path, "fields", allow_pickle=True)


def with_row(row: int, value: float) -> np.ndarray:
    fields = FIELDS.astype(np.float64)
    fields[row, 1, 2] = value
    return fields


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (FIELDS[0], r"expected real numbers in fields \[samples, time steps, nodes\].*\[4, 3\]"),
        (FIELDS[:0], r"\[0, 4, 3\]"),
        (FIELDS.astype(str), "found <U"),
        (FIELDS.astype(complex), "found complex"),
        (with_row(3, np.nan), "in 1 of 5 samples, the first at rows 3"),
        (with_row(2, 1e300), "at rows 2"),
    ],
)
def test_wrong_shapes_types_and_values_are_named(tmp_path, values, message):
    np.save(tmp_path / "f.npy", values)
    with pytest.raises(DataError, match=message):
        read_targets(tmp_path / "f.npy", "fields")


def test_damaged_and_foreign_files_are_named(tmp_path):
    for name in ("f.npy", "f.npz", "f.parquet"):
        (tmp_path / name).write_bytes(b"not such a file")
        with pytest.raises(DataError, match=name):
            read_targets(tmp_path / name, "fields")
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"o\.npy"):
        read_targets(tmp_path / "o.npy", "fields")
    (tmp_path / "f.csv").write_text("1,2")
    (tmp_path / "bare").write_text("1,2")
    for name in ("f.csv", "bare"):
        with pytest.raises(DataError, match=r"read from \.npz, \.parquet, \.npy, \.pickle"):
            read_targets(tmp_path / name, "fields")
    with pytest.raises(DataError, match="found no such file"):
        read_targets(tmp_path / "missing.npy", "fields")
    with pytest.raises(DataError, match="found a folder"):
        read_targets(tmp_path, "fields")
    np.savez(tmp_path / "two.npz", a=FIELDS, b=FIELDS)
    with pytest.raises(DataError, match="found a, b, no fields"):
        read_targets(tmp_path / "two.npz", "fields")
    np.savez(tmp_path / "one.npz", anything=FIELDS)
    assert read_targets(tmp_path / "one.npz", "fields").count == 5
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="expected a column field, found x"):
        read_targets(tmp_path / "x.parquet", "fields")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[1.0], [2.0]], [[1.0]]], "one length in field"),
        ([[[1.0]], None], "found nulls"),
        ([[[1.0]], [[None]]], "found nulls"),
    ],
)
def test_ragged_columns_are_refused(tmp_path, rows, message):
    pq.write_table(pa.table({"field": rows}), tmp_path / "f.parquet")
    with pytest.raises(DataError, match=message):
        read_targets(tmp_path / "f.parquet", "fields")


def test_counts_and_names_must_agree(tmp_path):
    paths = write_layouts(tmp_path)
    images = [tmp_path / "images" / f"img{i}.png" for i in range(5)]
    named = read_targets(paths["npz"], "fields")
    check_pairs(tmp_path / "images", images, named)
    with pytest.raises(DataError, match=r"4 images in .*images and 5 samples in .*fields\.npz"):
        check_pairs(tmp_path / "images", images[:4], named)
    np.savez(tmp_path / "mixed.npz", fields=FIELDS, names=[NAMES[i] for i in (0, 2, 1, 3, 4)])
    with pytest.raises(DataError, match=r"image 1 of .* is img1\.png.*is named img2"):
        check_pairs(tmp_path / "images", images, read_targets(tmp_path / "mixed.npz", "fields"))
    np.savez(tmp_path / "few.npz", fields=FIELDS, names=NAMES[:3])
    with pytest.raises(DataError, match="5 in fields, 3 in names"):
        read_targets(tmp_path / "few.npz", "fields")
