"""What `hdr_patch` makes of its data: what it refuses, masks, and measures as a whole."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from data.hdr.files import write_frame
from data.hdr.scenes import sequence
from ray_jobs import evaluate, train
from settings.flat import flatten, replace
from settings.schema import SettingsError
from trainables.checkpoints.restore import open_checkpoint
from trainables.configured import Configured
from trainables.hdr_patch.system import HdrPatch, HdrPatchSettings
from trainables.loop import fit
from trainables.run import LocalRun

STORED = Path(__file__).parents[1] / "compatibility/fixtures/hdr_patch_sweep/trials/0002"

SYSTEM = HdrPatch()


def of_sequences(root: Path, without_motion: str, **changes) -> HdrPatchSettings:
    """Sequences a to d of one frame; those named have no motion."""
    for name, frame in zip("abcd", sequence(4, 64, 96, 0), strict=True):
        motion = None if name in without_motion else frame.motion
        write_frame(root / name, 0, dataclasses.replace(frame, motion=motion), ".npy")
    given = {
        **SYSTEM.small,
        "data.source": "folder",
        "data.root": str(root),
        "data.split": "shots",
        "data.validation_share": 0.25,
        "data.test_share": 0.25,
        "train.steps": 2,
        "train.report_every": 1,
        "train.tensorboard": False,
    }
    return replace(HdrPatchSettings(), {**given, **changes})


def test_motion_that_no_frame_has_is_refused(tmp_path):
    settings = of_sequences(tmp_path / "data", "abcd", **{"model.use_motion": True})
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    with pytest.raises(SettingsError, match=r"of the 4 frames .* none .* model\.use_motion=false"):
        SYSTEM.loaders(settings, prepared)
    without = replace(settings, {"model.use_motion": False})
    assert "motion" not in SYSTEM.loaders(without, prepared).train[0, 0]


def test_motion_that_some_frames_lack_is_masked_and_trains(tmp_path):
    """With a word of warning, and a channel that a checkpoint is opened with again."""
    settings = of_sequences(tmp_path / "data", "bc", **{"model.use_motion": True})
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    warning, other = SYSTEM.loaders(settings, prepared).warnings
    assert "val.flicker stays empty" in other
    assert "2 of 4 frames have no motion" in warning
    fit(SYSTEM, settings, LocalRun(tmp_path / "run"), prepared)
    (newest,) = list((tmp_path / "run/checkpoints").glob("step-*2"))
    network = open_checkpoint(newest).modules["model"].network
    assert network.lacking == ("motion",)
    assert network.stem.conv.weight.shape[1] == 7
    unused = replace(settings, {"model.use_motion": False})
    assert SYSTEM.loaders(unused, prepared).warnings == [other]
    assert SYSTEM.build(unused, prepared).modules["model"].network.lacking == ()


def test_a_network_of_frames_with_motion_does_not_take_others(tmp_path):
    settings = of_sequences(tmp_path / "data", "", **{"model.use_motion": True})
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    built = SYSTEM.build(settings, prepared)
    assert built.meta == {"lacking": []}
    lacking = of_sequences(tmp_path / "other", "d", **{"model.use_motion": True})
    loaders = SYSTEM.loaders(lacking, SYSTEM.prepare(lacking, tmp_path / "cache"))
    batch = {name: tensor[None] for name, tensor in loaders.validation[0].items()}
    with pytest.raises(ValueError, match="some frames have no motion"), torch.no_grad():
        built.modules["model"](batch)


def test_data_to_measure_on_is_not_trained_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))
    settings = of_sequences(tmp_path / "data", "", **{"data.split": "all"})
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    loaders = SYSTEM.loaders(settings, prepared)
    assert loaders.test is None
    assert sorted(set(loaders.units["validation"])) == list("abcd")
    with pytest.raises(SettingsError, match=r"data\.split=all .* set data\.split=shots"):
        fit(SYSTEM, settings, LocalRun(tmp_path / "run"), prepared)
    given = [f"{key}={value}" for key, value in changed(settings).items()]
    assert train.main(["hdr_patch", *given, "--no-ray", "--dir", str(tmp_path / "train")]) == 2
    assert "error: data.split=all puts every frame into validation" in capsys.readouterr().err
    assert not (tmp_path / "train").exists()


def changed(settings: HdrPatchSettings) -> dict[str, object]:
    default = Configured(SYSTEM, HdrPatchSettings()).values
    return {key: value for key, value in flatten(settings).items() if value != default[key]}


@pytest.mark.slow
def test_a_checkpoint_is_measured_on_all_of_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))
    settings = of_sequences(tmp_path / "data", "bcd")
    copied = shutil.copytree(STORED, tmp_path / "run")
    given = ["data.source=folder", f"data.root={settings.data.root}", "data.split=all"]
    assert evaluate.main([str(copied), *given, "--json"]) == 0
    out = capsys.readouterr()
    train = out.err.partition("train: ")[2].partition("validation: ")[0]
    assert "crops 0" in train
    found = json.loads(out.out)
    references = found["references"]["prefill_zero"]
    assert found["val.loss.log"] > 0 and len(references["unit"]) == 4
