"""MONAI in a process of its own, since what is imported stays."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = "print(*sorted({'transformers', 'monai'} & set(sys.modules)))"


def loaded_by(*lines: str) -> str:
    program = "; ".join(("import sys", *lines, LOADED))
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_transformers_is_not_imported_with_it_and_can_be_imported_after_it() -> None:
    nets = "from models.monai_modules import monai_module; monai_module('networks.nets').VQVAE"
    assert loaded_by(nets) == "monai"
    assert loaded_by("import models.diffusion.unet") == "monai"
    assert loaded_by(nets, "import transformers") == "monai transformers"


def test_what_was_imported_before_it_is_used() -> None:
    then = "from models.monai_modules import monai_module; monai_module('networks.nets')"
    bert = "assert 'transformers.models.bert.modeling_bert' in sys.modules"
    assert loaded_by("import transformers", then, bert) == "monai transformers"
    with pytest.raises(subprocess.CalledProcessError):
        loaded_by(then, bert)
