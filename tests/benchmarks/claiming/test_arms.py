"""The arms of the repository, and what an arms file may say."""

from __future__ import annotations

import pytest

from benchmarks.claiming.arms import FOLDER, described, faults, names, read_arms
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from search_spaces.space import load_space, spaces_of
from settings.files import read_settings_file
from settings.resolve import resolve
from settings.schema import SettingsError
from settings.systems import SYSTEMS
from trainables.system import load_system

TOY = "trainables.toy:Toy"
SAID = "{system: trainables.toy:Toy, control: plain}"
LR = "optimizer.lr: {log_uniform: [0.001, 1]}\n"


@pytest.mark.parametrize("name", names())
def test_the_arms_of_the_repository_keep_the_rules(name):
    arms = read_arms(name)
    assert not faults(arms)
    files = {path.stem for path in (FOLDER / name).glob("*.yaml")}
    assert files <= set(arms.arms), "a file that no list names"
    assert any(not arm.control for arm in arms.arms.values())
    measured = {f"val.{column.name}" for column in arms.configured.measures}
    terms = ("val.loss.", "val.critic.")
    own = [c for c in arms.columns if c.startswith("val.") and not c.startswith(terms)]
    assert own
    assert set(own) <= measured


@pytest.fixture
def arms_of(tmp_path):
    """Arms of the toy: name -> the text of the arm's file; `arms` of the list file."""

    def make(files, said=SAID, *overrides):
        (tmp_path / "own").mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / "own" / f"{name}.yaml").write_text(text)
        points = ", ".join(f"own/{name}.yaml" for name in files)
        (tmp_path / "own.yaml").write_text(f"arms: {said}\npoints: [{points}]\n{LR}")
        return read_arms(str(tmp_path / "own.yaml"), overrides)

    return make


PLAIN = {"plain": "about: the control\n"}


def test_an_arm_has_its_control_its_reason_and_what_differs(arms_of):
    arms = arms_of(
        {
            **PLAIN,
            "fast": "optimizer.lr: 0.5\n",
            "both": "control: fast\nbecause: they belong together\nmodel.dropout: 0.5\n"
            "optimizer.lr: 0.2\nloss.adversarial.enabled: false\n",
        }
    )
    assert [(a.name, a.control) for a in arms.arms.values()] == [
        ("plain", ""),
        ("fast", "plain"),
        ("both", "fast"),
    ]
    assert not faults(arms)
    said = "\n".join(described(arms))
    assert "  plain: a control" in said
    assert "  both, against fast: they belong together\n    model.dropout: 0.0 -> 0.5" in said
    assert "optimizer.lr: 0.5 -> 0.2" in said


def test_more_than_one_change_needs_a_reason(arms_of):
    two = "optimizer.lr: 0.5\nmodel.dropout: 0.5\n"
    (fault,) = faults(arms_of({**PLAIN, "two": two}))
    assert "own.yaml: two against plain: an arm changes one setting of its control" in fault
    assert "this one changes 2 (model.dropout, optimizer.lr)" in fault
    assert "`because: TEXT`" in fault
    assert not faults(arms_of({**PLAIN, "two": f"because: a pair\n{two}"}))


def test_settings_under_a_changed_switch_need_none(arms_of):
    off = "loss.absolute.enabled: false\nloss.absolute.weight: 3.0\n"
    assert not faults(arms_of({**PLAIN, "off": off}))


def test_an_arm_that_is_its_control_compares_nothing(arms_of):
    (fault,) = faults(arms_of({**PLAIN, "same": "optimizer.lr: 0.3\n"}))
    assert "differs in nothing" in fault


def test_an_override_is_above_the_arms(arms_of):
    arms = arms_of({**PLAIN, "fast": "optimizer.lr: 0.5\n"}, SAID, "model.dropout=0.5")
    assert {arm.values["model.dropout"] for arm in arms.arms.values()} == {0.5}


@pytest.mark.parametrize(
    ("files", "said", "says"),
    [
        (PLAIN, "{control: plain}", "there is no system"),
        (PLAIN, "{system: trainables.toy:Toy, contrl: a}", "'contrl' is none of them"),
        (PLAIN, "[plain]", "arms is a mapping"),
        (PLAIN, "{system: trainables.toy:Toy}", "plain names none"),
        (
            {"plain": "control: gone\n"},
            "{system: trainables.toy:Toy}",
            "must be another arm of this file, not 'gone'. Arms: plain",
        ),
        ({"plain": "control: [a]\n"}, "{system: trainables.toy:Toy}", "control takes a text"),
        (
            PLAIN,
            "{system: trainables.toy:Toy, of: {plain: {control: plain}}}",
            "plain has a file of its own",
        ),
        (PLAIN, "{system: trainables.toy:Toy, control: plain, columns: a}", "is a list"),
        ({"plain": "controll: a\n"}, "{system: trainables.toy:Toy}", "plain sets controll"),
    ],
)
def test_what_an_arms_file_may_not_say(arms_of, files, said, says):
    with pytest.raises(SettingsError) as error:
        arms_of(files, said)
    assert says in str(error.value)


def test_an_unknown_name_lists_the_arms():
    with pytest.raises(SettingsError, match=r"there are no arms 'gone'\. Arms: compression, "):
        read_arms("gone")


def test_presets_say_theirs_in_the_list_and_only_their_control_and_reason(tmp_path):
    def read(of):
        (tmp_path / "own.yaml").write_text(
            f"arms: {{system: hdr_patch, control: before, of: {of}}}\n"
            "points: [before, document]\nhdr.cap.log_delta_max: {uniform: [4, 22]}\n"
        )
        return read_arms(str(tmp_path / "own.yaml"))

    assert len(faults(read("{}"))) == 1
    arms = read("{document: {because: one step of the document}}")
    assert not faults(arms)
    assert (arms.arms["before"].control, arms.arms["document"].control) == ("", "before")
    with pytest.raises(SettingsError, match=r"arms.of.document takes control and because alone"):
        read("{document: {reason: why}}")


def test_control_and_because_are_settings_of_nothing_but_arms(arms_of, tmp_path):
    arms_of({**PLAIN, "arm": "control: plain\nbecause: why\noptimizer.lr: 0.5\n"})
    file = tmp_path / "own/arm.yaml"
    assert read_settings_file(file, arm=True).notes == {"control": "plain", "because": "why"}
    with pytest.raises(SettingsError, match="no setting 'control'"):
        resolve(load_system(TOY).Settings, TOY, file=file)
    (tmp_path / "twice.yaml").write_text("control: a\ncontrol: b\n")
    with pytest.raises(SettingsError, match="control is set twice"):
        read_settings_file(tmp_path / "twice.yaml", arm=True)


def test_arms_are_no_part_of_what_a_sweep_stores(arms_of, tmp_path):
    arms_of(PLAIN)
    made = new_setup(SweepOptions(system=TOY, space=str(tmp_path / "own.yaml")))
    assert "arms" not in made.document["space"]
    assert load_space(TOY, str(tmp_path / "own.yaml")).arms["control"] == "plain"
    assert not any(space.arms for name in SYSTEMS for space in spaces_of(name).values())
