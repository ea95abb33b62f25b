"""The verb `encode_latents`, and `generate` for the system compression, on an untrained
checkpoint.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from data.latents import read_latents
from data.mri.nifti_write import write_nifti
from ray_jobs import encode_latents, generate
from settings.flat import flatten, replace
from trainables.checkpoints import checkpoint
from trainables.compression.system import Compression
from trainables.system import load_system
from trainables.toy import Toy


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with patients of noise and the checkpoint of a network that nobody has trained."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for place in ("train/1", "val/2", "test/3"):
        values = rng.integers(1, 500, (16, 16, 5)).astype(np.int16)
        write_nifti(folder / "mri" / place / "bravo.nii.gz", values, np.eye(4), "noise")
    system = Compression()
    changes = {
        "model.vae.widths": (8, 8),
        "data.image_size": 16,
        "data.source": "folder",
        "data.root": str(folder / "mri"),
    }
    settings = replace(system.Settings(), changes)
    torch.manual_seed(0)
    built = system.build(settings, None)
    module = built.modules["autoencoder"]
    tensors = {f"module.autoencoder.{key}": value for key, value in module.state_dict().items()}
    meta = {"system": system.name, "settings": flatten(settings), "built": dict(built.meta)}
    checkpoint.save(folder / "checkpoints", 7, tensors, {}, meta)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))


def encode(*arguments):
    return encode_latents.main([str(argument) for argument in arguments])


def test_the_file_says_what_was_printed(run, tmp_path, capsys):
    path = tmp_path / "a.arrow"
    given = ("--checkpoint", run, "--output", path, "--split", "train,test")
    assert encode(*given, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    found = read_latents(path)
    assert printed == {**found.facts, "output": str(path)}
    assert found.facts["samples"] == {"train": 5, "test": 5}
    assert found.facts["patients"] == {"train": ["1"], "test": ["3"]}
    assert found.facts["latent_shape"] == list(found.latent(0).shape) == [3, 8, 8]
    assert found.facts["factors"] == [2, 2]
    assert found.facts["data"]["image_size"] == 16
    weights = run / "checkpoints" / "step-00000007" / "modules.safetensors"
    content = weights.read_bytes()
    source = found.facts["checkpoint"]
    assert source["fingerprint"] == f"{len(content)}-{zlib.crc32(content):08x}"
    assert (source["path"], source["step"]) == (str(weights.parent), 7)
    train = np.stack([found.latent(row) for row in range(5)])
    assert abs(found.standardised(train).mean()) < 1e-5
    assert found.standardised(train).std() == pytest.approx(1.0, rel=1e-5)


def test_volumes_are_written_slice_by_slice_and_refused_of_a_3d_model(run, tmp_path, capsys):
    path = tmp_path / "a.arrow"
    given = ("--output", path, "--volumes", "data.volume_size=8,64,64")
    assert encode("--checkpoint", run, *given) == 0
    found = read_latents(path)
    assert found.latent(0).shape == (3, 8, 8, 8)
    assert found.facts["factors"] == [1, 2, 2]
    assert len(found) == 3
    volumes = replace(
        Compression.Settings(), {"model.spatial_dims": 3, "data.root": str(run / "mri"),
                                 "data.source": "folder", "model.vae.widths": (8, 8)}
    )
    module = Compression().build(volumes, None).modules["autoencoder"]
    tensors = {f"module.autoencoder.{key}": value for key, value in module.state_dict().items()}
    meta = {"system": "compression", "settings": flatten(volumes), "built": {"channels": 1}}
    checkpoint.save(tmp_path / "checkpoints", 1, tensors, {}, meta)
    capsys.readouterr()
    assert encode("--checkpoint", tmp_path, "--measure-only", "--volumes") == 2
    assert "--volumes is for a 2-D autoencoder" in capsys.readouterr().err


def test_volumes_take_the_deepest_patient_unless_a_size_is_given(run, tmp_path, capsys):
    rng = np.random.default_rng(3)
    for place, depth in (("train/1", 9), ("train/2", 14), ("val/1", 10)):
        values = rng.integers(1, 500, (16, 16, depth)).astype(np.int16)
        write_nifti(tmp_path / "deep" / place / "bravo.nii.gz", values, np.eye(4), "noise")
    path = tmp_path / "a.arrow"
    given = ("--checkpoint", run, "--output", path, "--volumes", f"data.root={tmp_path / 'deep'}")
    assert encode(*given) == 0
    said = capsys.readouterr()
    assert "cropped_slices 0, padded_slices 9" in " ".join(said.out.split())
    assert "without a latent" not in said.err
    assert read_latents(path).facts["latent_shape"] == [3, 14, 8, 8]
    assert encode(*given, "data.volume_size=8,16,16") == 0
    said = capsys.readouterr()
    assert "cropped_slices 9, padded_slices 0" in " ".join(said.out.split())
    assert "warning: --volumes with D = 8 leaves 9 of 33 slices (27.3%)" in said.err
    found = read_latents(path)
    assert found.facts["latent_shape"] == [3, 8, 8, 8]
    assert (found.facts["cropped_slices"], found.facts["constant_channels"]) == (9, 0)


def test_measuring_writes_nothing_and_other_data_can_be_named(run, tmp_path, capsys):
    given = ("--checkpoint", run, "--measure-only")
    assert encode(*given, "--json") == 0
    own = json.loads(capsys.readouterr().out)
    assert encode(*given, "data.normalise=min_max", "--json") == 0
    other = json.loads(capsys.readouterr().out)
    assert own["scale_factor"] != other["scale_factor"]
    assert encode(*given) == 0
    assert f"scale_factor      {own['scale_factor']:.6g}" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.arrow"))


def test_what_cannot_work_is_refused_in_words(run, tmp_path, capsys):
    output = ("--output", tmp_path / "a.arrow")
    cases = [
        ((), "give either --output FILE, or --measure-only"),
        ((*output, "--measure-only"), "give either --output FILE, or --measure-only"),
        (("--output", tmp_path / "a.npy"), "the name of a .arrow file, not 'a.npy'"),
        ((*output, "--split", "train,tests"), "--split takes some of train,validation,test"),
        ((*output, "model.kind=dcae"), "model.kind is part of what was trained"),
    ]
    for arguments, message in cases:
        assert encode("--checkpoint", run, *arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a.arrow").exists()


def store(system, folder):
    """The checkpoint of a system without data that nobody has trained."""
    settings = system.Settings()
    tensors = {
        f"module.{name}.{key}": value
        for name, module in system.build(settings, None).modules.items()
        for key, value in module.state_dict().items()
    }
    meta = {"system": system.name, "settings": flatten(settings)}
    checkpoint.save(folder / "checkpoints", 1, tensors, {}, meta)


def test_a_system_without_latents_is_refused(tmp_path, capsys):
    store(Toy(), tmp_path)
    assert encode("--checkpoint", tmp_path, "--measure-only") == 2
    said = capsys.readouterr().err
    assert f"{Toy.name} has no member `encode`: {tmp_path}" in said
    assert "Systems with it: compression" in said


OWN = """
from trainables.parts import Loaders
from trainables.toy import Toy

