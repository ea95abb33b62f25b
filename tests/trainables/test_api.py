"""The names that authors of systems import, and that our own systems keep to them."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from settings.systems import SYSTEMS
from trainables import api

ROOT = Path(__file__).resolve().parents[2]

# A name that goes breaks systems that we have never seen: add, and take none away.
NAMES = """
    BalancerSettings Built Column Composite DataError Drawn Exam Examination External
    Finding Forward GathersOverUpdate Generates HealthSettings Loaders Measures Metric
    Modules OptimizerSettings Order Phase RateSettings Reference Request SOLVERS
    ScheduleSettings Settings SettingsError Solver Solvers SystemBase SystemSettings Tensors
    Term TermSettings TrainSettings Velocity adversarial_term cached_folder differences
    draw_integers draw_normal draw_uniform external_file grouped guided hole_values images
    images_with_hole integrate marked per_sample permuted random_split samples_of setting
    shift_time stratified time_grid trajectory twice_differentiable values values_of
    weighted_values
"""


def test_the_names_stay():
    assert sorted(api.__all__) == sorted(NAMES.split())
    assert all(hasattr(api, name) for name in api.__all__)


MODULES = sorted({spelled.partition(":")[0] for spelled in SYSTEMS.values()} | {"trainables.toy"})


@pytest.mark.parametrize("module", MODULES)
def test_our_systems_import_from_it_what_it_has(module):
    path = Path(importlib.import_module(module).__file__)
    origins = {
        (node.module, alias.name)
        for node in ast.parse((ROOT / "trainables" / "api.py").read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    past_it = [
        f"{path.name}:{node.lineno}: {alias.name} is in trainables.api"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (node.module, alias.name) in origins
    ]
    assert not past_it, past_it
