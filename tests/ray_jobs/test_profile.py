"""The verb `profile`: its cases, and what it measures."""

from __future__ import annotations

import json
import os

import pytest
import torch

from models.autoencoders.build import build_autoencoder
from models.autoencoders.settings import ModelSettings, VqvaeSettings
from ray_jobs import profile
from settings.flat import replace
from trainables.compression.system import Compression
from trainables.reporting.profile import random_batch


@pytest.mark.slow
def test_a_row_for_each_kind_and_size(capsys):
    tiny = ("model.vqvae.widths=8", "train.batch_size=2")
    given = ("--kinds", "vqvae", "--size", "16,96", "--steps", "1", "--json")
    assert profile.main(["compression", *tiny, *given]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["size"]) for row in rows] == [
        ("vqvae", "16x16"),
        ("vqvae", "96x96"),
    ]
    assert [row["latent"] for row in rows] == [[3, 8, 8], [3, 48, 48]]
    model = build_autoencoder(
        ModelSettings(kind="vqvae", vqvae=VqvaeSettings(widths=(8,))), channels=1
    )
    assert rows[0]["parameters"] == sum(p.numel() for p in model.parameters())
    assert all(row["step_seconds"] > 0 for row in rows)
    assert rows[1]["peak_mb"] > rows[0]["peak_mb"] > 0, "36 times the pixels"


def test_a_table_shows_every_number(capsys):
    """In a pipe there is no width to keep to; columns that no case has are left out."""
    row = {"kind": "hdit-S-of-a-long-name/2", "size": "128x128x160", "batch_size": 1}
    row |= {"parameters": 53_800_000, "critic_parameters": 0, "latent": [1, 128, 128, 160]}
    row |= {"tokens": [40960, 5120, 640], "step_seconds": 1.25, "peak_mb": 7654.3}
    profile._table([{**row, "activations_mb": 1234.5, "device": "cpu"}])
    said = capsys.readouterr().out
    shown = ("hdit-S-of-a-long-name/2", "128x128x160", "53.8", "1x128x128x160")
    assert all(text in said for text in (*shown, "40960 5120 640", "1.25", "7654", "1234"))
    assert "critic" not in said and "…" not in said
    profile._table([row | {"critic_parameters": 5, "tokens": []}])
    assert "critic" in (said := capsys.readouterr().out) and "tokens" not in said


@pytest.mark.slow
def test_a_case_that_fails_is_a_row_without_measures(capsys):
    broken = ("model.kind=dcae", "model.pretrained=/no/such/folder", "train.batch_size=1")
    assert profile.main(["compression", *broken, "--size", "64", "--steps", "1"]) == 3
    said = capsys.readouterr().out
    assert "dcae 64x64: PretrainedError: " in said
    assert "/no/such/folder" in said


def test_a_training_without_data_is_measured():
    sizes = {"model.vae.widths": (8, 8), "data.image_size": 16, "train.batch_size": 1}
    system = Compression()
    found = system.profile_step(replace(system.Settings(), {**sizes, "train.test": True}), steps=1)
    assert found["latent"] == [3, 8, 8]
    assert found["step_seconds"] > 0


def test_cases_that_do_not_fit_are_refused_before_the_first_runs(capsys):
    for arguments, message in (
        (("--size", "64,30"), "sides are multiples of 4 x 4, not 30 x 30"),
        (("--size", "big"), "--size takes a number of pixels, or HxW, not 'big'"),
        (("--size", "16x32"), "slices are square (data.image_size), not 16x32"),
        (("--kinds", "gan"), "model.kind"),
        (("--size", "8x9", "model.spatial_dims=3"), "or DxHxW, not '8x9'"),
    ):
        assert profile.main(["compression", *arguments]) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert not said.out
    assert profile.main(["hdr_patch"]) == 2
    assert "hdr_patch has no member `profile_cases`: what a" in capsys.readouterr().err


OWN = """
import os
from trainables.toy import Toy

class Slow(Toy):
    name = "profiled_by_a_test:Slow"

    def profile_cases(self, settings, kinds, sizes):
        from settings.flat import replace
        return [
            ({"kind": kind, "size": size, "batch_size": int(size)},
             replace(settings, {"train.batch_size": int(size)}))
            for kind in kinds for size in sizes
        ]

    def profile_step(self, settings, steps):
        return {"parameters": settings.train.batch_size * steps, "process": os.getpid()}
"""


@pytest.mark.slow
def test_a_system_of_ones_own_is_measured_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "profiled_by_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    asked = ("--kinds", "slow", "--size", "5,7", "--steps", "3", "--json")
    assert profile.main(["profiled_by_a_test:Slow", "train.batch_size=2", *asked]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    processes = {row.pop("process") for row in rows}
    assert rows == [
        {"kind": "slow", "size": "5", "batch_size": 5, "parameters": 15},
        {"kind": "slow", "size": "7", "batch_size": 7, "parameters": 21},
    ]
    assert len(processes - {os.getpid()}) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"data.group": "dual"},
        {"model.spatial_dims": 3, "data.group": "multi_modality"},
        {"data.group": "seg", "model.seg_mode": True, "model.kind": "vqvae"},
    ],
)
def test_a_batch_of_noise_has_what_every_term_reads(changes):
    system = Compression()
    tiny = {"data.image_size": 16, "data.volume_size": (8, 16, 16), "train.batch_size": 2}
    regional = {"loss.l1.regional.enabled": "seg" not in changes.values()}
    settings = replace(system.Settings(), {**tiny, **regional, **changes})
    phase, batch = system.phases(settings, None)[0], random_batch(settings)
    modules = system.build(settings, None).modules
    prediction = phase.forward(modules, batch, settings)
    for name, term in phase.composite.terms.items():
        assert torch.isfinite(term.sum(prediction, batch, settings)), name
    assert torch.isfinite(phase.composite.counts(batch, settings)).all()
