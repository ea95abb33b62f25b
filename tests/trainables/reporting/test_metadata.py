"""What a training says of itself in metadata.json."""

from __future__ import annotations

import json
import platform
from types import SimpleNamespace

import torch
from torch import nn

from trainables.parts import Loaders
from trainables.reporting.metadata import data, parameters


def public(version):
    """2.13.0 of 2.13.0+cu130."""
    return version.partition("+")[0]


def test_a_training_says_what_it_ran_with_and_on(toys, tmp_path):
    toys.train(toys.ToyGan(), tmp_path)
    found = json.loads((tmp_path / "metadata.json").read_text())
    assert found["system"] == "trainables.toy:ToyGan"
    # A build of torch for one CUDA may say so in one of the two places alone.
    assert public(found["versions"]["torch"]) == public(torch.__version__)
    assert found["versions"]["python"] == platform.python_version()
    assert (found["workers"], found["precision"]) == (1, "no")
    assert found["device"].startswith("cuda" if torch.cuda.is_available() else "cpu")
    own = {"all": 2, "learning": 2, "precisions": ["float32"]}
    assert found["parameters"] == {"model": own, "critic": {**own, "all": 3, "learning": 3}}
    samples = {"train": 64, "validation": 37}
    assert found["data"] == {"samples": samples, "counts": {}, "fingerprint": None}


def test_what_is_frozen_or_short_is_counted_apart():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1).to(torch.bfloat16))
    module[0].requires_grad_(False)
    expected = {"all": 11, "learning": 3, "precisions": ["bfloat16", "float32"]}
    assert parameters(module) == expected


def test_the_data_is_named_as_it_was_prepared():
    loaders = Loaders([1, 2, 3], [1], notes={"bad": 2.0}, test=[1, 2])
    found = data(loaders, SimpleNamespace(folder="/cache/mri-12ab"))
    samples = {"train": 3, "validation": 1, "test": 2}
    assert found == {"samples": samples, "counts": {"bad": 2.0}, "fingerprint": "mri-12ab"}