class Encoder(Toy):
    name = "encoded_by_a_test:Encoder"

    def loaders(self, settings, prepared):
        return Loaders([], [], notes={"samples": settings.data.samples}, warnings=["one is dark"])

    def encode(self, settings, modules, prepared, splits, source, output):
        assert not modules["model"].training
        output.write_text(f"{source['step']}")
        return {"latent_shape": [2], "samples": dict.fromkeys(splits, settings.data.samples)}
"""


def test_a_system_of_ones_own_is_encoded(tmp_path, monkeypatch, capsys):
    (tmp_path / "encoded_by_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    store(load_system("encoded_by_a_test:Encoder"), tmp_path)
    path = tmp_path / "a.arrow"
    given = ("--checkpoint", tmp_path, "--output", path, "--split", "test")
    assert encode(*given, "data.samples=3") == 0
    captured = capsys.readouterr()
    assert path.read_text() == "1"
    assert captured.err == "warning: one is dark\n"
    assert captured.out.splitlines()[2:] == [
        "  latent_shape      2",
        f"latents are in {path}: test 3",
    ]
    assert encode(*given, "--volumes") == 2
    assert "Encoder has no member `prepare_volumes`" in capsys.readouterr().err


def test_generate_reconstructs_without_the_training_data(run, tmp_path, capsys):
    source = tmp_path / "mine" / "anna" / "bravo.nii.gz"
    values = np.random.default_rng(1).random((20, 20, 4), np.float32)
    write_nifti(source, values, np.diag([2.0, 2.0, 5.0, 1.0]), "noise")
    arguments = ("--checkpoint", run, "--input", tmp_path / "mine", "--output", tmp_path / "out")
    assert generate.main([*map(str, arguments), "--batch-size", "2"]) == 2
    assert "compression takes its inputs one by one" in capsys.readouterr().err
    assert generate.main([*map(str, arguments), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["patients"], found["slices"], found["step"]) == (1, 4, 7)
    assert np.isfinite(found["psnr_db"])
    made = nibabel.load(tmp_path / "out" / "anna" / "bravo.nii.gz")
    assert made.shape == (16, 16, 4)
    assert np.allclose(nibabel.affines.voxel_sizes(made.affine), [2.5, 2.5, 5.0])
    assert (tmp_path / "out" / "figure.png").is_file()
