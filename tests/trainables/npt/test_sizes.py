"""Llama 3.2 1B by its published shapes, its weights on the meta device: what a checkpoint holds
beside them; and what a training and its use take from elsewhere: nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.npt.converter import Converter
from models.npt.llama import config_of, freeze, make_llama
from models.npt.settings import LlamaSettings
from models.npt.student import Converters
from settings.files import preset_file
from settings.flat import replace
from trainables.checkpoints import checkpoint, contents
from trainables.npt.forward import of
from trainables.npt.settings import NptSettings
from trainables.npt.system import Npt
from trainables.optimizing.average import averages
from trainables.optimizing.optimizer import make_optimizer, parameter_groups

ROOT = Path(__file__).resolve().parents[3]
PAPER = LlamaSettings(layers=16, width=2048, hidden=8192, heads=32, key_heads=8)
VOCABULARY, SEPARATOR, PLACES = 128_256, 128_000, 131_072


@pytest.fixture(scope="module")
def teacher():
    with torch.device("meta"):
        llama = make_llama(config_of(PAPER, VOCABULARY, SEPARATOR, PLACES))
    freeze(llama)
    return llama


@pytest.mark.slow
def test_a_checkpoint_beside_a_teacher_of_1b_is_of_the_converters_alone(teacher, tmp_path):
    """Weights, their average and two moments: less than five times the converters' bytes, and a
    hundredth of the teacher's.
    """
    settings = replace(NptSettings(), {"model.rank": 64, "model.layers": (0, 15)})
    converters = Converters((0, 15), PAPER.width, PAPER.hidden, settings.model, directions=10)
    modules = {"teacher": teacher, "converter": converters}
    node = settings.optimizer
    groups = parameter_groups(modules, ("converter",), node, (), {"converter": ("converter.*",)})
    optimizer = make_optimizer(node, groups)
    for parameter in converters.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    average = averages({"converter": converters}, 0.999, 0, 1)
    tensors = contents.tensors_of(modules, average, {"teacher"})
    state = {"optimizers": [optimizer.state_dict()]}
    stored = checkpoint.save(tmp_path, 1, tensors, state, {"system": "npt", "settings": {}})
    size = sum(file.stat().st_size for file in stored.iterdir())
    converter_bytes = sum(p.numel() * p.element_size() for p in converters.parameters())
    assert converter_bytes == 4 * 2 * 64 * (2048 + 2048 + 8192)
    assert 4 * converter_bytes < size < 5 * converter_bytes
    assert size < 0.01 * sum(p.numel() * p.element_size() for p in teacher.parameters())


@pytest.mark.slow
def test_a_system_of_1b_is_built_without_memory(teacher):
    """The preset `paper` by `rebuild`, as a checkpoint is opened; a converter's shapes follow."""
    folders = {"data.tokenizer": "llama", "teacher.path": "llama"}
    settings = replace(NptSettings(), {**preset_file("npt", "paper").values, **folders})
    assert settings.teacher.network == PAPER
    with torch.device("meta"):
        meta = {"config": teacher.config.to_dict(), "directions": 10}
        built = Npt().rebuild(settings, meta)
        h, a = torch.zeros(2, 2, 512, PAPER.width)
        layer = built.modules["teacher"].model.layers[15]
        made = of(built.modules).each["15"](layer, h, a)
    assert isinstance(of(built.modules).each["0"], Converter)
    assert sum(p.numel() for p in built.modules["teacher"].parameters()) == 1_235_814_400
    assert sum(p.numel() for p in built.modules["converter"].parameters()) == 16 * 256 * 12288
    assert made.mlp.shape == (2, 512, 2048) and made.change.shape == (2, 512, 8192)
    assert all(p.is_meta for m in built.modules.values() for p in m.parameters())


ALONE = """
import socket, sys
reached = []

def hear(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        reached.append((event, arguments))
    if event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        reached.append((event, arguments[1]))
    if reached:
        raise OSError(f"closed: {reached[-1]}")

sys.addaudithook(hear)
from ray_jobs import generate, train
folder, name, *settings = sys.argv[1:]
assert train.main([name, "--no-ray", "--dir", f"{folder}/training", *settings]) == 0
use = ["--checkpoint", f"{folder}/training", "--output", f"{folder}/texts"]
more = ["--prompt", "if", "generate.length=3", f"generate.export={folder}/exported"]
assert generate.main([*use, *more]) == 0
from trainables.npt.export import load
load(f"{folder}/exported")
print(reached, "transformers" in sys.modules, "torchvision" in sys.modules)
"""


def run_alone(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_nothing_reaches_the_network(shared_cache, tmp_path):
    """Training, use, export and its opening in a process where no address can be looked up and no
    socket connected; nor is torchvision imported.
    """
    short = {"train.steps": 2, "train.report_every": 2}
    settings = [f"{key}={value}" for key, value in {**Npt.small, **short}.items()]
    cache = {"WEIGHBRIDGE_CACHE": str(shared_cache)}
    ran = run_alone(ALONE, tmp_path, Npt.name, *settings, **cache)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[] True False"


HELP = """
import sys
from importlib import import_module
try:
    import_module(f"ray_jobs.{sys.argv[1]}").main(sys.argv[2:])
except SystemExit:
    pass
print([name for name in ("torch", "transformers", "torchvision") if name in sys.modules])
"""


@pytest.mark.parametrize("words", [("train", Npt.name, "--help"), ("generate", "--help")])
def test_help_imports_neither_torch_nor_llama(words):
    ran = run_alone(HELP, *words)
    assert "usage" in ran.stdout and ran.stdout.splitlines()[-1] == "[]", ran.stderr


@pytest.mark.slow
def test_the_settings_are_shown_without_llama():
    ran = run_alone(HELP, "train", Npt.name, "--show")
    assert "model.rank" in ran.stdout and ran.stdout.splitlines()[-1] == "['torch']", ran.stderr
