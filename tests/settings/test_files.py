"""Files read back what was written, exactly, and say in which line they are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from settings.files import (
    list_presets,
    preset_file,
    read_settings,
    read_settings_file,
    settings_hash,
    write_settings,
)
from settings.flat import flatten, replace
from settings.schema import SettingsError


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@given(data=st.data())
def test_any_legal_tree_reads_back_equal(data, suffix, toy, legal_changes, tmp_path_factory):
    tree = replace(toy(), data.draw(legal_changes(toy)))
    path = tmp_path_factory.getbasetemp() / f"round-trip{suffix}"
    write_settings(path, flatten(tree), about="a line")
    content = read_settings_file(path)
    assert content.values == flatten(tree)
    # Equal is not enough: 1 == 1.0 == True.
    assert [type(value) for value in content.values.values()] == [
        type(value) for value in flatten(tree).values()
    ]
    assert list(content.values) == list(flatten(tree))
    assert content.about == "a line"
    assert replace(toy(), content.values) == tree


@given(data=st.data())
def test_others_read_the_same_in_what_we_write(data, toy, legal_changes, tmp_path_factory):
    """A reader of YAML 1.1 (PyYAML's own) sees the same values: no `no` that turns into false."""
    flat = flatten(replace(toy(), data.draw(legal_changes(toy))))
    path = tmp_path_factory.getbasetemp() / "others.yaml"
    write_settings(path, flat)
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert loaded == {key: list(v) if isinstance(v, tuple) else v for key, v in flat.items()}
    assert [type(v) for v in loaded.values()] == [
        list if isinstance(v, tuple) else type(v) for v in flat.values()
    ]


def test_yaml_is_read_by_the_rules_of_1_2(tmp_path):
    path = written(
        tmp_path, "a: no\nb: on\nc: 1e-4\nd: 010\ne: 1:30\nf: 2025-10-21\ng: [1, 2.5]\nh: True\n"
    )
    text = {"a": "no", "b": "on", "e": "1:30", "f": "2025-10-21"}
    assert read_settings(path) == {**text, "c": 1e-4, "d": 10, "g": (1, 2.5), "h": True}


def test_comments_an_about_line_and_a_byte_order_mark_are_no_settings(tmp_path):
    path = written(tmp_path, "\ufeff# first\nabout: what it is\nmodel.width: 8  # small\n")
    content = read_settings_file(path)
    assert (content.values, content.about, content.lines) == (
        {"model.width": 8},
        "what it is",
        {"model.width": 3},
    )


def test_a_byte_order_mark_is_no_part_of_a_json_file(tmp_path):
    path = written(tmp_path, '\ufeff{"about": "x", "model.width": 8}', "run.json")
    assert read_settings(path) == {"model.width": 8}


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", ""), ("a.yml", "# nothing\n"), ("a.json", "{}")]
)
def test_an_empty_file_changes_nothing(tmp_path, name, text):
    assert read_settings(written(tmp_path, text, name)) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nloss:\n  kl:\n    weight: 1e-4\n", [":2:", "`loss.kl.weight: 0.0001`", "flat"]),
        ("a: 1\nb.c: 2\na: 3\n", [":3:", "a is set twice", "first in line 1"]),
        ("about: x\nabout: y\n", [":2:", "about is set twice"]),
        ("a: 1\nb: [1, 2\n", ["is not YAML"]),
        ("a: 1\n\tb: 2\n", [":2:", "is not YAML"]),
        ("- a\n- b\n", [":1:", "`dotted.key: value`"]),
        ("just text\n", [":1:", "`dotted.key: value`"]),
        ("a: 1\n---\nb: 2\n", ["is not YAML"]),
        ("a: 1\nb:\n", [":2:", "b has no value"]),
        ("a: [[1]]\n", [":1:", "flat list"]),
        ("a: [{b: 1}]\n", [":1:", "flat list"]),
        ("3: 1\n", [":1:", "not 3"]),
        ("a: !!python/object/apply:os.system [ls]\n", [":1:", "is not YAML"]),
        ("a: !!int 'x'\n", ["is not YAML"]),
        ("a: \x07\n", ["is not YAML"]),
    ],
)
def test_a_wrong_yaml_file_is_refused_with_its_line(tmp_path, text, says):
    with pytest.raises(SettingsError) as caught:
        read_settings(written(tmp_path, text))
    assert str(tmp_path / "run.yaml") in str(caught.value)
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1,\n "b" 2}', [":2:", "is not JSON"]),
        ('{"a": 1, "a": 2}', ["a is set twice"]),
        ('{"loss": {"kl": {"weight": 1}}}', ["`loss.kl.weight: 1`"]),
        ('{"a": NaN}', ["NaN", "finite"]),
        ('{"a": null}', ["a has no value"]),
        ("[1]", ["holds list"]),
        ("3", ["holds int"]),
    ],
)
def test_a_wrong_json_file_is_refused(tmp_path, text, says):
    with pytest.raises(SettingsError) as caught:
        read_settings(written(tmp_path, text, "run.json"))
    for part in [str(tmp_path / "run.json"), *says]:
        assert part in str(caught.value)


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(tmp_path / "absent.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        (tmp_path / "folder.yaml").mkdir()
        read_settings(tmp_path / "folder.yaml")
    with pytest.raises(SettingsError, match=r"ends in \.yaml, \.yml, \.json, not '\.toml'"):
        read_settings(tmp_path / "run.toml")
    with pytest.raises(SettingsError, match=r"ends in"):
        write_settings(tmp_path / "run.txt", {})
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        read_settings(tmp_path / "latin.yaml")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "run.json"
    write_settings(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_settings(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["run.json"]


@given(data=st.data())
def test_the_hash_sees_values_and_not_their_order(data, toy, legal_changes):
    flat = flatten(replace(toy(), data.draw(legal_changes(toy))))
    shuffled = dict(data.draw(st.permutations(list(flat.items()))))
    assert settings_hash(flat) == settings_hash(shuffled)
    assert settings_hash(flat) != settings_hash({**flat, "seed": flat["seed"] + 1})


def test_the_hash_is_the_same_in_another_process():
    flat = {"b": (1, 2.5), "a": "µ", "c": True}
    code = (
        "from settings.files import settings_hash;"
        "print(settings_hash({'c': True, 'a': '\\u00b5', 'b': [1, 2.5]}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    root = Path(__file__).resolve().parents[2]
    other = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == settings_hash(flat)
    assert len(settings_hash(flat)) == 64


def test_presets_are_listed_and_an_unknown_one_names_them(presets):
    assert list_presets("toy", presets) == ("document", "small")
    assert preset_file("toy", "document", presets).about == "the document's own"
    with pytest.raises(SettingsError, match=r"no preset 'docment'\. Presets: document, small"):
        preset_file("toy", "docment", presets)
    with pytest.raises(SettingsError, match=r"of your own is --settings FILE"):
        preset_file("toy", "docment", presets)
    with pytest.raises(SettingsError, match="Presets: none"):
        preset_file("other", "document", presets)
    with pytest.raises(SettingsError, match="no preset"):
        preset_file("toy", "../toy/small", presets)
