"""Files of latents: what comes back, what a reader refuses."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc

from data.files import DataError
from data.latents import FACTS, LatentBatch, read_latents, write_latents

SHAPE = (3, 4, 5)
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
