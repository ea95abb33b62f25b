"""Precedence and origins, and errors that name the place of a value."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settings.flat import flatten, leaves
from settings.resolve import parse_overrides, resolve
from settings.schema import SettingsError
from settings.show import value_text

LAYERS = ("preset document", "file", "override", "sampled")


def test_nothing_given_is_the_default(toy):
    resolved = resolve(toy, "toy")
    assert resolved.settings == toy()
    assert set(resolved.origins.values()) == {"default"}
    assert list(resolved.origins) == list(leaves(toy))


@pytest.mark.parametrize("last", range(5))
def test_later_layers_win(toy, presets, tmp_path, last):
    """default < preset < file < override < sampled."""
    file = tmp_path / "mine.yaml"
    file.write_text("model.width: 40\n")
    resolved = resolve(
        toy,
        "toy",
        preset="document" if last >= 1 else None,
        file=file if last >= 2 else None,
        overrides=["model.width=48"] if last >= 3 else [],
        sampled={"model.width": 56} if last >= 4 else None,
        presets_root=presets,
    )
    assert resolved.settings.model.width == [24, 32, 40, 48, 56][last]
    expected = ["default", "preset document", f"file {file}", "override", "sampled"][last]
    assert resolved.origins["model.width"] == expected
    assert resolved.origins["loss.kl.weight"] == ("preset document" if last >= 1 else "default")
    assert resolved.settings.loss.kl.weight == (1e-5 if last >= 1 else 1e-4)
    assert "model.width" in resolved.keys_from(expected.split(" ")[0])


def test_what_a_space_fixes_is_above_a_file_and_below_an_override(toy, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model.width: 40\nseed: 7\n")
    fixed = ("space caps", {"model.width": 48, "model.names": ["a", "b"], "model.gated": False})
    resolved = resolve(toy, "toy", file=file, fixed=fixed, overrides=["model.gated=true"])
    model = resolved.settings.model
    assert (model.width, model.names, model.gated) == (48, ("a", "b"), True)
    assert resolved.origins["model.width"] == resolved.origins["model.names"] == "space caps"
    assert resolved.origins["model.gated"] == "override"
    assert resolved.origins["seed"] == f"file {file}"
    with pytest.raises(SettingsError, match=r"space caps: model\.width takes int, not 'wide'"):
        resolve(toy, "toy", fixed=("space caps", {"model.width": "wide"}))


def test_an_override_that_repeats_the_default_is_still_an_override(toy):
    resolved = resolve(toy, "toy", overrides=["model.width=24"])
    assert resolved.origins["model.width"] == "override"


@given(data=st.data())
def test_any_scalar_can_be_set_by_an_override(data, toy, legal_changes):
    """What `--show` prints as a value sets it, but for blanks at the ends of a text."""
    flat = data.draw(legal_changes(toy))
    spelt = {
        key: value
        for key, value in flat.items()
        if key != "model.names" and not (isinstance(value, str) and value != value.strip())
    }
    resolved = resolve(
        toy, "toy", overrides=[f"{key}={value_text(value)}" for key, value in spelt.items()]
    )
    assert {key: flatten(resolved.settings)[key] for key in spelt} == spelt


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("model.width", ["key=value", "'model.width'"]),
        ("=3", ["key=value", "'=3'"]),
        ("", ["key=value"]),
        ("--model.width=3", ["no dashes", "Write model.width=3"]),
        ("model.width=", ["takes int", "''"]),
        ("model.width=wide", ["override: model.width takes int", "'wide'"]),
        ("model.width=1", ["override: model.width must lie in 8 .. 64"]),
        ("model.widht=8", ["there is no setting 'model.widht'", "model.width"]),
    ],
)
def test_a_wrong_override_is_refused(toy, argument, says):
    with pytest.raises(SettingsError) as caught:
        resolve(toy, "toy", overrides=[argument])
    for part in says:
        assert part in str(caught.value)


def test_two_overrides_of_one_key_are_refused_naming_both(toy):
    with pytest.raises(SettingsError, match=r"model\.width=8 and model\.width=16"):
        resolve(toy, "toy", overrides=["model.width=8", "seed=1", "model.width=16"])


def test_only_the_first_equals_sign_separates():
    assert parse_overrides(["root=/data/a=b", " seed = 3 "]) == {"root": "/data/a=b", "seed": "3"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("model.widht: 8", "there is no setting 'model.widht'"),
        ("model.width: 1", "must lie in 8 .. 64"),
        ("model.gated: no", "takes bool, not 'no'"),
    ],
)
def test_a_wrong_value_in_a_file_is_refused_with_its_line(toy, tmp_path, line, says):
    file = tmp_path / "mine.yaml"
    file.write_text(f"# mine\nseed: 3\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        resolve(toy, "toy", file=file)
    assert str(caught.value).startswith(f"{file}:3: ")
    assert says in str(caught.value)


def test_rules_between_keys_see_all_layers_together(toy, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model.gated: false\nmodel.norm: 'no'\n")
    with pytest.raises(SettingsError, match="nothing else bounds"):
        resolve(toy, "toy", file=file)
    assert (
        resolve(toy, "toy", file=file, overrides=["model.gated=true"]).settings.model.norm == "no"
    )


def test_a_refused_key_is_answered_with_the_reason(toy):
    reasons = {"loss.entropy": "its minimum does not depend on exposure. Use loss.kl."}
    for key in ("loss.entropy", "loss.entropy.weight"):
        with pytest.raises(
            SettingsError, match=rf"override: {key} is refused: its minimum .* Use loss\.kl"
        ):
            resolve(toy, "toy", overrides=[f"{key}=1"], refused=reasons)
    with pytest.raises(SettingsError, match="there is no setting"):
        resolve(toy, "toy", overrides=["loss.entropy_weight=1"], refused=reasons)


def test_an_unknown_preset_or_file_is_refused(toy, presets, tmp_path):
    with pytest.raises(SettingsError, match=r"Presets: document, small"):
        resolve(toy, "toy", preset="large", presets_root=presets)
    with pytest.raises(SettingsError, match="cannot be read"):
        resolve(toy, "toy", file=tmp_path / "absent.yaml")


def test_a_file_in_the_place_of_a_preset_is_refused_with_the_way_out(
    toy, presets, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "mine.json", "folder/mine.yml", "mine"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("model.width: 8\n")
        with pytest.raises(SettingsError, match=rf"is a file\. Give it as --settings {name}\."):
            resolve(toy, "toy", preset=name, presets_root=presets)
    with pytest.raises(SettingsError, match=r"--settings absent\.yaml\."):
        resolve(toy, "toy", preset="absent.yaml", presets_root=presets)
    with pytest.raises(SettingsError, match=r"Give the name, --preset small\."):
        resolve(toy, "toy", preset="small.yaml", presets_root=presets)
    Path("small").write_text("a file of the user's hides no preset")
    assert resolve(toy, "toy", preset="small", presets_root=presets).keys_from("preset")


def test_sampled_values_are_checked_like_all_others(toy):
    with pytest.raises(SettingsError, match=r"sampled: model\.width must lie in"):
        resolve(toy, "toy", sampled={"model.width": 4})
