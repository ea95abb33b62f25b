"""The loop: resumed equals uninterrupted, however a step is cut, and trials leave no trace."""

from __future__ import annotations

import json

import pytest
import torch

from results.store import ReportWriter
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.loop import Training, fit
from trainables.run import LocalRun
from trainables.stepping.batches import Share, StepSampler

RESUMED = {
    "plain": ("Toy", {}),
    "two phases": ("ToyGan", {}),
    "masked": ("Masked", {"train__accumulate": 3}),
    "ema": ("Toy", {"train__ema_decay": 0.9}),
    "ema of two phases": ("ToyGan", {"train__ema_decay": 0.5}),
    "dropout": ("Toy", {"model__dropout": 0.5}),
    "accumulation": ("ToyGan", {"train__accumulate": 2, "train__batch_size": 4}),
    "momentum": ("Toy", {"optimizer__kind": "sgd", "optimizer__lr": 0.05}),
    "cosine with decay": (
        "ToyGan",
        {
            "optimizer__schedule": "cosine",
            "optimizer__weight_decay": 0.1,
            "optimizer__warmup": 0.5,
        },
    ),
    "scheduled terms": (
        "Toy",
        {"loss__squared__schedule__kind": "warmup", "loss__absolute__schedule__kind": "cosine"},
    ),
    "bf16": ("ToyGan", {"train__precision": "bf16", "model__dropout": 0.2}),
    "everything": (
        "ToyGan",
        {
            "train__precision": "bf16",
            "train__ema_decay": 0.7,
            "train__accumulate": 2,
            "model__dropout": 0.3,
        },
    ),
}


def same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key


def moved(tensors):
    """That a comparison of weights compares something."""
    return any(bool(tensor.abs().sum() > 0) for tensor in tensors.values())


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_training_equals_an_uninterrupted_one(toys, tmp_path, case):
    name, changes = RESUMED[case]
    make = getattr(toys, name)
    whole = toys.train(make(), tmp_path / "whole", **changes)
    for stop in (4, 8):
        part = toys.train(make(), tmp_path / "part", resume=stop > 4, stop=stop, **changes)
        assert part.report["step"] == stop
    rest = toys.train(make(), tmp_path / "part", resume=True, **changes)
    same(rest.tensors, whole.tensors)
    assert moved(whole.tensors)
    assert toys.without_time(rest.report) == toys.without_time(whole.report)
    assert whole.report["step"] == 12 and len(whole.history) == 3


def test_a_resume_goes_on_in_the_files_and_counts_the_seconds(toys, tmp_path):
    tree = toys.settings(toys.Toy)
    path = tmp_path / "reports.jsonl"
    for segment, stop in enumerate((8, None)):
        with ReportWriter(path) as reports:
            run = LocalRun(tmp_path, reports=reports, resume=True, stop_step=stop, segment=segment)
            fit(toys.Toy(), tree, run, None)
        if segment == 0:
            # The crash came between the file and the checkpoint: this report has no checkpoint.
            with ReportWriter(path) as reports:
                reports.append({"step": 12, "segment": 0, "lost": 1})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["segment"]) for row in rows] == [(4, 0), (8, 0), (12, 1)]
    assert all("lost" not in row for row in rows)
    assert rows[0]["seconds"] < rows[1]["seconds"] < rows[2]["seconds"]


def test_a_resume_after_the_end_trains_nothing_and_tells_the_last_report_again(toys, tmp_path):
    done = toys.train(toys.Toy(), tmp_path)
    told = []
    run = LocalRun(tmp_path, resume=True, on_report=told.append)
    again = fit(toys.Toy(), toys.settings(toys.Toy), run, None)
    assert dict(again) == done.report == told[0]
    assert len(told) == 1 and run.history == []


def test_a_resume_passes_over_a_damaged_checkpoint(toys, tmp_path, capsys):
    whole = toys.train(toys.Toy(), tmp_path / "whole")
    toys.train(toys.Toy(), tmp_path / "part")
    newest = checkpoint.available(tmp_path / "part" / "checkpoints")[-1]
    (newest / "state.pt").write_bytes(b"")
    again = toys.train(toys.Toy(), tmp_path / "part", resume=True)
    assert "state.pt is damaged" in capsys.readouterr().err
    same(again.tensors, whole.tensors)
    assert [report["step"] for report in again.history] == [12]


