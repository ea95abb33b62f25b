"""What a training that goes on may not change: it is refused before its data are looked at."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ray_jobs import train
from ray_jobs.training.begun import check_network
from settings.flat import replace
from settings.schema import SettingsError
from trainables.toy import Toy

SMALL = (
    "model.filters=12,10,8",
    "model.main_size=6",
    "model.hier_size=4",
    "train.steps=2",
    "train.report_every=2",
    "train.tensorboard=false",
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory, module_on_one_thread):
    """Two stages, of which the data is gone, so that what is refused is refused before them."""
    folder = tmp_path_factory.mktemp("begun")
    values = np.random.default_rng(0).normal(size=(12, 8, 16)).cumsum(axis=1)
    np.save(folder / "data.npy", values.astype(np.float32))
    given = ["field_vae", *SMALL, f"data.fields={folder / 'data.npy'}", "--no-ray"]
    stages = ["--stages", "optimizer.lr=0.1,0.01"]
    assert train.main([*given, *stages, "--dir", str(folder / "run")]) == 0
    (folder / "data.npy").unlink()
    return folder / "run"


@pytest.fixture(scope="module")
def trained(chain):
    """A stage is a training of its own."""
    return chain / "stage-1"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resumed(capsys, folder, *changes):
    assert train.main([*changes, "--no-ray", "--resume", "--dir", str(folder)]) == 2
    return capsys.readouterr().err


def test_another_network_is_refused_with_its_key_and_both_values(trained, capsys):
    before = contents(trained)
    said = resumed(capsys, trained, "model.filters=12,10,9", "train.steps=4", "optimizer.lr=0.1")
    assert said == (
        f"error: a training that goes on keeps its network, and {trained} has another: "
        "model.filters is [12, 10, 8] there, not [12, 10, 9]. Leave it out to go on, or train "
        "the other network in another directory.\n"
    )
    said = resumed(capsys, trained, "model.filters=12,10,9", "model.main_size=7")
    assert "model.filters is [12, 10, 8] there, not [12, 10, 9]; model.main_size is 6" in said
    assert "Leave them out to go on" in said
    assert contents(trained) == before


def test_what_leaves_the_network_as_it_is_comes_to_the_data(trained, capsys):
    for changes in (("train.steps=4",), ("optimizer.lr=0.1", "train.steps=4")):
        assert "data.npy" in resumed(capsys, trained, *changes)


def test_a_stage_is_asked_as_well(chain, capsys):
    said = resumed(capsys, chain, "model.main_size=7", "train.steps=4")
    assert f"and {chain / 'stage-2'} has another: model.main_size is 6 there, not 7." in said


def test_a_damaged_checkpoint_and_none_at_all_ask_nothing(trained, tmp_path):
    system = Toy()
    check_network(system, system.Settings(), tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    for meta in (tmp_path / "run").rglob("meta.json"):
        meta.write_text("{")
    check_network(system, system.Settings(), tmp_path / "run")


class ByData(Toy):
    """Its modules cannot be built without what `prepare` makes."""

    def build(self, settings, prepared):
        if prepared is None:
            raise AttributeError("prepared.columns")
        return super().build(settings, prepared)


def test_a_network_that_is_built_of_the_data_is_left_to_the_loading_of_its_weights(tmp_path):
    directory = tmp_path / "run"
    begin = ["trainables.toy:Toy", "train.steps=2", "train.report_every=2"]
    assert train.main([*begin, "--no-ray", "--dir", str(directory)]) == 0
    other = replace(Toy.Settings(), {"model.dropout": 0.5})
    check_network(ByData(), other, directory)
    check_network(Toy(), other, directory)
    with pytest.raises(AttributeError):
        ByData().build(other, None)
    with pytest.raises(SettingsError, match="keeps its network"):
        check_network(Wide(), other, directory)


class Wide(Toy):
    """Whose network depends on a setting."""

    def build(self, settings, prepared):
        built = super().build(settings, prepared)
        if settings.model.dropout:
            built.modules["more"] = built.modules["model"]
        return built
