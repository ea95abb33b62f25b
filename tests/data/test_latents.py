"""Files of latents: what comes back, what a reader refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc

from data.files import DataError
from data.latents import ABOUT, FACTS, LatentBatch, read_latents, write_latents

SHAPE = (3, 4, 5)
BEFORE = Path(__file__).parents[1] / "compatibility" / "fixtures" / "latents.arrow"
SOME = {**dict.fromkeys(FACTS, "x"), "shift": 0.5, "scale_factor": 4.0}


def batch(split: str, count: int, seed: int = 0) -> LatentBatch:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 9, (3, count))
    return LatentBatch(split, rng.normal(size=(count, *SHAPE)).astype(np.float32), *numbers)


@pytest.fixture
def three() -> list[LatentBatch]:
    return [batch("train", 4), batch("train", 1, 1), batch("test", 3, 2)]


def test_every_row_comes_back_as_a_view_of_the_file(tmp_path, three):
    path = tmp_path / "new" / "a.arrow"
    facts = write_latents(path, iter(three), lambda: SOME)
    before = pa.total_allocated_bytes()
    found = read_latents(path)
    assert found.facts == facts
    wanted = np.concatenate([one.latent for one in three])
    assert len(found) == len(wanted) == 8
    for row in range(8):
        assert np.array_equal(found.latent(row), wanted[row])
    assert np.array_equal(np.concatenate(found.blocks), wanted)
    assert not found.blocks[0].flags.owndata
    assert not found.blocks[0].flags.writeable
    assert pa.total_allocated_bytes() - before < wanted.nbytes, "the latents were copied"
    for name in ("modality", "patient", "slice"):
        own = np.concatenate([getattr(one, name) for one in three])
        assert np.array_equal(found.column(name), own)
    assert found.column("split").tolist() == ["train"] * 5 + ["test"] * 3
    with pytest.raises(IndexError, match=r"rows 0 \.\. 7, not 8"):
        found.latent(8)


def test_the_type_is_arrows_own_tensor(tmp_path, three):
    write_latents(tmp_path / "a.arrow", three, lambda: SOME)
    field = ipc.open_file(pa.memory_map(str(tmp_path / "a.arrow"))).schema.field("latent")
    assert field.type == pa.fixed_shape_tensor(pa.float32(), SHAPE)


def test_standardised_by_the_facts(tmp_path, three):
    write_latents(tmp_path / "a.arrow", three, lambda: SOME)
    found = read_latents(tmp_path / "a.arrow")
    assert np.allclose(found.standardised(found.latent(2)), (three[0].latent[2] - 0.5) * 4.0)
    write_latents(tmp_path / "b.arrow", three, lambda: {**SOME, "scale_factor": None})
    found = read_latents(tmp_path / "b.arrow")
    with pytest.raises(DataError, match="no scale brings them"):
        found.standardised(found.latent(0))


def test_whole_or_not_at_all(tmp_path, three):
    def broken():
        yield three[0]
        raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        write_latents(tmp_path / "a.arrow", broken(), lambda: SOME)
    with pytest.raises(DataError, match="found no sample"):
        write_latents(tmp_path / "a.arrow", [], lambda: SOME)
    assert not list(tmp_path.iterdir())


def test_what_does_not_say_what_it_is_is_refused(tmp_path, three):
    text, table, part = (tmp_path / f"{name}.arrow" for name in ("text", "table", "part"))
    text.write_text("latents")
    with pytest.raises(DataError, match="expected a complete Arrow file"):
        read_latents(text)
    plain = pa.table({"latent": [1.0]})
    with ipc.new_file(str(table), plain.schema) as writer:
        writer.write_table(plain)
    with pytest.raises(DataError, match=r"columns latent without\. .*encode_latents"):
        read_latents(table)
    write_latents(part, three, lambda: {k: v for k, v in SOME.items() if k != "patients"})
    with pytest.raises(DataError, match="found format 1 without patients"):
        read_latents(part)
    write_latents(part, three, lambda: SOME)
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DataError, match="expected a complete Arrow file"):
        read_latents(part)


def about(count: int, space: tuple[int, ...], seed: int) -> LatentBatch:
    """With masks of which the first is empty, and sizes that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    mask = rng.random((count, *space)) > 0.5
    mask[0] = False
    return dataclasses.replace(
        batch("train", count, seed),
        spacing=rng.random((count, len(space))).astype(np.float32),
        affine=rng.normal(size=(count, 4, 4)),
        inside=rng.integers(0, 300, (count, 2)),
        mask=mask,
        lesions_mm=[rng.random(i) for i in range(count)],
    )


