"""Two real processes (gloo) train as one with twice the batch, and stop together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainables.checkpoints import checkpoint
from trainables.compression.system import Compression
from trainables.stepping.batches import Share, StepSampler

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("ddp_rank.py")
LIMIT_SECONDS = 240

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(job, rank, world, port):
    """One rank as a process; a world of one is started without any of torchrun's variables."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    if world > 1:
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(job)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def launch(directory, world, system, settings, **more):
    """Runs all ranks; (exit codes, outputs). A rank that waits for ever is a failure."""
    directory.mkdir(exist_ok=True)
    base = {"train.steps": 8, "train.report_every": 4, "train.tensorboard": False}
    job = directory / "job.json"
    content = {"system": system, "directory": str(directory), "settings": {**base, **settings}}
    job.write_text(json.dumps({**content, **more}))
    port = free_port()
    ranks = [start(job, rank, world, port) for rank in range(world)]
    try:
        outputs = [rank.communicate(timeout=LIMIT_SECONDS)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [rank.returncode for rank in ranks], outputs


def trained(directory, world, system, settings, **more):
    """(report of every rank, tensors of the newest checkpoint)"""
    codes, outputs = launch(directory, world, system, settings, **more)
    assert codes == [0] * world, "\n".join(outputs)
    reports = [
        json.loads((directory / f"report-{rank}.json").read_text()) for rank in range(world)
    ]
    newest = checkpoint.available(directory / "checkpoints")[-1]
    name = checkpoint.read_meta(newest)["system"]
    return reports, checkpoint.load(newest, name).tensors


def check_equal(found, expected):
    for key, tensor in expected[1].items():
        torch.testing.assert_close(found[1][key], tensor, rtol=1e-5, atol=1e-6)
    for report in found[0]:
        check_columns(report, expected[0][0])


def check_columns(found, expected):
    assert found.keys() == expected.keys()
    for column, value in expected.items():
        if column != "seconds":
            near = value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert found[column] == near, column


@pytest.mark.parametrize(
    ("system", "settings"),
    [
        ("Toy", {}),
        ("ToyGan", {"train.ema_decay": 0.5}),
        ("ToyGan", {"train.accumulate": 2, "critic_optimizer.lr": 0.05}),
        ("Rooted", {"optimizer.kind": "sgd", "optimizer.lr": 0.05, "loss.absolute.weight": 2.0}),
    ],
    ids=["one phase", "two phases", "accumulated", "a term that few samples have"],
)
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, system, settings):
    """The 37 validation samples are shared 19 to 18."""
    one = trained(tmp_path / "one", 1, system, {**settings, "train.batch_size": 8})
    two = trained(tmp_path / "two", 2, system, {**settings, "train.batch_size": 4})
    check_equal(two, one)


GENTLE = {
    **Compression.small,
    "augment.kind": "none",
    "optimizer.lr": 1e-3,
    "optimizer.warmup": 0.0,
    # With 1e-8 Adam takes a whole step for a gradient that is nothing but rounding.
    "optimizer.eps": 1e-4,
    "critic_optimizer.eps": 1e-4,
    "train.test": True,
    "data.patients": (2, 1, 2),
    "data.slices": 8,
}
VQVAE = {
    "model.kind": "vqvae",
    "model.vqvae.widths": (8, 16),
    "model.vqvae.codes": 32,
    "train.ema_decay": 0.5,
}
LATE = {"kind": "linear", "start": 0.5, "first": 0.0}
DCAE = {
    "model.kind": "dcae",
    "model.spatial_dims": 3,
    "model.checkpointing": True,
    "model.dcae.widths": (8, 16, 32),
    "model.dcae.layers": (0, 1, 1),
    "model.dcae.decoder_layers": (0, 1, 1),
    "model.dcae.depth_factors": (2, 1),
    "data.patients": (4, 3, 3),
    "data.volume_size": (8, 16, 16),
    "loss.l1.regional.enabled": True,
    **{f"loss.adversarial.schedule.{key}": value for key, value in LATE.items()},
    **{f"critic.patch.schedule.{key}": value for key, value in LATE.items()},
}


@pytest.mark.parametrize("own", [VQVAE, DCAE], ids=["vqvae", "dcae of volumes, late critic"])
def test_two_processes_compress_as_one_and_measure_the_test_split(tmp_path, own):
    settings = {**GENTLE, **own}
    one = trained(tmp_path / "one", 1, "compression", {**settings, "train.batch_size": 4})
    two = trained(tmp_path / "two", 2, "compression", {**settings, "train.batch_size": 2})
    check_equal(two, one)
    assert one[0][0]["train.critic.patch"] is not None
    found, expected = (
        json.loads((tmp_path / folder / "test.json").read_text()) for folder in ("two", "one")
    )
    check_columns(found, expected)
    assert "test_best.psnr_db" in found


@pytest.mark.parametrize("is_tested", [False, True])
def test_fewer_samples_than_workers_are_refused_before_the_first_step(tmp_path, is_tested):
    codes, outputs = launch(tmp_path, 2, "Scarce", {"train.test": is_tested})
    for code, output in zip(codes, outputs, strict=True):
        assert code == 1
        split = "test" if is_tested else "validation"
        assert f"{split} set has 1 samples for 2 workers" in output, output
        assert "Use fewer workers or more data" in output
        assert "a sample is drawn" not in output


def test_a_resume_by_two_processes_equals_an_uninterrupted_training(tmp_path):
    settings = {"train.batch_size": 4, "model.dropout": 0.3}
    whole = trained(tmp_path / "whole", 2, "ToyGan", settings)
    trained(tmp_path / "part", 2, "ToyGan", settings, stop=4)
    rest = trained(tmp_path / "part", 2, "ToyGan", settings)
    assert all(torch.equal(rest[1][key], tensor) for key, tensor in whole[1].items())


WAKES_LATE = {
    "loss.absolute.schedule.kind": "linear",
    "loss.absolute.schedule.start": 0.4,
    "loss.absolute.schedule.first": 0.0,
}


@pytest.mark.parametrize(
    ("absent", "accumulate"),
    [({"loss.absolute.enabled": False}, 1), (WAKES_LATE, 2)],
    ids=["off", "late, accumulated"],
)
def test_a_head_that_no_term_reads_is_left_alone(tmp_path, absent, accumulate):
    """By DDP, which waits for a gradient of every parameter, and by the weight decay."""
    settings = {**absent, "optimizer.weight_decay": 1.0, "optimizer.lr": 0.05}
    one = trained(tmp_path / "one", 1, "TwoHeads", {**settings, "train.batch_size": 8})
    cut = {"train.batch_size": 4 // accumulate, "train.accumulate": accumulate}
    two = trained(tmp_path / "two", 2, "TwoHeads", {**settings, **cut})
    check_equal(two, one)
    is_off = "loss.absolute.enabled" in absent
    assert (one[0][0]["train.loss.absolute"] is None) == is_off


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_what_is_not_finite_on_one_rank_stops_both_and_both_name_the_term(tmp_path, bad_rank):
    share = Share(4, 1, world=2, rank=bad_rank)
    (micro,) = StepSampler(64, share, 0, 5, 6)
    settings = {"train.batch_size": 4, "train.report_every": 1}
    codes, outputs = launch(tmp_path, 2, "Rooted", settings, bad=micro[1][0])
    for code, output in zip(codes, outputs, strict=True):
        assert code == 1
        assert "NonFiniteError: step 5" in output, output
        assert "term loss.absolute is not finite" in output, output
    newest = checkpoint.available(tmp_path / "checkpoints")[-1]
    assert checkpoint.step_of(newest) == 5
