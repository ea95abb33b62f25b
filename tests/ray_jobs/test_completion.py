"""What <TAB> offers, asked of the installed script as the shell asks it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from ray_jobs import completion
from ray_jobs.verb import VERBS
from search.plan import SAMPLERS
from settings.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SCRIPT = BIN / "weighbridge"
TOY = "trainables.toy:Toy"

IN_BASH = """
eval "$(register-python-argcomplete weighbridge)"
complete -p weighbridge
COMP_LINE={line} COMP_POINT={point} COMP_TYPE=9
_python_argcomplete weighbridge
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The user's cache of this file's tests: torch is imported once."""
    return tmp_path_factory.mktemp("cache")


def environment(cache):
    ours = {"PYTHONPATH": str(ROOT), "WEIGHBRIDGE_CACHE": str(cache)}
    return {**os.environ, **ours, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


# Runs the script once for each line, in a process of its own that has its imports.
FORKS = """
import json, os, runpy, sys
import ray_jobs.completion, ray_jobs.console, ray_jobs.sweep, ray_jobs.train
for line in sys.stdin:
    asked = json.loads(line)
    if not (child := os.fork()):
        os.chdir(asked["cwd"])
        os.environ.update(asked["environment"])
        sys.argv = [asked["script"]]
        runpy.run_path(asked["script"], run_name="__main__")
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def forks(cache, tmp_path_factory):
    file = tmp_path_factory.mktemp("forks") / "forks.py"
    file.write_text(FORKS)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, file], env=environment(cache), **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def offered(forks, tmp_path):
    def ask(line, cwd=ROOT):
        """The completions at the end of a line, each whole, as for a shell that splits at blanks
        alone.
        """
        answer = tmp_path / "answer"
        asked = {
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "_ARGCOMPLETE_COMP_WORDBREAKS": " ",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        }
        line = json.dumps({"script": str(SCRIPT), "cwd": str(cwd), "environment": asked})
        print(line, file=forks.stdin, flush=True)
        assert forks.stdout.readline() == "0\n"
        return answer.read_text().split("\n") if answer.read_text() else []

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("weighbridge ", list(VERBS)),
        ("weighbridge s", ["sweep", "simulate", "solvers"]),
        ("weighbridge zz", []),
        ("weighbridge train ", list(SYSTEMS)),
        ("weighbridge sweep --trials 3 hdr", ["hdr_patch"]),
        ("weighbridge train hdr_patch --preset dou", ["double_tanh"]),
        ("weighbridge profile --size 8 field_vae --preset ", ["document"]),
        ("weighbridge sweep hdr_patch --space ca", ["caps"]),
        ("weighbridge sweep hdr_patch --sampler ", list(SAMPLERS)),
        ("weighbridge simulate DIR --scheduler pb", ["pbt", "pb2"]),
        ("weighbridge sweep hdr_patch --max-c", ["--max-concurrent"]),
        ("weighbridge sweep hdr_patch --trials ", []),
        ("weighbridge train nothing trai", []),
        ("weighbridge train --preset ", []),
    ],
)
def test_words_that_are_known_without_the_system(offered, line, expected):
    assert offered(line) == expected


@pytest.mark.slow
def test_settings_and_their_values(offered):
    assert offered(f"weighbridge train {TOY} train.st") == ["train.steps="]
    both = offered(f"weighbridge sweep {TOY} --trials 3 train.re")
    assert both == ["train.report_every="]
    values = offered(f"weighbridge sweep {TOY} --trials 3 --eta 2 train.steps=5 train.precision=")
    assert values == [f"train.precision={value}" for value in ("no", "fp16", "bf16")]
    switch = offered(f"weighbridge train {TOY} --no-ray train.tensorboard=t")
    assert switch == ["train.tensorboard=true"]
    assert offered(f"weighbridge train {TOY} train.steps=5 --no-ray train.st") == []
    assert offered(f"weighbridge train {TOY} train.steps=") == []
    assert offered(f"weighbridge train {TOY} --stages train.st") == ["train.steps="]


def test_the_sweep_names_the_system(offered, tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"system": TOY}))
    assert offered(f"weighbridge train --from-sweep {tmp_path} train.st") == ["train.steps="]
    assert offered(f"weighbridge sweep --resume {tmp_path} train.st") == ["train.steps="]


def test_folders_and_files(offered, tmp_path):
    (tmp_path / "sweeps" / "first").mkdir(parents=True)
    (tmp_path / "space.yaml").touch()
    (tmp_path / "space.txt").touch()
    assert offered("weighbridge analyze s", tmp_path) == ["sweeps/"]
    assert offered("weighbridge sweep --resume sweeps/", tmp_path) == ["sweeps/first/"]
    assert offered("weighbridge sweep hdr_patch --space space", tmp_path) == ["space.yaml"]
    assert offered("weighbridge train hdr_patch --settings spa", tmp_path) == ["space.yaml"]


def test_the_settings_of_a_system_are_read_anew_when_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_of_a_test.py"
    text = "from trainables.toy import Toy\n\nclass Own(Toy):\n    name = 'own_of_a_test:Own'\n"
    module.write_text(text)
    asked = {"parsed_args": Namespace(system="own_of_a_test:Own"), "prefix": "train.st"}
    keys = completion.settings(**asked)
    assert {"train.steps=", "optimizer.lr="} <= set(keys)
    (file,) = (tmp_path / "cache" / "completion").iterdir()
    stored = json.loads(file.read_text())
    assert str(module) in stored["files"]
    assert not [name for name in stored["files"] if "site-packages" in name]
    file.write_text(json.dumps({**stored, "leaves": {"a.b": {"values": [], "help": ""}}}))
    assert completion.settings(**asked) == {"a.b=": ""}
    os.utime(module, (1.0, 1.0))
    assert completion.settings(**asked) == keys
    file.write_text("{damaged")
    assert completion.settings(**asked) == keys


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))
    keys = completion.settings(parsed_args=Namespace(system=TOY), prefix="")
    assert "train.steps=" in keys


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("weighbridge sim", ["simulate"]),
        ("weighbridge sweep hdr_patch --scheduler=me", ["median"]),
        (f"weighbridge train {TOY} --no-ray train.st", ["train.steps="]),
        (f"weighbridge train {TOY} --no-ray train.precision=f", ["fp16"]),
    ],
)
def test_bash_is_told(cache, line, expected):
    code = IN_BASH.format(line=shlex.quote(line), point=len(line))
    ran = subprocess.run(
        ["bash", "--norc", "-c", code],
        env=environment(cache),
        capture_output=True,
        text=True,
        check=True,
    )
    registered, *replies = ran.stdout.splitlines()
    assert registered.endswith("-F _python_argcomplete weighbridge")
    assert [reply.rstrip() for reply in replies] == expected
