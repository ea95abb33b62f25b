"""A sweep whose references are measured beside it, and whose winner is at its end."""

from __future__ import annotations

import json

import pytest

from benchmarks.real_search import outcome
from results import load_references, load_sweep
from results.leaderboard import number

OPTIONS = ("--trials", 2, "--test", "--max-concurrent", 1, "--space", "weights")
REFERENCES = {"mean", "nearest", "ridge", "untrained"}


@pytest.fixture(scope="module")
def cluster(kit):
    with kit.new_cluster(cpus=2, api_server=False) as made:
        yield made


@pytest.fixture(scope="module")
def settings():
    from trainables.system import load_system

    small = load_system("conditioner").small
    fixed = {**small, "train.steps": 4, "train.report_every": 2, "train.tensorboard": False}
    return [f"{key}={json.dumps(value)}" for key, value in fixed.items()]


@pytest.fixture(scope="module")
def swept(cluster, settings):
    directory = cluster.place / "sweep"
    ran = cluster.place.run(
        "conditioner", *OPTIONS, *settings, "--dir", directory, "--address", cluster.address
    )
    assert ran.status == 0, ran.text
    assert "warning: the" not in ran.text, ran.text
    return directory, ran.text


def test_frame_leaderboard_and_headline_have_them(swept):
    directory, text = swept
    frame, references = load_sweep(directory), load_references(directory)
    assert set(references["reference"]) == REFERENCES
    assert {f"vs_reference/{name}" for name in REFERENCES} < set(frame)
    whole = references[references["unit"] == ""].set_index("reference")["val.decoded_field_error"]
    gains = frame["vs_reference/ridge"] + frame["value"]
    assert gains.tolist() == pytest.approx([whole["ridge"]] * 2)
    assert "= ridge" in text and "by two standard errors" in text
    found = outcome(directory)
    assert f"On the test split: val.decoded_field_error {number(found.winner)}" in text
    look = json.loads((directory / "test.json").read_text())["looks"][-1]
    errors = [it["val.decoded_field_error"] for it in look["references"].values()]
    assert found.reference == min(errors)
    measured = json.loads((directory / "by_unit.json").read_text())
    compared = frame[frame["is_best"] | (frame["point"] == "document")]["trial"]
    assert set(measured) == set(map(str, compared))


def test_it_looks_again_only_when_it_went_on(swept, cluster):
    directory, _ = swept
    references = (directory / "references.json").read_bytes()
    same = cluster.place.run("--resume", directory, "--address", cluster.address)
    assert same.status == 0, same.text
    assert len(json.loads((directory / "test.json").read_text())["looks"]) == 1
    more = cluster.place.run("--resume", directory, "--trials", 3, "--address", cluster.address)
    assert more.status == 0, more.text
    assert "On the test split, look 2: val.decoded_field_error" in more.text
    assert (directory / "references.json").read_bytes() == references


def test_a_system_without_a_test_split_is_refused(cluster, kit):
    ran = cluster.place.run(
        kit.TOY, "--trials", 1, "--test", "--dir", cluster.place / "none", "--address",
        cluster.address, "--space", cluster.place.space(),
    )
    assert ran.status == 2
    assert "--test measures the test split at the end, and the data of" in ran.text
    assert not (cluster.place / "none" / "sweep.json").exists()
