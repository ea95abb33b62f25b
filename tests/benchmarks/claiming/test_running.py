"""Where the sweeps of a comparison lie, and which settings draw their units."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.claiming.arms import read_arms
from benchmarks.claiming.running import measured_references, places, run
from settings.schema import SettingsError


def test_without_units_a_sweep_is_a_seed(tmp_path):
    made = places(read_arms("conditioner_flips"), tmp_path, ["train.steps=8"], range(3, 5))
    assert [(p.unit, p.seed, p.directory.name) for p in made] == [
        (0, 3, "seed-3"),
        (0, 4, "seed-4"),
    ]
    assert {p.overrides for p in made} == {("train.steps=8",)}


def test_a_unit_is_a_value_of_the_systems_own_key():
    made = places(read_arms("conditioner_flips"), Path("d"), ["train.steps=8"], [0, 1], [2, 3])
    assert [str(p.directory) for p in made] == [
        "d/unit-2/seed-0",
        "d/unit-2/seed-1",
        "d/unit-3/seed-0",
        "d/unit-3/seed-1",
    ]
    assert made[-1].overrides == ("train.steps=8", "data.seed=3")


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("hdr_patch", ("data.source=folder", "data.root=r"), "no setting of hdr_patch draws this"),
        ("conditioner_flips", ("data.seed=7",), "--units sets data.seed, and an override"),
    ],
)
def test_units_that_cannot_be_drawn_are_refused(name, overrides, says):
    arms = read_arms(name, overrides)
    assert places(arms, Path("d"), overrides, [0])
    with pytest.raises(SettingsError) as error:
        places(arms, Path("d"), overrides, [0], [0, 1])
    assert says in str(error.value)


def test_arms_that_fix_what_draws_a_unit_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("about: an arm\n")
    (tmp_path / "own.yaml").write_text(
        "arms: {system: conditioner, control: a}\npoints: [a.yaml]\nfixed: {data.seed: 1}\n"
        "loss.main_mse.weight: {uniform: [1, 2]}\n"
    )
    with pytest.raises(SettingsError, match="the arms set it too"):
        places(read_arms(str(tmp_path / "own.yaml")), tmp_path, (), [0], [0])


def test_references_are_read_where_they_are(tmp_path):
    (place,) = places(read_arms("conditioner_flips"), tmp_path, (), [0])
    assert measured_references(place) == {}
    place.directory.mkdir()
    (place.directory / "references.json").write_text(json.dumps({"mean": {"val.x": 1.0}}))
    assert measured_references(place) == {"mean": {"val.x": 1.0}}


def test_units_have_seeds_of_their_own():
    arms = read_arms("conditioner_flips")
    made = places(arms, Path("d"), [], [0, 1], [2, 3])
    assert len({place.master_seed for place in made}) == 4
    assert [place.master_seed for place in places(arms, Path("d"), [], [0, 1])] == [0, 1]


def test_an_override_that_is_left_out_is_no_resume(tmp_path):
    """A resume would go on with it in silence, and new seeds would train without it."""
    arms = read_arms("conditioner_flips")
    (place,) = places(arms, tmp_path, ["train.steps=8"], [0])
    place.directory.mkdir()
    origins = {"data.symmetric": "override", "train.steps": "override", "model.filters": "default"}
    (place.directory / "sweep.json").write_text(json.dumps({"origins": origins}))
    with pytest.raises(SettingsError, match=r"data\.symmetric was overridden then and is not now"):
        run(arms, place)