@pytest.mark.parametrize("space", [(5, 7), (3, 5, 7), (4, 8, 8)])
def test_what_a_latent_is_of_comes_back(tmp_path, space):
    given = [about(4, space, 0), about(1, space, 1), about(3, space, 2)]
    facts = {**SOME, "image_shape": [1, *space]}
    write_latents(tmp_path / "a.arrow", given, lambda: facts)
    found = read_latents(tmp_path / "a.arrow")
    assert found.absent == ()
    found.need("mask", "affine")
    for name in ("spacing", "affine", "inside"):
        own = np.concatenate([getattr(one, name) for one in given])
        assert np.array_equal(getattr(found, name), own)
    assert found.affine.dtype == np.float64
    masks = np.concatenate([one.mask for one in given])
    sizes = [size for one in given for size in one.lesions_mm]
    for row in range(8):
        assert np.array_equal(found.mask(row), masks[row])
        assert found.mask(row).dtype == np.bool_
        assert np.array_equal(found.lesions_mm(row), np.asarray(sizes[row], np.float32))


def test_a_mask_is_a_bit_a_pixel_and_nothing_without_lesions(tmp_path):
    """Read by another way than ours: the digits of the bytes, row by row."""
    given = about(2, (5, 7), 3)
    write_latents(tmp_path / "a.arrow", [given], lambda: SOME)
    empty, full = ipc.open_file(str(tmp_path / "a.arrow")).read_all()["mask"].to_pylist()
    assert empty == b""
    assert len(full) == 5  # 35 pixels
    digits = "".join(f"{byte:08b}" for byte in full)
    assert digits[:35] == "".join(str(int(pixel)) for pixel in given.mask[1].ravel())


def test_a_file_that_the_version_before_wrote_is_read():
    """fixtures/latents.arrow was made by commit ac2eb98, of three slices of noise each."""
    found = read_latents(BEFORE)
    assert found.column("split").tolist() == ["train"] * 3 + ["validation"] * 3
    assert found.column("slice").tolist() == [0, 1, 2] * 2
    assert found.patient_names() == ["1"] * 3 + ["2"] * 3
    assert found.absent == ABOUT
    assert (found.spacing, found.affine, found.inside) == (None, None, None)
    assert (found.mask(0), found.lesions_mm(0)) == (None, None)
    with pytest.raises(DataError, match=r"expected mask, lesions_mm of every sample.*encode_la"):
        found.need("mask", "lesions_mm")
    train = np.stack([found.latent(row) for row in range(3)])
    assert abs(found.standardised(train).mean()) < 1e-6
    each = found.standardised(train, per_channel=True)
    assert np.allclose(each.mean(axis=(0, 2, 3)), 0.0, atol=1e-6)
    assert np.allclose(each.std(axis=(0, 2, 3)), 1.0, atol=1e-6)
    assert np.allclose(found.restored(each, per_channel=True), train, rtol=0.0, atol=1e-6)
    assert found.constant_channels == []


def test_channels_are_standardised_by_the_facts(tmp_path, three):
    facts = {**SOME, "channel_mean": [1.0, -2.0, 0.5], "channel_std": [2.0, 0.5, 0.0]}
    write_latents(tmp_path / "a.arrow", three, lambda: facts)
    found = read_latents(tmp_path / "a.arrow")
    latent = three[0].latent[2]
    wanted = np.stack([(latent[0] - 1.0) / 2.0, (latent[1] + 2.0) / 0.5, latent[2] - 0.5])
    assert np.allclose(found.standardised(latent, per_channel=True), wanted, atol=1e-6)
    assert np.allclose(found.restored(wanted, per_channel=True), latent, atol=1e-6)
    assert found.constant_channels == [2]
    scale = found.scale(per_channel=True)
    assert scale.shift.shape == scale.deviation.shape == (3, 1, 1)
    assert np.allclose(found.restored(found.standardised(latent)), latent, atol=1e-6)
