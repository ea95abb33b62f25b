"""A demo that warns of nothing: a warning that every default training prints teaches to read none.
"""

from __future__ import annotations

import pytest

from ray_jobs.train import main

SHORT = ("train.steps=8", "train.report_every=4", "train.tensorboard=false", "--no-ray")


@pytest.mark.slow
@pytest.mark.parametrize("system", ["hdr_patch", "conditioner", "compression", "diffusion"])
def test_a_default_training_warns_of_nothing(
    system, tmp_path, shared_cache, monkeypatch, capsys, one_thread
):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    assert main([system, *SHORT, "--dir", str(tmp_path / "run")]) == 0
    assert "warning" not in capsys.readouterr().err
