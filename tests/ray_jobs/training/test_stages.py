"""Progressive trainings: each stage is a training, the chain of them can be killed and goes on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs import encode_latents, evaluate
from ray_jobs.train import main
from ray_jobs.training import stages
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.compression.system import Compression

pytestmark = pytest.mark.usefixtures("module_on_one_thread")

TOY, TOY_GAN = "trainables.toy:Toy", "trainables.toy:ToyGan"
SETTINGS = ("optimizer.kind=sgd", "data.noise=1.0", "train.steps=12", "train.report_every=2")
SETTINGS += ("train.tensorboard=false", "train.patience=2", "--no-ray")
STAGES = ("--stages", "optimizer.lr=0.45,0.01,1e-9", "--stages", "data.samples=32,64,64")
"""The first overshoots and reaches its plateau, the second improves to its last step, the third
stays where it begins."""

WORDS = st.text("az09.-", min_size=1, max_size=5)


def run(directory, *more, stages=STAGES, settings=SETTINGS, system=TOY):
    return main([system, "--dir", str(directory), *stages, *settings, *more])


def rows(directory):
    """All reports of all stages, but for what a clock has measured."""
    found = []
    for path in sorted(directory.glob("stage-*/reports.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            del row["seconds"]
            found.append((path.parent.name, row))
    return found


def record(directory):
    return json.loads((directory / "stages.json").read_text())["stages"]


def weights(path):
    return checkpoint.load(path, TOY).tensors["module.model.linear.weight"]


def refused(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert not said.out
    return said.err.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A chain that nothing has disturbed; nobody changes it."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert run(directory) == 0
    return directory


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


class TestChain:
    def test_a_plateau_ends_a_stage_and_the_next_one_begins(self, whole):
        first, second, third = record(whole)
        assert first["step"] < 12
        assert first["stop_reason"].startswith("patience: val.mse was best with")
        assert (second["step"], second["stop_reason"]) == (12, None)
        assert third["step"] < 12 and all(one["finished"] for one in (first, second, third))
        assert first["settings"] == {"optimizer.lr": 0.45, "data.samples": 32}
        for one in (first, second, third):
            values = [r["val.mse"] for folder, r in rows(whole) if folder == one["folder"]]
            assert one["best"]["value"] == min(values)
            assert one["best"]["column"] == "val.mse"

    def test_a_stage_begins_with_the_best_weights_of_the_one_before(self, whole):
        """The last one has no learning rate to speak of, so it shows what it began with."""
        best = checkpoint.find(whole / "stage-2", best=True)
        began = weights(checkpoint.find(whole / "stage-3"))
        torch.testing.assert_close(began, weights(best), rtol=0, atol=1e-6)
        third = json.loads((whole / "stage-3/settings.json").read_text())
        assert third["train.init_from"] == str(whole / "stage-2")

    def test_best_is_not_newest(self, tmp_path):
        directory = tmp_path / "run"
        assert run(directory, stages=("--stages", "optimizer.lr=0.45,1e-9")) == 0
        newest = checkpoint.find(directory / "stage-1")
        best = checkpoint.find(directory / "stage-1", best=True)
        began = weights(checkpoint.find(directory / "stage-2"))
        torch.testing.assert_close(began, weights(best), rtol=0, atol=1e-6)
        assert not torch.allclose(began, weights(newest), rtol=0, atol=1e-3)

    def test_the_directory_stands_for_its_last_stage(self, whole, tmp_path, capsys):
        assert checkpoint.find(whole) == checkpoint.find(whole / "stage-3")
        assert checkpoint.find(whole, best=True) == checkpoint.find(whole / "stage-3", best=True)
        for name in ("stage-10", "stage-of-mine"):
            (tmp_path / name).mkdir()
        shutil.copytree(whole / "stage-1", tmp_path / "stage-9")
        assert checkpoint.find(tmp_path).parts[-3] == "stage-9"
        assert evaluate.main([str(whole), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["val.mse"] == rows(whole)[-1][1]["val.mse"]

    def test_it_says_beforehand_what_ends_a_stage(self, capsys):
        """A plateau is found at the fourth validation, which must not be the last."""
        options = ("--stages", "train.patience=0,3,3", "--stages", "train.steps=6,9,8")
        assert main([TOY, *options, "train.report_every=2", "--show"]) == 0
        first, second, third = capsys.readouterr().out.splitlines()[-3:]
        assert "(6 steps, for train.patience=0 looks for no plateau)" in first
        assert "(9 steps, or 3 validations without a better objective)" in second
        assert "(8 steps, too few for train.patience=3: they have a validation every 2)" in third

    def test_an_ill_stage_is_nothing_to_begin_with(self, tmp_path, capsys):
        """Of one sample without noise all is learnt, but nothing of the others."""
        ill = ("data.noise=0", "train.overfit_ratio=2", "optimizer.lr=0.05")
        ill += tuple(text for text in SETTINGS if text != "data.noise=1.0")
        directory = tmp_path / "run"
        assert run(directory, stages=("--stages", "data.samples=1,64"), settings=ill) == 3
        assert "The later stages have not begun." in capsys.readouterr().out
        first, second = record(directory)
        assert "overfit_ratio" in first["stop_reason"] and not first["finished"]
        assert second["step"] is None and not (directory / "stage-2").exists()
        assert main(["--resume", "--dir", str(directory), "--no-ray"]) == 3
        mended = ("train.overfit_ratio=0", "--no-ray")
        assert main(["--resume", "--dir", str(directory), *mended]) == 0
        assert all(stage["finished"] for stage in record(directory))


class TestResume:
    def resume(self, directory, *more):
        return main(["--resume", "--dir", str(directory), "--no-ray", *more])

    def disturb(self, directory, keep):
        """As after a kill in stage 2, when `keep` of its checkpoints were written."""
        path = directory / "stages.json"
        content = json.loads(path.read_text())
        for stage in content["stages"][1:]:
            stage.update(finished=False, step=None, stop_reason=None, best=None)
        path.write_text(json.dumps(content))
        for folder in sorted((directory / "stage-2/checkpoints").iterdir())[keep:]:
            shutil.rmtree(folder)
        shutil.rmtree(directory / "stage-3")

    @pytest.mark.parametrize("keep", [0, 1])
    def test_it_goes_on_where_it_was(self, whole, copied, keep):
        """Also where the stage had reported but had no checkpoint: it begins with the weights of
        the one before once more.
        """
        self.disturb(copied, keep)
        assert self.resume(copied) == 0
        assert rows(copied) == rows(whole)
        assert record(copied) == record(whole)

    def test_what_has_ended_stays_and_the_last_stage_may_be_given_more(self, whole, copied):
        assert self.resume(copied) == 0
        assert rows(copied) == rows(whole)
        assert self.resume(copied, "train.patience=0", "train.steps=14") == 0
        found = record(copied)
        assert [stage["step"] for stage in found[:2]] == [
            stage["step"] for stage in record(whole)[:2]
        ]
        assert found[2]["step"] == 14

    def test_fewer_steps_than_a_stage_has_done_are_refused(self, copied, capsys):
        names = ("settings.json", "stages.json", "stage-3/settings.json")
        before = [(copied / name).read_bytes() for name in names]
        done = record(copied)[-1]["step"]
        said = refused(capsys, "--resume", "--no-ray", "--dir", copied, f"train.steps={done - 1}")
        assert said.startswith(f"train.steps must be at least the {done} steps that {copied}/")
        assert [(copied / name).read_bytes() for name in names] == before

    def test_what_differs_between_the_stages_may_be_given_anew(self, copied):
        self.disturb(copied, 0)
        assert self.resume(copied, "optimizer.lr=0.02") == 0
        rates = [stage["settings"]["optimizer.lr"] for stage in record(copied)]
        assert rates == [0.45, 0.02, 0.02]
        told = json.loads((copied / "stage-3/settings.json").read_text())
        assert told["optimizer.lr"] == 0.02

    def test_what_cannot_be_resumed(self, copied, capsys):
        resume = ("--resume", "--no-ray", "--dir")
        assert "leave out --stages" in refused(capsys, *resume, copied, *STAGES)
        other = refused(capsys, TOY_GAN, *resume, copied)
        assert other == f"{copied} is a training of {TOY}, not of {TOY_GAN}."
        (copied / "stages.json").write_text('{"format": 2, "system": "x", "stages": [{"new": 1}]}')
        assert "reads up to 1" in refused(capsys, *resume, copied)
        (copied / "stages.json").write_text('{"format": 1, "stages": [{}]}')
        assert "cannot be read" in refused(capsys, *resume, copied)
        gone = copied / "gone"
        assert f"{gone} holds no training to resume. Leave out" in refused(capsys, *resume, gone)


@pytest.mark.slow
def test_killed_in_the_second_stage_it_gives_the_numbers_of_an_undisturbed_one(tmp_path):
    slow = ("data.delay_seconds=0.01", "train.patience=0", "optimizer.lr=0.1", "--no-ray")
    slow += (*STAGES[2:], "train.steps=12", "train.report_every=2", "train.tensorboard=false")
    verb = [sys.executable, "-m", "ray_jobs.train"]
    process = subprocess.Popen(
        [*verb, TOY, *slow, "--dir", str(tmp_path / "killed")], stdout=subprocess.DEVNULL
    )
    target = tmp_path / "killed/stage-2/checkpoints/step-00000004"
    while not target.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert [stage["finished"] for stage in record(tmp_path / "killed")] == [True, False, False]
    assert main(["--resume", "--no-ray", "--dir", str(tmp_path / "killed")]) == 0
    assert main([TOY, *slow, "--dir", str(tmp_path / "whole")]) == 0
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert record(tmp_path / "killed") == record(tmp_path / "whole")


SIZED = """
from torch import nn

