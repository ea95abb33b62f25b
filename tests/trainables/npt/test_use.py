"""A trained student in use: texts by `generate`, and the folder that it is exported to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.files import DataError
from models.npt.continuation import Drawn, continued, until
from models.npt.layers import with_rules
from models.npt.llama import logits_of
from ray_jobs import generate, train
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.npt.export import load
from trainables.npt.forward import of
from trainables.npt.system import Npt

pytestmark = pytest.mark.slow  # the import of Llama alone takes seconds

ROOT = Path(__file__).resolve().parents[3]
PROMPT = "The import"
SEPARATOR = 256


@pytest.fixture(scope="module")
def training(shared_cache, tmp_path_factory, module_on_one_thread):
    """Of a few steps at a learning rate that moves the converters far."""
    folder = tmp_path_factory.mktemp("npt") / "training"
    short = {"train.steps": 4, "train.report_every": 4, "train.tensorboard": False}
    given = {**Npt.small, **short, "optimizer.lr": 0.1}
    settings = [f"{key}={value}" for key, value in given.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
        assert train.main([Npt.name, "--no-ray", "--dir", str(folder), *settings]) == 0
    return folder


@pytest.fixture(scope="module")
def opened(training):
    return open_checkpoint(checkpoint.find(training))


def run(training, *arguments):
    return generate.main([str(argument) for argument in ("--checkpoint", training, *arguments)])


def one_by_one(network, text, count):
    """The likeliest byte after all before it, again and again, without a cache."""
    tokens = [SEPARATOR, *text.encode()]
    for _ in range(count):
        with torch.no_grad():
            token = int(logits_of(network, torch.tensor([tokens]))[0, -1].argmax())
        if token == SEPARATOR:
            break
        tokens.append(token)
    return bytes(tokens[1:]).decode("utf-8", errors="replace")


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_prompt_is_gone_on_with_and_twice_the_same(training, opened, tmp_path, network):
    options = ("generate.length=12", f"generate.network={network}")
    for name in ("one", "two"):
        assert run(training, "--prompt", PROMPT, "--output", tmp_path / name, *options) == 0
    one, two = ((tmp_path / name / "000000.txt").read_bytes() for name in ("one", "two"))
    assert one == two and one.startswith(PROMPT.encode())
    teacher = opened.modules["teacher"]
    student = with_rules(teacher, dict(of(opened.modules).rules()))
    networks = {"student": student, "teacher": teacher}
    texts = {name: one_by_one(each, PROMPT, 12) for name, each in networks.items()}
    assert one.decode() == texts[network]
    assert texts["student"] != texts["teacher"]


def test_draws_are_by_the_seeds_of_the_samples(training, tmp_path, capsys):
    options = ("generate.length=10", "generate.temperature=1", "--count", 4)
    texts = {}
    for name, more in {
        "once": (),
        "again": (),
        "batches": ("--batch-size", 3),
        "seed": ("--seed", 5),
    }.items():
        target = tmp_path / name
        given = ("--prompt", PROMPT, "--output", target, *options, *more, "--json")
        assert run(training, *given) == 0
        texts[name] = [path.read_bytes() for path in sorted(target.iterdir())]
    assert texts["once"] == texts["again"] == texts["batches"] != texts["seed"]
    assert len(set(texts["once"])) == 4
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["samples"] == 4 and 0 < measured["tokens"] <= 40
    assert measured["tokens_per_second"] > 0.0


def test_inputs_of_any_length_are_texts_of_their_own(training, opened, tmp_path, capsys):
    """The teacher knows 64 places: with 10 new tokens it reads the last 54 of a long text."""
    source = tmp_path / "texts"
    source.mkdir()
    (source / "1.txt").write_text("if")
    (source / "2.txt").write_text("for " * 20)
    target = tmp_path / "out"
    given = ("--input", source, "--output", target, "generate.length=10", "--json")
    assert run(training, *given) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens_left_out"] == 81 - 54
    student = with_rules(opened.modules["teacher"], dict(of(opened.modules).rules()))
    assert (target / "000000.txt").read_text() == one_by_one(student, "if", 10)
    long = (target / "000001.txt").read_bytes()
    (ending,) = continued(student, [list(b"for " * 20)[-54:]], 10, SEPARATOR)
    assert long == b"for " * 20 + bytes(ending)


def test_without_a_text_a_document_begins(training, opened, tmp_path):
    assert run(training, "--output", tmp_path / "out", "generate.length=5") == 0
    student = with_rules(opened.modules["teacher"], dict(of(opened.modules).rules()))
    assert (tmp_path / "out/000000.txt").read_text() == one_by_one(student, "", 5)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("generate.length=64",), "generate.length must lie below 64, the places that"),
        (("--count", 2, "generate.length=9"), "--count 2: at generate.temperature=0 nothing is"),
        (("--input", "no/such"), "--input no/such does not exist"),
        (("generate.network=both",), "generate.network takes one of student | teacher"),
    ],
)
def test_what_cannot_be_generated_is_refused(training, tmp_path, capsys, arguments, said):
    assert run(training, "--output", tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err


def test_an_input_that_is_no_text_is_refused(training, tmp_path, capsys):
    (tmp_path / "some.txt").write_bytes(b"\xff\xfe\x00")
    given = ("--input", tmp_path / "some.txt", "--output", tmp_path / "out", "generate.length=9")
    assert run(training, *given) == 2
    assert "expected text in UTF-8" in capsys.readouterr().err


OPEN = """
import sys, torch
from trainables.npt.export import load
student = load(sys.argv[1])
torch.save(student.logits(student.tokens("The import")), sys.argv[2])
print("torchvision" in sys.modules, student.tokenizer.size)
"""


def test_an_export_opens_in_another_process_with_the_same_logits(
    training, opened, tmp_path, capsys
):
    """Neither the checkpoint nor the text nor the teacher's file is at hand there."""
    folder, output = tmp_path / "exported", tmp_path / "logits.pt"
    given = ("--output", tmp_path / "out", "generate.length=2", f"generate.export={folder}")
    assert run(training, *given) == 0
    moved = tmp_path / "moved"
    folder.rename(moved)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WEIGHBRIDGE_CACHE": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", OPEN, str(moved), str(output)],
        cwd=tmp_path,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["False", "257"]
    student = with_rules(opened.modules["teacher"], dict(of(opened.modules).rules()))
    with torch.no_grad():
        expected = logits_of(student, torch.tensor([[SEPARATOR, *b"The import"]]))
    assert torch.equal(torch.load(output, weights_only=True), expected)
    here = load(moved)
    with torch.no_grad():
        assert not torch.allclose(logits_of(here.teacher, here.tokens(PROMPT)), expected)
    assert capsys.readouterr().err == ""
    again = ("--output", tmp_path / "two", "generate.length=2", f"generate.export={moved}")
    assert run(training, *again) == 2
    assert "holds files already" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"expected a student of npt \(npt\.json\)"):
        load(tmp_path)


