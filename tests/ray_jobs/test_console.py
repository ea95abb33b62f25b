"""`weighbridge VERB ...` as a user starts it: the installed script."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ray_jobs.verb import VERBS
from settings.flat import unknown_key

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(sys.executable).with_name("weighbridge")

HEAVY = """
import sys
from ray_jobs.console import main
main(sys.argv[1:])
heavy = {"torch", "ray", "pandas", "numpy", "yaml"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""

FORMS = {"/bin/weighbridge": "weighbridge {}", "/code/ray_jobs/x.py": "python -m ray_jobs.{}"}
"""What the process was started with -> how its texts name a verb."""


def run(*arguments, cwd=ROOT, path=ROOT, program=SCRIPT):
    return subprocess.run(
        [str(program), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(ran):
    """The one line on standard error of a request that cannot be carried out."""
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1, ran.stderr
    return ran.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_alone_it_lists_the_verbs_each_with_its_line(arguments):
    ran = run(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    for verb, about in VERBS.items():
        (line,) = [line for line in lines if line.split()[:1] == [verb]]
        assert line.endswith(f"  {about}")
    assert max(map(len, lines)) <= 80


def test_the_list_imports_nothing_heavy():
    ran = run("-c", HEAVY, program=sys.executable)
    assert ran.stdout.endswith("heavy: []\n"), ran.stderr


def test_every_verb_is_listed_and_every_line_is_a_verb():
    files = {path.stem: path.read_text() for path in (ROOT / "ray_jobs").glob("*.py")}
    assert {name for name, text in files.items() if "__main__" in text} == set(VERBS)
    for verb in VERBS:
        functions = {n.name for n in ast.parse(files[verb]).body if isinstance(n, ast.FunctionDef)}
        imported = verb == "sweep"  # its options are in ray_jobs/sweeping/options.py
        assert {"main", *([] if imported else ["make_parser"])} <= functions


def test_an_unknown_verb_is_answered_by_the_nearest():
    said = refusal(run("swep", "hdr_patch"))
    assert "there is no verb 'swep'. Nearest: sweep. Verbs: sweep, train, " in said
    for strange in ("zzzz", "nonsense"):
        assert "Nearest" not in refusal(run(strange))


def test_a_request_that_cannot_be_carried_out_has_the_status_of_the_verb():
    ran = run("simulate", "--budget", "-1", "DIR")
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: weighbridge simulate [-h]")
    assert "weighbridge simulate: error: argument --budget: a number above 0" in ran.stderr


@pytest.mark.parametrize("started", FORMS)
@pytest.mark.parametrize("verb", VERBS)
def test_help_speaks_of_what_was_typed(monkeypatch, capsys, verb, started):
    monkeypatch.setattr(sys, "argv", [started, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"ray_jobs.{verb}").main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {FORMS[started].format(verb)} [-h]")
    assert f"\n\n{VERBS[verb]}\n\n" in text
    (other,) = (form.split("{}")[0] for name, form in FORMS.items() if name != started)
    assert other not in text
    assert "{command}" not in text


@pytest.mark.parametrize("started", FORMS)
def test_an_error_speaks_of_what_was_typed(monkeypatch, started):
    monkeypatch.setattr(sys, "argv", [started, "train", "hdr_patch", "a.b=1"])
    form = FORMS[started].format("train")
    assert f" `{form} SYSTEM --show` lists" in str(unknown_key("a.b", []))


def test_nothing_was_typed_in_a_notebook(monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    assert "`python -m ray_jobs.train SYSTEM" in str(unknown_key("a.b", []))


def test_it_says_in_words_what_hides_ours(tmp_path):
    for name in ("here", "named"):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "models" / "__init__.py").touch()
    said = refusal(run("train", "--help", cwd=tmp_path / "here"))
    assert f"`import models` finds {tmp_path}/here/models, not ours in {ROOT}: " in said
    assert "since it is the current folder" in said
    said = refusal(run("train", "--help", cwd=tmp_path, path=f"{tmp_path}/named:{ROOT}"))
    assert "since PYTHONPATH names it" in said


def test_a_folder_of_data_hides_nothing(tmp_path):
    (tmp_path / "data").mkdir()
    ran = run("train", "--help", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.slow
def test_a_system_of_the_current_folder_is_found(tmp_path):
    (tmp_path / "of_a_test.py").write_text("raise RuntimeError('it was imported')\n")
    said = refusal(run("train", "of_a_test:System", "--show", cwd=tmp_path))
    assert "RuntimeError: it was imported" in said
