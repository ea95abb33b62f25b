"""An option is added in one place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("settings", "losses", "models", "data", "metrics", "search_spaces")
ROOMS += ("trainables", "search", "results", "ray_jobs")

ADDED = '''
    courage: int = option(
        5, "--courage", group=TRIED, type=positive, metavar="N", help="how bold (default 5)"
    )
'''

# A sweep that is planned, stored and gone on with; prints the option where it arrives.
SCRIPT = """
import json, pathlib, sys
from ray_jobs.sweep import main
from ray_jobs.sweeping.options import SweepOptions, given, sweep_parser
from ray_jobs.sweeping.planning import new_setup
from ray_jobs.sweeping.resume import stored_setup, what_changed

said = given(vars(sweep_parser().parse_args(["--courage", "7"])))
setup = new_setup(SweepOptions(system="trainables.toy:Toy", space=sys.argv[1], **said))
folder = pathlib.Path(sys.argv[2])
folder.mkdir()
(folder / "sweep.json").write_text(json.dumps(setup.document))
again = stored_setup(folder)
print(json.dumps({
    "help": "--courage N" in sweep_parser().format_help(),
    "plan": setup.plan.courage,
    "stored": json.loads((folder / "sweep.json").read_text())["options"]["courage"],
    "resumed": again.plan.courage,
    "refused": what_changed(again, given(vars(sweep_parser().parse_args(["--courage", "8"]))), []),
}))
"""


@pytest.fixture
def copy(tmp_path):
    """The product with one option more, declared as one field of `SearchOptions`."""
    root = tmp_path / "product"
    for room in ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    file = root / "search" / "options.py"
    file.write_text(file.read_text().rstrip("\n") + "\n" + ADDED)
    return root


def run(root, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_field_reaches_help_document_plan_and_resume(copy, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("optimizer.lr: {log_uniform: [0.001, 1]}\n")
    arrived = json.loads(run(copy, "-c", SCRIPT, str(space), str(tmp_path / "stored")))
    values = {"plan": 7, "stored": 7, "resumed": 7, "refused": ["--courage: 7 -> 8"]}
    assert arrived == {"help": True, **values}
