"""From a space file to a plan: what it fixes, and the points that it names by path."""

from __future__ import annotations

import json

import pytest

from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from search_spaces.space import space_from_json
from settings.schema import SettingsError

TOY = "trainables.toy:Toy"
POSITIONS = "loss.absolute.schedule.positions"
LR = "optimizer.lr: {uniform: [0.1, 0.2]}\n"


@pytest.fixture
def setup_of(tmp_path):
    def make(text, *overrides, name="space.yaml"):
        (tmp_path / name).write_text(text)
        options = SweepOptions(system=TOY, space=str(tmp_path / name), overrides=overrides)
        return new_setup(options)

    return make


@pytest.fixture
def arms(tmp_path):
    """Settings files of one's own."""
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms/plain.yaml").write_text("about: an arm\noptimizer.lr: 0.15\n")
    (tmp_path / "arms/far.yaml").write_text("optimizer.lr: 0.5\nloss.absolute.weight: 2\n")
    return tmp_path / "arms"


def test_what_a_space_fixes_keeps_its_type_and_says_who_fixed_it(setup_of):
    """A list, a switch and a number, none of them by way of text."""
    made = setup_of(
        f"fixed: {{{POSITIONS}: [0.25, 0.5], train.tensorboard: false, model.dropout: 0.25}}\n"
        + LR,
        "model.dropout=0.5",
    )
    assert made.configured.settings.loss.absolute.schedule.positions == (0.25, 0.5)
    assert made.configured.settings.train.tensorboard is False
    assert made.configured.settings.model.dropout == 0.5, "an override is above it"
    fixed = {key for key, origin in made.document["origins"].items() if origin == "space space"}
    assert fixed == {POSITIONS, "train.tensorboard"}
    assert made.document["origins"]["model.dropout"] == "override"
    stored = json.loads(json.dumps(made.document))
    assert stored["settings"][POSITIONS] == [0.25, 0.5]
    assert space_from_json(stored["space"]).fixed[POSITIONS] == (0.25, 0.5)


def test_a_setting_that_the_kind_of_a_schedule_does_not_read_is_noted(setup_of):
    """But not where trials draw the kind."""
    idle, kind = "loss.absolute.schedule.start=0.5", "loss.absolute.schedule.kind"
    (note,) = [note for note in setup_of(LR, idle).notes if "changes nothing" in note]
    assert note.startswith(f"{idle} changes nothing, for {kind}=constant does not read it.")
    drawn = setup_of(f"{LR}{kind}: {{choice: [constant, step]}}\n", idle)
    assert not [note for note in drawn.notes if "changes nothing" in note]


@pytest.mark.parametrize(
    ("fixed", "says"),
    [
        ("model.dropout: 2", "space space: model.dropout must lie in 0 .. 0.9, not 2"),
        ("model.dropot: 0.5", "space space: there is no setting 'model.dropot'"),
        (f"{POSITIONS}: [a, b]", f"space space: {POSITIONS} takes float"),
    ],
)
def test_an_error_in_what_a_space_fixes_names_the_space(setup_of, fixed, says):
    with pytest.raises(SettingsError) as error:
        setup_of(f"fixed: {{{fixed}}}\n{LR}")
    assert says in str(error.value)
    assert "override" not in str(error.value)


def test_a_choice_of_words_that_yaml_1_1_takes_for_booleans(setup_of):
    made = setup_of("train.precision: {choice: [no, bf16]}\n")
    assert made.plan.space.domains["train.precision"].options == ("no", "bf16")


def test_points_are_settings_files_by_their_path_from_the_space(setup_of, arms):
    made = setup_of(f"points: [arms/plain.yaml, {arms}/far.yaml]\n{LR}")
    plain, far = made.plan.points
    assert (plain.name, plain.sampled, plain.outside) == ("plain", {"optimizer.lr": 0.15}, ())
    assert far.name == "far"
    assert far.sampled == {"optimizer.lr": 0.5, "loss.absolute.weight": 2.0}
    assert far.outside == ("loss.absolute.weight", "optimizer.lr")
    assert [point["name"] for point in made.document["points"]] == ["plain", "far"]
    assert made.configured.under(far.sampled).settings.loss.absolute.weight == 2.0


def test_an_override_is_above_a_point(setup_of, arms):
    made = setup_of(f"points: [{arms}/far.yaml]\n{LR}", "loss.absolute.weight=3")
    assert made.plan.points[0].sampled == {"optimizer.lr": 0.5}
    assert made.configured.settings.loss.absolute.weight == 3.0


@pytest.mark.parametrize(
    ("point", "text", "says"),
    [
        ("arms/gone.yaml", None, "gone.yaml: cannot be read"),
        ("arms/bad.yaml", "optimizer.lrr: 1\n", "bad sets optimizer.lrr, which"),
        ("arms/bad.yaml", "model.dropout: 2\n", "model.dropout must lie in"),
        ("gone", None, "has no preset 'gone'"),
    ],
)
def test_a_point_that_cannot_be_placed_is_refused(setup_of, arms, point, text, says):
    if text:
        (arms / "bad.yaml").write_text(text)
    with pytest.raises(SettingsError) as error:
        setup_of(f"points: [{point}]\n{LR}")
    assert says in str(error.value)
