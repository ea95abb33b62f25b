"""The command of the findings; tests/ray/test_claims.py trains with it."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.claiming.arms import names
from benchmarks.claiming.figures import FINDINGS
from benchmarks.claims import main


def test_check_goes_over_all_arms(capsys):
    assert main(["--check"]) == 0
    said = capsys.readouterr().out
    for name in names():
        assert f"{name}: " in said
    assert "  decoded, against baseline\n    loss.decoded.weight: 1.0 -> 10.0 (with" in said


def test_check_names_page_line_and_figure_of_what_no_table_has(tmp_path, capsys):
    pages = shutil.copytree(FINDINGS, tmp_path / "findings")
    text = (pages / "hdr_patch.md").read_text()
    (pages / "hdr_patch.md").write_text(text.replace("| 1.762 | 1.990 |", "| 0.762 | 3.990 |"))
    line = text[: text.index("| 1.762 |")].count("\n") + 1
    assert main(["--check", "--findings", str(pages)]) == 1
    assert f"error: hdr_patch.md:{line}: 3.990: a figure of a run" in capsys.readouterr().err


@pytest.fixture
def two_changes(tmp_path):
    (tmp_path / "plain.yaml").write_text("about: the control\n")
    (tmp_path / "two.yaml").write_text("optimizer.lr: 0.5\nmodel.dropout: 0.5\n")
    (tmp_path / "own.yaml").write_text(
        "arms: {system: trainables.toy:Toy, control: plain}\npoints: [plain.yaml, two.yaml]\n"
        "optimizer.lr: {log_uniform: [0.001, 1]}\n"
    )
    return str(tmp_path / "own.yaml")


@pytest.mark.parametrize("more", [["--check"], ["--dir", "{}/sweeps"]])
def test_arms_that_isolate_nothing_are_refused_before_anything_starts(
    two_changes, tmp_path, capsys, more
):
    assert main([two_changes, *(part.format(tmp_path) for part in more)]) == 1
    said = capsys.readouterr()
    assert "model.dropout: 0.0 -> 0.5" in said.out + said.err
    assert "error: own.yaml: two against plain: an arm changes one setting" in said.err
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ([], "name the arms: compression, "),
        (["conditioner"], "--dir DIR"),
        (["gone", "--check"], "there are no arms 'gone'"),
        (["conditioner", "--dir", "d", "--first-unit", "2"], "add --units"),
        (["conditioner_flips", "--dir", "d", "--store", "../a"], "is not the name of a table"),
        (["conditioner_flips", "--dir", "d", "--store", "a=b"], "is not the name of a table"),
        (["--print", "gone"], "'gone' is not the name of a table"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused(capsys, line, says):
    assert main(line) == 1
    assert says in capsys.readouterr().err
