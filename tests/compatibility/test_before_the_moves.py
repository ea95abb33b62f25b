"""What was written before the modules were moved: it opens, goes on and measures the same.

fixtures/ was made by commit f53247d: trainings that were stopped at step 4 of 8, and a sweep whose
driver and cluster were killed while its third trial trained. Beside each is what that commit
itself made of it afterwards; of `compression`, whose noise is drawn by sample since then, the
commit that changed that. To keep it small, the only checkpoint of the sweep is the one of its
third trial, and it stands for the checkpoint of hdr_patch as well. The sweep is only read here;
tests/ray/test_before_the_moves.py goes on with it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ray_jobs import evaluate, train
from ray_jobs.analyze import load_reports, load_sweep
from ray_jobs.sweeping.resume import stored_setup, what_changed
from results.directory import read_sweep
from settings.flat import flatten
from settings.resolve import resolve
from trainables.checkpoints.checkpoint import read_meta
from trainables.compression.settings import CompressionSettings
from trainables.hdr_patch.system import HdrPatchSettings

FIXTURES = Path(__file__).parent / "fixtures"
TRAININGS = {
    "hdr_patch": "hdr_patch_sweep/trials/0002",
    "conditioner": "checkpoints/conditioner",
    "compression": "checkpoints/compression",
    "field_vae": "checkpoints/field_vae",  # it calls itself trainables.field_vae:FieldVae
}

ELSEWHERE = 1e-4
"""Relative (and absolute) tolerance on another torch or CPU, as in tests/golden."""

TRAINED_ELSEWHERE = 1e-3
"""The same of what is trained on: training makes more of a rounding."""

ROUNDED, ROUNDED_ELSEWHERE = ("quantised", "rate"), 0.05
"""Measures of rounded values, and counts of few: a last bit may change a whole one of them."""

BY_SIZE = ("_tiny", "_small", "_medium", "_large")
"""Measures of lesions by class of size: another estimate of the size has put some into others."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Prepared data, made once for all that is measured and trained here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(params=TRAININGS)
def training(request, tmp_path, cache, monkeypatch, one_thread):
    """(a copy of the training, what f53247d made of it)."""
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(cache))
    copied = shutil.copytree(FIXTURES / TRAININGS[request.param], tmp_path / "training")
    if request.param == "hdr_patch":  # a trial's reports are in the folder of its sweep
        shutil.copy(FIXTURES / "hdr_patch_sweep/reports/0002.jsonl", copied / "reports.jsonl")
    return copied, json.loads((FIXTURES / f"checkpoints/{request.param}.json").read_text())


def measured(directory, capsys):
    """The step and the columns that `evaluate` prints."""
    capsys.readouterr()
    assert evaluate.main([str(directory), "--json", "--no-references"]) == 0
    found = json.loads(capsys.readouterr().out)
    del found["checkpoint"]
    return found


def check_near(found, stored, tolerance):
    assert found.keys() >= stored.keys(), "measures may come, and none may go"
    for column, value in stored.items():
        if column.endswith(BY_SIZE):
            continue
        wide = any(part in column for part in ROUNDED)
        own = ROUNDED_ELSEWHERE if wide else tolerance
        near = None if value is None else pytest.approx(value, rel=own, abs=own)
        assert found[column] == near, column


@pytest.mark.slow
def test_a_checkpoint_measures_what_it_measured(training, capsys):
    directory, stored = training
    check_near(measured(directory, capsys), stored["evaluated"], ELSEWHERE)


@pytest.mark.slow
def test_a_training_goes_on_to_its_end(training, capsys):
    """From its own checkpoint, and to the end that it came to then."""
    directory, stored = training
    file = directory / "reports.jsonl"
    before = file.read_text().splitlines()
    assert train.main(["--resume", "--no-ray", "--dir", str(directory)]) == 0
    after = file.read_text().splitlines()
    assert after[: len(before)] == before
    steps = [json.loads(line)["step"] for line in after[len(before) - 1 :]]
    assert steps[0] == stored["evaluated"]["step"] < steps[1]
    assert steps[-1] == stored["resumed"]["step"]
    columns = [json.loads(line).keys() for line in after]
    assert all(each >= columns[0] for each in columns), "in every report, before and after"
    assert all(each == columns[-1] for each in columns[len(before) :])
    check_near(measured(directory, capsys), stored["resumed"], TRAINED_ELSEWHERE)


@pytest.fixture
def sweep(tmp_path):
    """A copy of the killed sweep."""
    return shutil.copytree(FIXTURES / "hdr_patch_sweep", tmp_path / "hdr_patch_sweep")


def test_a_killed_sweep_is_read(sweep):
    """Two trials are done, one was cut short, the others have not begun."""
    trials, reports = load_sweep(sweep), load_reports(sweep)
    assert trials["trial"].tolist() == [0, 1, 2]
    assert trials["state"].tolist() == ["complete", "complete", "interrupted"]
    assert trials["point"].tolist() == ["document", "before", "prefill"]
    assert trials["steps"].tolist() == [12, 12, 8]
    assert reports.groupby("trial")["step"].last().tolist() == [12, 12, 8]
    stored = json.loads((FIXTURES / "hdr_patch_sweep.json").read_text())["trials"]
    assert trials["value"].tolist()[:2] == [row["value"] for row in stored[:2]]
    assert trials["is_best"].tolist() == [False, True, False]
    newest = sweep / "trials/0002/checkpoints/step-00000008"
    assert trials["checkpoint"].tolist() == ["", "", str(newest)]


def test_settings_that_came_since_say_what_was_done(sweep):
    """Not their defaults; a preset that is given again on a resume does not change them."""
    kept = {"data.split": "time", "model.motion_in_holes": True}
    newest = sweep / "trials/0002/checkpoints/step-00000008"
    assert kept.items() <= read_sweep(sweep).settings.items()
    assert kept.items() <= read_meta(newest)["settings"].items()
    setup = stored_setup(sweep)
    assert setup.configured.values["data.split"] == "time"
    changes = what_changed(setup, {"preset": "before"}, [])
    assert not [line for line in changes if any(key in line for key in kept)]
    file = sweep / "trials/0002/settings.json"
    for stored, split in ((True, "time"), (False, "shots")):
        resolved = resolve(HdrPatchSettings, "hdr_patch", file=file, stored=stored)
        assert resolved.settings.data.split == split
        assert resolved.settings.model.motion_in_holes is stored


def test_a_training_of_before_keeps_the_geometry_and_the_intensities_of_its_images():
    stored = FIXTURES / "checkpoints/compression"
    kept = {"data.fit": "stretch", "data.below_zero": "each"}
    meta = read_meta(stored / "checkpoints/step-00000004")
    assert kept.items() <= meta["settings"].items()
    file = stored / "settings.json"
    for is_stored, data in ((True, kept), (False, {"data.fit": "pad", "data.below_zero": "auto"})):
        resolved = resolve(CompressionSettings, "compression", file=file, stored=is_stored)
        assert data.items() <= flatten(resolved.settings).items()


def test_a_name_that_was_is_read_as_the_one_that_is(sweep):
    """In both places of sweep.json, so that a resume compares like with like."""
    file = sweep / "sweep.json"
    document = json.loads(file.read_text())
    document["system"] = document["space"]["system"] = "benchmarks.toy:Toy"
    file.write_text(json.dumps(document))
    read = read_sweep(sweep)
    names = {read.system, read.document["system"], read.document["space"]["system"]}
    assert names == {"trainables.toy:Toy"}