from trainables.toy import Toy
from trainables.parts import Built

class Sized(Toy):
    name = "sized_of_a_test:Sized"

    def build(self, settings, prepared):
        made = super().build(settings, prepared).modules
        return Built(modules={**made, "sized": nn.Linear(settings.data.samples, 1)})
"""


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "answer"),
        [
            (["data.samples=8"], "is one stage. Give a value for each stage"),
            (["data.samples"], "takes a key and its value in each stage"),
            (["data.samples=8,,9"], "takes a key and its value in each stage"),
            (["data.samples=8,9", "data.samples=8,9"], "gives data.samples twice"),
            (["data.samples=8,9", "data.noise=1,2,3"], "not data.samples 2, data.noise 3."),
            (["train.init_from=a,b"], "begins with the weights of the one before"),
        ],
    )
    def test_stages_that_are_none(self, given, answer):
        with pytest.raises(SettingsError) as caught:
            stages.parse(given)
        assert answer in str(caught.value)

    def test_a_later_stages_value_before_the_first_begins(self, tmp_path, capsys):
        options = ("--no-ray", "--dir", tmp_path / "run")
        said = refused(capsys, TOY, "--stages", "data.samples=8,0", *options)
        assert said.startswith("stage 2 (data.samples=0): --stages: data.samples must lie in")
        assert "there is no setting 'data.size'" in refused(
            capsys, TOY, "--stages", "data.size=8,9", *options
        )
        twice = refused(capsys, TOY, "--stages", "data.noise=1,2", "data.noise=3", *options)
        assert "given once for all and once for each stage" in twice
        assert not (tmp_path / "run").exists()

    def test_a_network_that_cannot_take_the_weights(self, tmp_path, monkeypatch, capsys):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "sized_of_a_test.py").write_text(SIZED)
        sized = ("--stages", "data.samples=8,8,9")
        assert run(tmp_path / "run", stages=sized, system="sized_of_a_test:Sized") == 2
        said = capsys.readouterr().err
        assert said.startswith(
            "error: stage 3 (data.samples=9) cannot begin with the weights of the stage before: "
            "sized.weight is 1 x 9 here and 1 x 8 there."
        )
        assert not (tmp_path / "run").exists()

    def test_a_directory_that_is_taken(self, whole, tmp_path, capsys):
        taken = ("--no-ray", "--dir")
        assert "holds a training already" in refused(capsys, TOY, *taken, whole)
        (tmp_path / "run/stage-2").mkdir(parents=True)
        for more in ((), STAGES):
            assert "holds a training already" in refused(
                capsys, TOY, *taken, tmp_path / "run", *more
            )

    def test_a_timeline_over_the_same_key(self, tmp_path, capsys):
        stretches = [{"until": 2, "optimizer.lr": 0.1}, {"until": 4, "optimizer.lr": 0.2}]
        file = tmp_path / "timed.json"
        file.write_text(json.dumps({"train.steps": 4, "timeline": stretches}))
        options = ("--settings", file, "--no-ray", "--dir", tmp_path / "run", *STAGES)
        assert "optimizer.lr: the timeline changes it" in refused(capsys, TOY, *options)


@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_values_of_a_stage_stand_side_by_side(table):
    options = [f"key.{n}={','.join(column)}" for n, column in enumerate(table)]
    found = stages.parse(options)
    assert [stage.number for stage in found] == [1, 2, 3]
    for index, stage in enumerate(found):
        assert stage.settings == {f"key.{n}": column[index] for n, column in enumerate(table)}


def test_lists_are_values():
    found = stages.parse(["model.widths=[8,16],[8,16,16]", "data.root=a,b"])
    assert [stage.settings["model.widths"] for stage in found] == ["[8,16]", "[8,16,16]"]


@pytest.mark.slow
def test_an_autoencoder_from_16_to_32_pixels(tmp_path, capsys):
    tiny = {key: value for key, value in Compression.small.items() if key != "data.image_size"}
    settings = [f"{key}={json.dumps(value)}" for key, value in tiny.items()]
    settings += ["train.steps=4", "train.report_every=2", "train.tensorboard=false", "--no-ray"]
    directory = tmp_path / "run"
    sizes = ("--stages", "data.image_size=16,32")
    assert run(directory, stages=sizes, settings=settings, system="compression") == 0
    assert [stage["settings"] for stage in record(directory)] == [
        {"data.image_size": 16},
        {"data.image_size": 32},
    ]
    capsys.readouterr()
    measure = ["--checkpoint", str(directory), "--measure-only", "--json"]
    assert encode_latents.main(measure) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "stage-2" in facts["checkpoint"]["path"]
    assert facts["image_shape"][-2:] == [32, 32]
