"""The frozen decoder of the conditioner lies once beside its checkpoints."""

from __future__ import annotations

import shutil

import numpy as np
import torch
from safetensors.torch import load_file

from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.conditioner.field_latents import load_decoder
from trainables.reporting.measure import evaluate_checkpoint


def numbers(tensors):
    return sum(tensor.numel() for tensor in tensors.values())


def test_a_checkpoint_is_smaller_by_its_decoder(conditioner, tmp_path):
    history, tensors = conditioner.fit(tmp_path / "run")
    settings, prepared = conditioner.settings(), conditioner.prepared()
    path = checkpoint.find(tmp_path / "run")
    own = load_file(path / "modules.safetensors")
    decoder = load_decoder(prepared.decoded).state_dict()
    assert numbers(own) + numbers(decoder) == numbers(tensors)
    assert {key.split(".")[1] for key in own} == {"model"}
    assert numbers(decoder) > 0.3 * numbers(tensors)
    (file,) = (tmp_path / "run/external").iterdir()
    assert file.name == f"{prepared.decoded.decoder.fingerprint}.safetensors"
    measured = evaluate_checkpoint(conditioner.system, settings, prepared, path)
    assert measured == {key: history[-1][key] for key in measured}


def test_it_generates_the_same_without_the_cache_and_elsewhere(conditioner, tmp_path):
    conditioner.fit(tmp_path / "run")
    prepared = conditioner.prepared()
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    modules = open_checkpoint(checkpoint.find(moved)).modules
    images = np.array(np.load(f"{prepared.arrays.folder}/images.npy", mmap_mode="r")[:3])
    image = torch.from_numpy(images).float() / 255.0
    with torch.no_grad():
        latents = modules["model"](image)
        found = modules["decoder"](latents["main"], latents["hier"])
        wanted = load_decoder(prepared.decoded)(latents["main"], latents["hier"])
    assert torch.equal(found, wanted)
