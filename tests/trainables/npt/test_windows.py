"""Layers of npt that open one after another, and factors on the gradient of the converters."""

from __future__ import annotations

import pytest
import torch

from models.npt.student import Window, one_by_one
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.npt.forward import convert, of, window_of
from trainables.npt.system import Npt
from trainables.run import LocalRun
from trainables.stepping.inputs import batch_of, in_training, in_validation, schedule_values

pytestmark = pytest.mark.slow  # the import of Llama alone takes seconds

SYSTEM = Npt()
WINDOWS = {
    "npt.layers.order": "one_by_one",
    "npt.layers.length": 0.25,
    "train.steps": 8,
    "train.report_every": 2,
    "train.test": False,
    "optimizer.warmup": 0.0,
}


def settings_of(changes):
    return replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})


@pytest.fixture(scope="module")
def prepared(shared_cache, module_on_one_thread):
    return SYSTEM.prepare(settings_of({}), shared_cache)


def built_for(settings, prepared):
    torch.manual_seed(0)
    return SYSTEM.build(settings, prepared)


def open_at(settings, layers=(0, 1, 2)):
    """Of each step, the layers that learn and those that are converted."""
    (phase,) = SYSTEM.phases(settings, None)
    steps = settings.train.steps
    windows = []
    for step in range(steps):
        batch = in_training(phase, 0, step, steps)({"seed": torch.arange(2)})
        window = window_of(batch, layers, settings) or Window(layers, layers)
        windows.append((window.open, window.converted))
    return windows


ALL = ((0, 1, 2), (0, 1, 2))
TABLE = [
    ({"npt.layers.order": "all"}, [ALL] * 8),
    (
        {"npt.layers.length": 0.25},
        [((0,), (0,))] * 2 + [((1,), (0, 1))] * 2 + [((2,), (0, 1, 2))] * 2 + [ALL] * 2,
    ),
    (
        {"npt.layers.start": 0.25, "npt.layers.length": 0.125},
        [ALL] * 2 + [((at,), (0, 1, 2)) for at in range(3)] + [ALL] * 3,
    ),
    ({"npt.layers.length": 0.125}, [((0,), (0,)), ((1,), (0, 1)), ((2,), (0, 1, 2)), *[ALL] * 5]),
]


@pytest.mark.parametrize(("changes", "expected"), TABLE)
def test_which_layers_learn_at_which_step(changes, expected):
    assert open_at(settings_of({**WINDOWS, "teacher.layers": 3, **changes})) == expected


def test_windows_follow_the_chosen_layers_and_a_teacher_of_unknown_depth():
    two = settings_of({**WINDOWS, "model.layers": (1, 4), "teacher.path": "x"} | TOKENIZER)
    assert [learning for learning, _ in open_at(two, (1, 4))] == [
        *[(1,)] * 2,
        *[(4,)] * 2,
        *[(1, 4)] * 4,
    ]
    unknown = settings_of({**WINDOWS, "teacher.path": "x"} | TOKENIZER)
    assert [learning for learning, _ in open_at(unknown)] == [
        *[(0,)] * 2,
        *[(1,)] * 2,
        *[(2,)] * 2,
        *[(0, 1, 2)] * 2,
    ]


TOKENIZER = {"data.tokenizer": "x"}


def test_windows_end_with_the_training():
    with pytest.raises(SettingsError, match=r"5 layers .* end at 1\.25 .*length=0\.2 or"):
        settings_of({**WINDOWS, "teacher.layers": 5})
    settings_of({**WINDOWS, "teacher.layers": 5, "model.layers": (1, 2, 3, 4)})
    assert one_by_one((3, 5), 3, are_converted=False) == Window((3, 5), (3, 5))


def test_validation_is_of_the_student_with_all_layers_converted(prepared):
    settings = settings_of(WINDOWS)
    (phase,) = SYSTEM.phases(settings, prepared)
    modules = built_for(settings, prepared).modules
    batch = batch_of(SYSTEM.loaders(settings, prepared), "validation", [0, 1])
    batch = in_validation(phase)(batch)
    assert not any(name.startswith("schedule.") for name in batch)
    of(modules).eval()
    assert convert(modules, batch, settings)["mlp"].shape[1] == 2


def state_of(directory):
    newest = checkpoint.available(directory / "checkpoints")[-1]
    return checkpoint.load(newest, SYSTEM.name)


