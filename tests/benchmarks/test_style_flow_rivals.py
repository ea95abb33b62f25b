from __future__ import annotations

import pytest

from benchmarks.measuring.bare import SIDES, steps_of
from benchmarks.rivals.gram import memory, sampled
from benchmarks.rivals.patch_transport import closed_form, exchanged_value, null_floors, same_value
from trainables.style_flow.system import StyleFlow


@pytest.mark.slow  # imports POT
def test_the_value_is_pots_with_the_same_directions():
    value, difference = same_value("value")
    assert difference.value <= 1e-5
    assert value.value == pytest.approx(value.peer_value, rel=1e-5)


@pytest.mark.parametrize("means", ["different", "equal"])
def test_independent_patches_have_the_distance_of_their_laws(means):
    row = closed_form(means)
    assert row.value == pytest.approx(row.peer_value, rel=0.02)


def test_the_null_floor_falls_with_the_number_of_patches():
    values = [row.value for row in null_floors()]
    assert values[0] > 5 * values[-1] > 0.0


def test_exchanged_styles_are_seen_by_sample_and_by_style_and_not_pooled():
    values = {group: exchanged_value(group) for group in ("sample", "style", "pooled")}
    assert values["style"] > 100 * values["pooled"]
    assert values["sample"] > 100 * values["pooled"]


def test_sampled_positions_are_unbiased_without_the_diagonal_and_too_low_with_it():
    found = {form: list(sampled(form, draws=400)) for form in ("off_diagonal", "with_diagonal")}
    assert found["off_diagonal"][1].value < 3.0
    mean, full = found["with_diagonal"][0].value, found["with_diagonal"][0].peer_value
    assert mean < found["off_diagonal"][0].value
    assert full < found["off_diagonal"][0].peer_value


def test_a_quarter_of_the_positions_is_a_sixteenth_of_the_memory():
    row = memory()
    assert (row.value, row.peer_value, row.ratio) == (12.0, 192.0, 16.0)


@pytest.mark.slow
def test_both_loops_take_steps(shared_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    sides = {side: steps_of(side, StyleFlow(), tmp_path / side, 2, {}) for side in SIDES}
    assert all(block() > 0.0 for block in sides.values())
