from __future__ import annotations

import pytest

from benchmarks.compression_memory import BYTES
from benchmarks.measuring.bf16_weights import (
    COLUMNS,
    DRAWS,
    SIDES,
    references,
    rows_of,
    rows_of_references,
    trained,
    values_of,
)
from settings.flat import flatten, replace
from trainables.compression.system import Compression

SMALL = {
    **Compression.small,
    "discriminator.enabled": False,
    "loss.adversarial.enabled": False,
    "train.steps": 8,
    "train.report_every": 4,
    "train.keep_every": 4,
}


def test_the_sides_differ_by_the_precision_of_their_parameters_alone():
    defaults = Compression().Settings()
    one, other, rounded = (flatten(replace(defaults, values_of(side, 1))) for side in SIDES)
    assert {key for key in one if one[key] != other[key]} == {"model.pure_weights"}
    assert other == rounded
    assert one["optimizer.lr"] == 1e-4
    assert one["data.patients"] == (8, 2, 2), "as in the findings, whatever the default is"


@pytest.mark.slow
def test_what_a_training_finds(monkeypatch, shared_cache, one_thread):
    """In the third one torch's own rule is at work: fewer bytes, and weights that stay."""
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    full, now, rounded = (trained(side, 0, SMALL) for side in SIDES)
    assert set(full) == {"bytes", "l1@4", "moved@4", "l1@8", "moved@8"}
    assert (full["bytes"], now["bytes"], rounded["bytes"]) == (BYTES["no"], BYTES["bf16"], 8)
    assert full["moved@8"] > 0.99
    assert rounded["moved@8"] < 0.6 < now["moved@8"]
    assert full["l1@8"] < full["l1@4"]


def test_the_rows_are_means_and_differences_in_pairs():
    """A side that is worse by 0.1 in every draw, whatever the draws differ by."""
    draws = [0.1, 0.2, 0.5, 0.8]
    found = {
        side: [dict.fromkeys(COLUMNS, draw + 0.1 * index) for draw in draws]
        for index, side in enumerate(SIDES)
    }
    assert len(draws) == DRAWS
    rows = {row.name: row for row in rows_of(found)}
    mean = rows["bf16_weights/bf16/l1@100"]
    assert (mean.value, mean.peer_value) == (pytest.approx(0.5), pytest.approx(0.4))
    assert rows["bf16_weights/bf16/l1@100/difference"].value == pytest.approx(0.1)
    assert rows["bf16_weights/bf16/l1@100/difference_error"].value == pytest.approx(0.0, abs=1e-9)
    assert rows["bf16_weights/fp32/l1@100/error"].value == pytest.approx(0.1581, abs=1e-4)
    assert rows["bf16_weights/bf16/moved@100"].ratio == pytest.approx(1.25)
    assert rows["bf16_weights/bf16/bytes"].ratio == pytest.approx(0.8)


@pytest.mark.slow
def test_what_needs_no_training_is_measured_on_the_same_draw(monkeypatch, shared_cache):
    """The mean image is the worst; the linear map keeps what an untrained network does not."""
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    found = references(0, SMALL)
    assert {"mean", "downsampled", "cell_components", "untrained"} <= set(found)
    assert 0.0 < found["untrained"] < found["mean"]
    assert found["mean"] == max(found.values())


def test_the_rows_of_references_are_means_and_their_errors():
    draws = [{"mean": value, "other": 1.0} for value in (0.1, 0.2, 0.5, 0.8)]
    rows = {row.name: row.value for row in rows_of_references(draws)}
    assert rows["bf16_weights/references/mean/l1"] == pytest.approx(0.4)
    assert rows["bf16_weights/references/mean/l1/error"] == pytest.approx(0.1581, abs=1e-4)
    assert rows["bf16_weights/references/other/l1/error"] == 0.0