def trained(prepared, directory, changes, stop=None, resume=False):
    run = LocalRun(directory, stop_step=stop, resume=resume)
    fit(SYSTEM, settings_of(changes), run, prepared)
    return state_of(directory), run.history


def test_a_layer_outside_of_its_window_is_left_alone(prepared, tmp_path):
    """No gradient, and so neither decay, which every parameter with two axes has, nor moments."""
    changes = {**WINDOWS, "optimizer.weight_decay": 0.5}
    torch.manual_seed(0)
    first, history = trained(prepared, tmp_path, changes, stop=2)
    assert history[-1]["train.schedule.window"] == 1.0
    (adam,) = first.state["optimizers"]
    learnt = {name for name in first.tensors if ".each.0." in name}
    assert len(learnt) == len(adam["state"]) > 0, "moments of the first layer alone"
    second, history = trained(prepared, tmp_path, changes, stop=4, resume=True)
    assert history[-1]["train.schedule.window"] == 2.0
    moved = {n for n, value in second.tensors.items() if not torch.equal(value, first.tensors[n])}
    assert moved == {name for name in first.tensors if ".each.1." in name}
    (adam,) = second.state["optimizers"]
    assert {float(state["step"]) for state in adam["state"].values()} == {2.0}
    third, _ = trained(prepared, tmp_path, changes, resume=True)
    (adam,) = third.state["optimizers"]
    assert {float(state["step"]) for state in adam["state"].values()} == {6.0}


def test_a_resume_inside_a_window_is_exact(prepared, tmp_path):
    changes = {**WINDOWS, "train.report_every": 3, "train.ema_decay": 0.5}
    whole, history = trained(prepared, tmp_path / "whole", changes)
    trained(prepared, tmp_path / "part", changes, stop=3)
    rest, again = trained(prepared, tmp_path / "part", changes, resume=True)
    for name, value in whole.tensors.items():
        assert torch.equal(rest.tensors[name], value), name
    untimed = [{k: v for k, v in report.items() if "seconds" not in k} for report in history]
    assert {k: v for k, v in again[-1].items() if "seconds" not in k} == untimed[-1]


def test_a_factor_on_the_gradient_changes_no_value(prepared):
    """Nor the prediction, to the bit; the gradient of every converter is times the factor."""
    gradients, logits = [], []
    for factor in (1.0, 10.0):
        settings = settings_of({"model.gradient": factor, "model.teacher_share": 0.0})
        modules = built_for(settings, prepared).modules
        batch = batch_of(SYSTEM.loaders(settings, prepared), "train", [(0, 1), (1, 2)])
        of(modules).train()
        prediction = convert(modules, batch, settings)
        prediction["logits"].square().mean().backward()
        gradients.append([parameter.grad for parameter in of(modules).parameters()])
        logits.append(prediction["logits"])
    assert torch.equal(*logits)
    for one, ten in zip(*gradients, strict=True):
        torch.testing.assert_close(ten, 10.0 * one, rtol=1e-4, atol=1e-9)


def test_a_rate_moves_the_converters_where_a_gradient_does_not(prepared, tmp_path):
    """003-M12: with Adam and a clip the document's gradient x 10 is next to nothing."""
    base = {
        "train.steps": 4,
        "train.report_every": 4,
        "train.test": False,
        "train.clip_norm": 0.5,
        "optimizer.lr": 1e-3,
        "optimizer.warmup": 0.0,
    }
    arms = {"none": {}, "gradient": {"model.gradient": 10.0}, "rate": {}}
    arms["rate"] = {"optimizer.rate.converter": 10.0}
    ends = {
        name: trained(prepared, tmp_path / name, {**base, **arm})[0].tensors
        for name, arm in arms.items()
    }
    weights = [name for name in ends["none"] if name.endswith("weight")]
    aside = {
        arm: sum(float((ends[arm][n] - ends["none"][n]).square().sum()) for n in weights) ** 0.5
        for arm in ("gradient", "rate")
    }
    assert aside["rate"] > 20.0 * aside["gradient"]


def test_the_column_shows_the_schedule():
    settings = settings_of(WINDOWS)
    (phase,) = SYSTEM.phases(settings, None)
    assert schedule_values(phase, 3, 8) == {"window": 2.0}
    assert SYSTEM.phases(settings_of({}), None)[0].schedules == {}
