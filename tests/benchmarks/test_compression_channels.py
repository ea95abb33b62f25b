from __future__ import annotations

import pytest
import torch

from benchmarks.compression_channels import psnr_of_leading
from settings.flat import replace
from trainables.checkpoints import checkpoint
from trainables.compression.system import Compression
from trainables.contract.examined import SHORT
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.system import load_system

CHANGES = {
    **Compression.small,
    **SHORT,
    "discriminator.enabled": False,
    "loss.adversarial.enabled": False,
    "model.kind": "dcae",
    "model.dcae.widths": (16, 32, 64),
    "model.dcae.layers": (0, 1, 1),
    "model.dcae.decoder_layers": (0, 1, 1),
    "model.dcae.latent_channels": 64,
    "model.dcae.structured.enabled": True,
}


@pytest.mark.slow
def test_all_channels_carry_what_the_training_measured(tmp_path, monkeypatch):
    """The validation of the training is the reference."""
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    system = load_system("compression")
    settings = replace(system.Settings(), CHANGES)
    run = LocalRun(tmp_path / "run")
    fit(system, settings, run, system.prepare(settings, tmp_path / "cache"))
    path = checkpoint.find(tmp_path / "run")
    none, all_of_them = psnr_of_leading(path, (0, 64))
    assert all_of_them == pytest.approx(run.history[-1]["val.psnr_db"], rel=1e-6)
    assert none != pytest.approx(all_of_them, rel=1e-3)
