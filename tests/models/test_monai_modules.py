"""MONAI in a process of its own, since what is imported stays."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys

def loaded():
    return sorted({"transformers", "monai"} & set(sys.modules))

from models.monai_modules import monai_module
assert monai_module("networks.nets").VQVAE
print(loaded())
import transformers
print(loaded(), bool(transformers.LlamaConfig))
assert monai_module("losses.perceptual").PerceptualLoss
import models.diffusion.unet
print("transformers.models.bert.modeling_bert" in sys.modules)
"""


@pytest.mark.slow
def test_transformers_is_not_imported_with_it_and_can_be_imported_after_it() -> None:
    command = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:3] == [
        "['monai']",
        "['monai', 'transformers'] True",
        "False",
    ]