@pytest.mark.parametrize("name", ["Toy", "ToyGan", "Masked"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_batch_equals_two_that_are_accumulated(toys, tmp_path, name, optimizer):
    """Also for a mean over a mask of which the micro-batches hold unequal parts, or none."""
    make = getattr(toys, name)
    changes = {"optimizer__kind": optimizer, "optimizer__lr": 0.02, "train__clip_norm": 1.0}
    changes |= {"train__steps": 4}
    whole = toys.train(make(), tmp_path / "a", train__batch_size=8, **changes)
    cuts = [(4, 2), (2, 4), (1, 8)]
    for batch_size, accumulate in cuts:
        part = toys.train(
            make(),
            tmp_path / str(batch_size),
            train__batch_size=batch_size,
            train__accumulate=accumulate,
            **changes,
        )
        for key, tensor in whole.tensors.items():
            torch.testing.assert_close(part.tensors[key], tensor, rtol=1e-5, atol=1e-6)
        for column, value in toys.without_time(whole.report).items():
            assert part.report[column] == pytest.approx(value, rel=1e-5, abs=1e-6), column


def test_a_mean_over_a_mask_is_over_the_step_and_not_over_its_micro_batches(toys, tmp_path):
    """The first step's loss by hand: before the update, over all values of the step at once."""
    system = toys.Masked()
    tree = toys.settings(system, train__steps=1, train__batch_size=2, train__accumulate=4)
    training = Training(system, tree, LocalRun(tmp_path), None)
    line = system.loaders(tree, None).train
    samples = [line[key] for key in first_step(line, tree)]
    x, y, mask = (torch.stack([s[key] for s in samples]) for key in ("x", "y", "mask"))
    counts = mask.view(4, 2, -1).sum((1, 2))
    assert counts.min() != counts.max(), "the micro-batches hold equal parts of the mask"
    model = training.modules["model"]
    error = (model(x) - y).square()
    mean = (mask * error).sum() / mask.sum()
    gradients = torch.autograd.grad(error.mean() + 0.5 * mean, list(model.parameters()))
    error, expected = error.detach(), float(mean.detach())
    report = training.run_to_end()
    norm = float(torch.cat([g.flatten() for g in gradients]).norm())
    assert report["train.grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert report["train.loss.absolute"] == pytest.approx(expected, rel=1e-5)
    wrong = float(((mask * error).view(4, 2, -1).sum((1, 2)) / counts.clamp(min=1)).mean())
    assert abs(wrong - expected) > 1e-3


def first_step(line, tree):
    share = Share(tree.train.batch_size, tree.train.accumulate)
    return [key for micro in StepSampler(len(line), share, tree.train.seed, 0, 1) for key in micro]


@pytest.mark.slow
def test_the_fiftieth_trial_of_a_process_equals_the_first(toys, tmp_path):
    """Precisions, systems and seeds change in between; process-wide state must not."""
    short = {"train__steps": 2, "train__report_every": 2}
    kinds = [
        ("Toy", {}),
        ("ToyGan", {"train__precision": "bf16"}),
        ("Toy", {"train__precision": "bf16", "train__seed": 3}),
        ("Masked", {"train__accumulate": 2}),
        ("ToyGan", {"train__ema_decay": 0.5, "train__seed": 1}),
    ]
    found = {}
    for trial in range(51):
        name, changes = kinds[trial % len(kinds)]
        trained = toys.train(getattr(toys, name)(), tmp_path / str(trial), **{**short, **changes})
        first = found.setdefault(trial % len(kinds), trained)
        same(trained.tensors, first.tensors)
        assert toys.without_time(trained.report) == toys.without_time(first.report)
    assert not torch.equal(*(found[i].tensors["module.model.linear.bias"] for i in (0, 2)))


def test_the_seed_decides_everything_random(toys, tmp_path):
    trained = [
        toys.train(toys.Toy(), tmp_path / str(i), train__seed=seed, model__dropout=0.5)
        for i, seed in enumerate((7, 7, 8))
    ]
    same(trained[0].tensors, trained[1].tensors)
    assert trained[0].report["val.mse"] != trained[2].report["val.mse"]


def test_loader_processes_change_nothing(toys, tmp_path):
    one, two = (toys.train(toys.Toy(), tmp_path / str(n), train__loader_workers=n) for n in (0, 2))
    same(one.tensors, two.tensors)


def test_fp16_on_a_cpu_is_refused(toys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match=r"fp16 needs a GPU.*bf16"):
        toys.train(toys.Toy(), tmp_path, train__precision="fp16")


def test_the_best_checkpoint_is_kept_also_over_a_resume(toys, tmp_path):
    changes = {"optimizer__lr": 3.0, "train__report_every": 1}  # bounces about the minimum
    objective = ("val.mse", "min")
    toys.train(toys.Toy(), tmp_path, objective=objective, stop=6, **changes)
    rest = toys.train(toys.Toy(), tmp_path, objective=objective, resume=True, **changes)
    kept = [checkpoint.step_of(p) for p in checkpoint.available(tmp_path / "checkpoints")]
    whole = toys.train(toys.Toy(), tmp_path / "whole", objective=objective, **changes)
    best = min(whole.history, key=lambda report: report["val.mse"])["step"]
    assert best < 11, "the case needs a best checkpoint that is not among the last two"
    assert kept == sorted({best, 11, 12})
    assert rest.report["val.mse"] == whole.report["val.mse"]


# What is written, in which order


class Witness:
    """A report file that notes what exists when it is written."""

    def __init__(self, directory, events):
        self.directory, self.events = directory, events

    def look(self, who, step):
        exists = (self.directory / "checkpoints" / f"step-{step:08d}").exists()
        self.events.append((who, step, exists))

    def append(self, report):
        self.look("file", report["step"])

    def truncate_after(self, step):
        self.events.append(("truncate", step, False))


def test_a_report_goes_to_the_file_then_the_checkpoint_then_who_decides(toys, tmp_path):
    events = []
    witness = Witness(tmp_path, events)
    run = LocalRun(
        tmp_path, reports=witness, on_report=lambda report: witness.look("tell", report["step"])
    )
    fit(toys.Toy(), toys.settings(toys.Toy), run, None)
    assert events == [
        event for step in (4, 8, 12) for event in (("file", step, False), ("tell", step, True))
    ]
