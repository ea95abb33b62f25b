"""Draws by sample and schedules of a phase, through the loop."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from losses.schedules import ScheduleSettings, schedule_factor
from ray_jobs.sweeping.goals import make_goal
from ray_jobs.sweeping.last_change import last_change, variants
from search_spaces.domains import Choice, Uniform
from search_spaces.space import Space
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.configured import Configured
from trainables.contract.examined import Examined
from trainables.contract.samples import draws_by_sample
from trainables.loop import Training, fit
from trainables.parts import Phase
from trainables.reporting.cuts import cut_warnings
from trainables.reporting.measure import evaluate_checkpoint
from trainables.run import LocalRun
from trainables.stepping.batches import Share, train_loader
from trainables.stepping.inputs import in_training, in_validation
from trainables.stepping.train_settings import TrainSettings

TOY = str(Path(__file__).with_name("draws_toy.py"))
spec = importlib.util.spec_from_file_location("draws_toy", TOY)
toys = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
OfRanks, Windowed, WindowedModel = toys.OfRanks, toys.Windowed, toys.WindowedModel

SHORT = {"train.steps": 10, "train.report_every": 2, "train.tensorboard": False}


def trained(folder, system=Windowed, **changes):
    """The reports of a training, and the tensors of its last checkpoint."""
    tree = replace(system.Settings(), {**SHORT, **changes.pop("settings", {})})
    run = LocalRun(folder, **changes)
    fit(system(), tree, run, None)
    newest = checkpoint.available(folder / "checkpoints")[-1]
    return list(run.history), checkpoint.load(newest, system.name).tensors


def test_a_report_has_the_values_and_validation_the_final_ones(tmp_path):
    history, tensors = trained(tmp_path)
    model = WindowedModel()
    for report in history:
        for name in ("window", "noise"):
            at = schedule_factor(getattr(model, name), report["step"] - 1, 10)
            assert report[f"train.schedule.model.{name}"] == at
    assert history[0]["train.schedule.model.window"] < 1.0
    weights = [tensors[f"module.model.layers.{i}.weight"] for i in range(3)]
    biases = [tensors[f"module.model.layers.{i}.bias"] for i in range(3)]
    x = Windowed().loaders(Windowed.Settings(), None).validation.x
    y = x @ sum(weights).T + sum(biases)
    error = (y - 2.0 * x - 3.0).square().mean()
    assert history[-1]["val.mse"] == pytest.approx(float(error), rel=1e-5)
    early = checkpoint.available(tmp_path / "checkpoints")[0]
    tree = replace(Windowed.Settings(), SHORT)
    measured = evaluate_checkpoint(Windowed(), tree, None, early)
    assert measured["val.mse"] == history[int(early.name[-8:]) // 2 - 1]["val.mse"]


def test_layers_outside_of_the_window_are_not_trained(tmp_path):
    """The second opens in the update from step 3 (window .52), the third in that from 6 (.88)."""
    tree = replace(Windowed.Settings(), SHORT)
    training = Training(Windowed(), tree, LocalRun(tmp_path), None)
    layers = training.modules["model"].layers
    before = [layer.weight.clone() for layer in layers]
    loader = iter(_loader(training))
    opened = []
    for _ in range(8):
        training.one_step([next(loader)])
        opened.append([not torch.equal(b, a.weight) for a, b in zip(layers, before, strict=True)])
    assert [row.count(True) for row in opened] == [1, 1, 1, 2, 2, 2, 3, 3]
    training.close()


def _loader(training):
    return train_loader(training.loaders, Share(8, 1), 0, 0, 10)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_resume_in_the_middle_of_a_window_is_exact(tmp_path, precision):
    settings = {"train.precision": precision, "train.accumulate": 2, "train.ema_decay": 0.5}
    whole, expected = trained(tmp_path / "whole", settings=settings)
    trained(tmp_path / "part", settings=settings, stop_step=4)
    rest, found = trained(tmp_path / "part", settings=settings, resume=True)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert [{**r, "seconds": 0} for r in rest] == [{**r, "seconds": 0} for r in whole[2:]]


def test_accumulation_cuts_a_step_and_changes_nothing(tmp_path):
    whole, tensors = trained(tmp_path / "whole", settings={"train.batch_size": 8})
    cut = {"train.batch_size": 4, "train.accumulate": 2}
    found, other = trained(tmp_path / "cut", settings=cut)
    for key, tensor in tensors.items():
        torch.testing.assert_close(other[key], tensor, rtol=1e-5, atol=1e-6)
    for report, expected in zip(found, whole, strict=True):
        assert report["train.loss.squared"] == pytest.approx(expected["train.loss.squared"], 1e-5)


def by_one_and_two_ranks(ranks, folder, system, **settings):
    """The reports and tensors of a training by one rank with 8 samples and by two with 4."""
    return [
        ranks.trained(
            folder / str(world),
            world,
            f"{TOY}:{system}",
            {**SHORT, "train.batch_size": 8 // world, **settings},
        )
        for world in (1, 2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "settings"),
    [
        ("Windowed", {}),
        # Each update trains another number of layers; the others are left alone, decay and all.
        ("Deepened", {"optimizer.weight_decay": 0.1}),
    ],
)
def test_two_ranks_draw_as_one_and_open_the_same_layers(ranks, tmp_path, system, settings):
    settings = {"optimizer.eps": 1e-4, **settings}
    (reports, tensors), two = by_one_and_two_ranks(ranks, tmp_path, system, **settings)
    for key, tensor in tensors.items():
        torch.testing.assert_close(two[1][key], tensor, rtol=1e-5, atol=1e-6)
    assert two[0][0]["train.loss.squared"] == pytest.approx(reports[0]["train.loss.squared"], 1e-5)


@pytest.mark.slow
def test_draws_of_a_rank_are_seen_as_a_difference(ranks, tmp_path):
    """What the comparison above is worth."""
    expected, found = (
        ranks.trained(
            tmp_path / str(world),
            world,
            f"{TOY}:OfRanks",
            {**SHORT, "train.batch_size": 8 // world},
        )[0][0]["train.loss.squared"]
        for world in (1, 2)
    )
    assert abs(found - expected) > 1e-3 * expected


@pytest.mark.parametrize(("system", "is_sound"), [(Windowed, True), (OfRanks, False)])
def test_the_contract_knows_them_apart(tmp_path, system, is_sound):
    faults = list(draws_by_sample(Examined(system(), tmp_path)))
    assert not faults if is_sound else "generator of torch" in faults[0].value


@pytest.mark.parametrize(
    ("share", "world", "says"), [(0.3, 2, True), (0.0, 2, False), (0.3, 1, False)]
)
def test_several_workers_that_drop_out_are_told_so(share, world, says):
    modules = {"model": torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout2d(share))}
    (*texts,) = cut_warnings([], modules, TrainSettings(), world)
    assert ["0.3 at most" in text for text in texts] == [True] * says


# --- what a sweep makes of a schedule ------------------------------------------------------------


def test_no_rung_before_a_schedule_of_a_phase_is_over():
    configured = Configured(Windowed(), replace(Windowed.Settings(), {"train.steps": 100}))
    found = last_change(configured, Space("own", "toy", {"optimizer.lr": Uniform(0.1, 0.2)}))
    assert (found.step, found.key) == (70, "model.window")
    space = Space("own", "toy", {"model.noise.end": Uniform(0.5, 0.9)})
    found = last_change(configured, space)
    assert (found.step, found.key) == (90, "model.noise")


def test_a_schedule_that_one_searched_kind_has_counts():
    class Some(Windowed):
        """Without noise on x there is no window either."""

        def phases(self, settings, prepared):
            (phase,) = super().phases(settings, prepared)
            found = phase.schedules if settings.model.is_noisy else {}
            told = phase.training_schedules if found else ()
            return [Phase(**{**vars(phase), "schedules": found, "training_schedules": told})]

    tree = replace(Windowed.Settings(), {"train.steps": 100, "model.is_noisy": False})
    configured = Configured(Some(), tree)
    domains = {
        "model.is_noisy": Choice((False, True)),
        "model.window.last": Uniform(0.4, 1.0, when={"model.is_noisy": (True,)}),
    }
    space = Space("own", "toy", domains)
    found = last_change(configured, space)
    assert (found.step, found.key) == (70, "model.window")
    other = Space("own", "toy", {"optimizer.lr": Uniform(0.1, 0.2)})
    assert last_change(configured, other).step == 0
    with pytest.raises(SettingsError, match=r"reads model\.window\.last"):
        make_goal(configured, domains, metrics=["val.mse"], variants=variants(configured, space))


@pytest.mark.parametrize("key", ["model.window.last", "model.window.kind"])
def test_a_final_value_that_validation_reads_cannot_be_searched(key):
    configured = Configured(Windowed(), Windowed.Settings())
    for metric in ("val.mse", "val.loss.squared"):
        with pytest.raises(SettingsError, match=f"reads {key}"):
            make_goal(configured, [key], metrics=[metric])


@pytest.mark.parametrize("key", ["model.window.end", "model.window.first", "model.noise.last"])
def test_what_only_training_reads_can_be(key):
    goal, _ = make_goal(Configured(Windowed(), Windowed.Settings()), [key], metrics=["val.mse"])
    assert goal.columns[0] == "val.mse"


def test_what_the_host_reads_stays_on_the_cpu():
    settings = Windowed.Settings()
    (phase,) = Windowed().phases(settings, None)
    phase = Phase(**{**vars(phase), "host_schedules": ("model.window",)})
    batch = {"seed": torch.zeros(3, dtype=torch.int64, device="meta")}
    for told in (in_training(phase, 0, 1, 10), in_validation(phase)):
        assert told(batch)["schedule.model.window"].device.type == "cpu"
    there = in_training(phase, 0, 1, 10)(batch)["schedule.model.noise"]
    assert there.device.type == "meta"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedules": {"window": WindowedModel().window}}, "'window' in Phase.schedules is not"),
        ({"schedules": {"model.window": ScheduleSettings()}}, "is not the settings key of that"),
        ({"training_schedules": ("model.gate",)}, "'model.gate' of Phase.training_schedules"),
        ({"host_schedules": ("model.gate",)}, "'model.gate' of Phase.host_schedules"),
    ],
)
def test_a_schedule_is_called_by_its_key(tmp_path, changes, message):
    class Renamed(Windowed):
        def phases(self, settings, prepared):
            (phase,) = super().phases(settings, prepared)
            return [Phase(**{**vars(phase), **changes})]

    with pytest.raises(SettingsError, match=message):
        fit(Renamed(), replace(Windowed.Settings(), SHORT), LocalRun(tmp_path), None)


def test_a_sample_has_its_seed_in_every_batch(tmp_path):
    training = Training(Windowed(), replace(Windowed.Settings(), SHORT), LocalRun(tmp_path), None)
    batch = next(iter(_loader(training)))
    assert batch["seed"].dtype == torch.int64 and len(batch["seed"].unique()) == 8
    training.close()