def test_an_export_has_the_tokenizer_of_its_training(opened, tmp_path):
    """Of words, whose folder is gone afterwards."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from settings.flat import replace
    from trainables.npt.export import save

    words = tmp_path / "words"
    words.mkdir()
    library = Tokenizer(models.WordLevel({"<s>": 0, "if": 1, "else": 2}, unk_token="<s>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(words / "tokenizer.json"))
    (words / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    settings = replace(opened.settings, {"data.tokenizer": str(words)})
    save(tmp_path / "exported", settings, opened.modules)
    words.rename(tmp_path / "elsewhere")
    exported = load(tmp_path / "exported")
    assert exported.tokens("else if").tolist() == [[0, 2, 1]]
    with pytest.raises(DataError, match="expected the tokenizer"):
        save(tmp_path / "other", settings, opened.modules)
    assert not (tmp_path / "other").exists()


def test_tokens_are_drawn_by_their_probabilities():
    """Of evenly spaced numbers each token gets its share, at a temperature."""
    logits = torch.tensor([[1.0, -0.5, 2.0, -torch.inf]])
    for temperature in (1.0, 0.5):
        uniform = (torch.arange(1000)[None] + 0.5) / 1000
        drawn = Drawn(uniform, temperature, after=3)
        tokens = [
            int(drawn(torch.zeros(1, 3 + step, dtype=torch.long), logits).argmax())
            for step in range(1000)
        ]
        expected = np.exp(logits.numpy()[0] / temperature)
        shares = np.bincount(tokens, minlength=4) / 1000
        np.testing.assert_allclose(shares, expected / expected.sum(), atol=2e-3)
    assert until([5, 7, 9, 5], [9, 11]) == [5, 7]
    assert until([5, 7], [9]) == [5, 7]
