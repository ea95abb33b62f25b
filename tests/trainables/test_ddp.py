"""Two real processes (gloo) train as one with twice the batch, and stop together."""

from __future__ import annotations

import json

import pytest
import torch

from trainables.checkpoints import checkpoint
from trainables.compression.system import Compression
from trainables.stepping.batches import Share, StepSampler

pytestmark = pytest.mark.slow


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
        ("ToyGan", {"train.ema_decay": 0.5}),
        ("ToyGan", {"train.accumulate": 2, "critic_optimizer.lr": 0.05}),
        ("Rooted", {"optimizer.kind": "sgd", "optimizer.lr": 0.05, "loss.absolute.weight": 2.0}),
    ],
    ids=["two phases", "accumulated", "a term that few samples have"],
)
def test_two_processes_equal_one_with_twice_the_batch(ranks, tmp_path, system, settings):
    """The 37 validation samples are shared 19 to 18."""
    one = ranks.trained(tmp_path / "one", 1, system, {**settings, "train.batch_size": 8})
    two = ranks.trained(tmp_path / "two", 2, system, {**settings, "train.batch_size": 4})
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
def test_two_processes_compress_as_one_and_measure_the_test_split(
    ranks, shared_cache, tmp_path, own
):
    def trained(name, world, batch):
        settings = {**GENTLE, **own, "train.batch_size": batch}
        cache = str(shared_cache)
        return ranks.trained(tmp_path / name, world, "compression", settings, cache=cache)

    one, two = trained("one", 1, 4), trained("two", 2, 2)
    check_equal(two, one)
    assert one[0][0]["train.critic.patch"] is not None
    found, expected = (
        json.loads((tmp_path / folder / "test.json").read_text()) for folder in ("two", "one")
    )
    check_columns(found, expected)
    assert "test_best.psnr_db" in found


DRAWS = {
    "vae": {},
    "vqvae that revives": {
        **VQVAE,
        "model.vqvae.start": "kmeans",
        "model.vqvae.revive": "encoder",
        "model.vqvae.revive_below": 0.9,
        "model.vqvae.decay": 0.5,  # codes die within a step
    },
    "structured dcae": {
        "model.kind": "dcae",
        "model.dcae.widths": (16, 64),
        "model.dcae.layers": (0, 1),
        "model.dcae.decoder_layers": (0, 1),
        "model.dcae.latent_channels": 64,
        "model.dcae.structured.enabled": True,
        "model.dcae.attention": 0,
    },
}


@pytest.mark.parametrize("own", DRAWS.values(), ids=DRAWS)
def test_a_step_is_the_same_however_it_is_cut(ranks, shared_cache, tmp_path, own):
    """Four steps of autoencoders that draw, or whose codes move and begin anew, and the critic."""
    short = {**GENTLE, **own, "train.steps": 4, "train.report_every": 4, "train.test": False}
    ranks.same_however_cut(tmp_path, "compression", short, rel=1e-5, cache=str(shared_cache))


@pytest.mark.parametrize("is_tested", [False, True])
def test_fewer_samples_than_workers_are_refused_before_the_first_step(ranks, tmp_path, is_tested):
    codes, outputs = ranks.launch(tmp_path, 2, "Scarce", {"train.test": is_tested})
    for code, output in zip(codes, outputs, strict=True):
        assert code == 1
        split = "test" if is_tested else "validation"
        assert f"{split} set has 1 samples for 2 workers" in output, output
        assert "Use fewer workers or more data" in output
        assert "a sample is drawn" not in output


def test_a_resume_by_two_processes_equals_an_uninterrupted_training(ranks, tmp_path):
    settings = {"train.batch_size": 4, "model.dropout": 0.3}
    whole = ranks.trained(tmp_path / "whole", 2, "ToyGan", settings)
    ranks.trained(tmp_path / "part", 2, "ToyGan", settings, stop=4)
    rest = ranks.trained(tmp_path / "part", 2, "ToyGan", settings)
    assert all(torch.equal(rest[1][key], tensor) for key, tensor in whole[1].items())


NEVER = 1e12
"""A time by `time.time()` that no test sees."""


@pytest.mark.parametrize(("ends", "step"), [((0.0, NEVER), 4), ((NEVER, 0.0), 8)])
def test_the_first_rank_decides_for_all_when_time_is_up(ranks, tmp_path, ends, step):
    found, _ = ranks.trained(tmp_path / "two", 2, "Toy", {}, ends=ends)
    assert [report["step"] for report in found] == [step, step]


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
def test_a_head_that_no_term_reads_is_left_alone(ranks, tmp_path, absent, accumulate):
    """By DDP, which waits for a gradient of every parameter, and by the weight decay."""
    settings = {**absent, "optimizer.weight_decay": 1.0, "optimizer.lr": 0.05}
    one = ranks.trained(tmp_path / "one", 1, "TwoHeads", {**settings, "train.batch_size": 8})
    cut = {"train.batch_size": 4 // accumulate, "train.accumulate": accumulate}
    two = ranks.trained(tmp_path / "two", 2, "TwoHeads", {**settings, **cut})
    check_equal(two, one)
    is_off = "loss.absolute.enabled" in absent
    assert (one[0][0]["train.loss.absolute"] is None) == is_off


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_what_is_not_finite_on_one_rank_stops_both_and_both_name_the_term(
    ranks, tmp_path, bad_rank
):
    share = Share(4, 1, world=2, rank=bad_rank)
    (micro,) = StepSampler(64, share, 0, 5, 6)
    settings = {"train.batch_size": 4, "train.report_every": 1}
    codes, outputs = ranks.launch(tmp_path, 2, "Rooted", settings, bad=micro[1][0])
    for code, output in zip(codes, outputs, strict=True):
        assert code == 1
        assert "NonFiniteError: step 5" in output, output
        assert "term loss.absolute is not finite" in output, output
    newest = checkpoint.available(tmp_path / "checkpoints")[-1]
    assert checkpoint.step_of(newest) == 5


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_what_is_not_finite_and_seen_later_stops_both_at_the_same_look(ranks, tmp_path, bad_rank):
    share = Share(4, 1, world=2, rank=bad_rank)
    (micro,) = StepSampler(64, share, 0, 5, 6)
    settings = {"train.batch_size": 4, "train.finite_check_every": 7}
    codes, outputs = ranks.launch(tmp_path, 2, "Rooted", settings, bad=micro[1][0])
    for code, output in zip(codes, outputs, strict=True):
        assert code == 1
        assert "NonFiniteError: step 5, phase model" in output, output
        assert "Updates were applied from this step on" in output, output
    newest = checkpoint.available(tmp_path / "checkpoints")[-1]
    assert checkpoint.step_of(newest) == 4
