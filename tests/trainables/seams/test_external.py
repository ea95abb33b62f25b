"""Frozen modules from files elsewhere: they lie once beside the checkpoints, and in none."""

from __future__ import annotations

import importlib
import json
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from settings.schema import SettingsError
from trainables.checkpoints import checkpoint, external
from trainables.checkpoints.checkpoint import CheckpointError
from trainables.checkpoints.restore import open_checkpoint
from trainables.external import External, external_file, fingerprint, read_tensors, write_tensors
from trainables.loop import Training, fit
from trainables.parts import Phase
from trainables.reporting.measure import evaluate_checkpoint
from trainables.run import LocalRun

HERE = Path(__file__).parent
AVERAGED = {"train__steps": 8, "train__ema_decay": 0.9}


@pytest.fixture
def kit(monkeypatch, tmp_path, toys, one_thread):
    """Trainings of the toys of external_toy.py, whose modules lie in `cache`."""
    monkeypatch.syspath_prepend(HERE)

    class Kit:
        module = importlib.import_module("external_toy")
        cache = tmp_path / "cache"

        def fit(self, system, directory, *, resume=False, stop=None, **changes):
            tree = toys.settings(system, **{**AVERAGED, **changes})
            run = LocalRun(directory, resume=resume, stop_step=stop)
            return dict(fit(system, tree, run, system.prepare(tree, self.cache)))

        def evaluate(self, system, path, **changes):
            tree = toys.settings(system, **{**AVERAGED, **changes})
            prepared = system.prepare(tree, self.cache)
            return evaluate_checkpoint(system, tree, prepared, checkpoint.find(path))

    return Kit()


@pytest.fixture
def trained(kit, tmp_path):
    """A whole training of the toy with a lens: its directory and its report."""
    return tmp_path / "run", kit.fit(kit.module.Frozen(), tmp_path / "run")


def newest(directory):
    return checkpoint.available(directory / "checkpoints")[-1]


def validated(report):
    return {key: value for key, value in report.items() if key.startswith("val.")}


def tensors(directory, system="external_toy:Frozen", **more):
    return checkpoint.load(newest(directory), system, **more).tensors


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_it_lies_once_beside_the_checkpoints_and_in_none(kit, trained, toys):
    directory, _ = trained
    (file,) = (directory / "external").iterdir()
    source = kit.module.Frozen().prepare(None, kit.cache)
    assert file.name == f"{source.fingerprint}.safetensors"
    for path in checkpoint.available(directory / "checkpoints"):
        stored = load_file(path / "modules.safetensors")
        assert {key.split(".")[1] for key in stored} == {"model"}
        assert {key.split(".")[0] for key in stored} == {"module", "ema"}
        assert checkpoint.read_meta(path)["external"] == {"lens": source.fingerprint}
    # The statistics, which training mode would have moved, are those of the file as well.
    assert_same(read_tensors(file), read_tensors(source.file))
    loaded = checkpoint.load(newest(directory), "external_toy:Frozen")
    own = {k.removeprefix("module.lens."): v for k, v in loaded.tensors.items() if "lens" in k}
    assert_same(own, read_tensors(source.file))


def test_it_is_neither_averaged_nor_updated_nor_in_training_mode(kit, tmp_path, toys):
    system = kit.module.Frozen()
    build = system.build
    tree = toys.settings(system, **AVERAGED)

    def thawed(settings, prepared):
        built = build(settings, prepared)
        built.modules["lens"].requires_grad_(True).train()
        return built

    system.build = thawed
    training = Training(system, tree, LocalRun(tmp_path), system.prepare(tree, kit.cache))
    assert list(training.ema) == ["model"]
    assert not training.modules["lens"].norm.training
    assert not any(p.requires_grad for p in training.modules["lens"].parameters())
    training.close()


@pytest.mark.parametrize("name", ["Frozen", "Unbuilt"])
def test_a_resumed_training_equals_a_whole_one(kit, tmp_path, name):
    system = getattr(kit.module, name)()
    whole = kit.fit(system, tmp_path / "whole")
    kit.fit(system, tmp_path / "part", stop=4)
    rest = kit.fit(system, tmp_path / "part", resume=True)
    assert_same(tensors(tmp_path / "whole", system.name), tensors(tmp_path / "part", system.name))
    assert validated(whole) == validated(rest) == kit.evaluate(system, tmp_path / "part")


def test_the_directory_is_whole_without_the_cache(kit, trained, tmp_path):
    directory, report = trained
    before = tensors(directory)
    shutil.rmtree(kit.cache)
    moved = shutil.move(directory, tmp_path / "elsewhere" / "run")
    modules = open_checkpoint(newest(Path(moved))).modules
    own = {f"module.lens.{key}": value for key, value in modules["lens"].state_dict().items()}
    assert_same(own, {key: before[key] for key in own})
    assert kit.evaluate(kit.module.Frozen(), Path(moved)) == validated(report)


class TestOfASweep:
    @pytest.fixture
    def sweep(self, kit, tmp_path):
        """Two trials in the directory of a sweep, which has moved since."""
        (tmp_path / "sweep").mkdir()
        (tmp_path / "sweep/sweep.json").write_text("{}")
        for trial in ("0001", "0002"):
            kit.fit(kit.module.Frozen(), tmp_path / "sweep/trials" / trial)
        return shutil.move(tmp_path / "sweep", tmp_path / "moved")

    def test_all_trials_share_one(self, kit, sweep):
        assert len(list((sweep / "external").iterdir())) == 1
        for trial in sorted((sweep / "trials").iterdir()):
            assert not (trial / "external").exists()
            assert kit.evaluate(kit.module.Frozen(), trial)["val.mse"] is not None

    def test_a_trial_that_was_copied_out_of_it_is_told_where_to_look(
        self, kit, sweep, tmp_path, capsys
    ):
        alone = shutil.copytree(sweep / "trials/0001", tmp_path / "alone")
        system = kit.module.Frozen()
        wanted = kit.evaluate(system, sweep / "trials/0001")
        for attempt in (
            lambda: kit.evaluate(system, alone),
            lambda: open_checkpoint(newest(alone)),
            # Older checkpoints, which need the same weights, are no way out.
            lambda: kit.fit(system, alone, resume=True),
        ):
            with pytest.raises(CheckpointError, match=r"frozen module lens.*train\.external=PATH"):
                attempt()
        assert "Falling back" not in capsys.readouterr().err
        copied = shutil.copy(next((sweep / "external").iterdir()), tmp_path / "any.safetensors")
        for named in (sweep / "external", copied, tmp_path):
            assert kit.evaluate(system, alone, train__external=str(named)) == wanted
            assert open_checkpoint(newest(alone), str(named)).step == 8
        kit.fit(system, alone, resume=True, train__steps=12, train__external=str(copied))
        assert kit.evaluate(system, alone)["val.mse"] is not None  # it is whole again

    def test_other_weights_are_refused(self, kit, sweep, tmp_path):
        alone = shutil.copytree(sweep / "trials/0001", tmp_path / "alone")
        system = kit.module.Frozen()
        system.seed = 12
        other = system.prepare(None, kit.cache)
        with pytest.raises(CheckpointError, match=f"holds others.*{other.fingerprint[:12]}"):
            kit.evaluate(system, alone, train__external=str(other.file))
        own = next((sweep / "external").iterdir())
        shutil.copy(other.file, own)
        with pytest.raises(CheckpointError, match="holds others"):
            kit.evaluate(system, sweep / "trials/0002")
        own.write_bytes(own.read_bytes()[:50])
        with pytest.raises(CheckpointError, match="cannot be read"):
            kit.evaluate(system, sweep / "trials/0002")


def test_a_checkpoint_whose_modules_need_no_meta_is_opened(kit, tmp_path, monkeypatch):
    build = kit.module.Frozen.build

    def without_meta(self, settings, prepared):
        return replace(build(self, settings, prepared), meta={})

    monkeypatch.setattr(kit.module.Frozen, "build", without_meta)
    kit.fit(kit.module.Frozen(), tmp_path / "run")
    assert open_checkpoint(newest(tmp_path / "run")).modules.keys() == {"model", "lens"}


def test_large_weights_stay_where_they_are(kit, tmp_path, monkeypatch):
    monkeypatch.setattr(external, "POINTER_ABOVE_BYTES", 10)
    system = kit.module.Unbuilt()
    kit.fit(system, tmp_path / "run", stop=4)
    (pointer,) = (tmp_path / "run/external").iterdir()
    source = system.prepare(None, kit.cache)
    assert pointer.name == f"{source.fingerprint}.json"
    assert json.loads(pointer.read_text())["file"] == str(source.file)
    assert kit.evaluate(system, tmp_path / "run")["val.mse"] is not None
    shutil.move(kit.cache, tmp_path / "new")
    with pytest.raises(CheckpointError, match=r"lens-11.safetensors is not there"):
        tensors(tmp_path / "run", system.name)
    kit.cache = tmp_path / "new"
    kit.fit(system, tmp_path / "run", resume=True, train__external=str(tmp_path / "new"))
    assert json.loads(pointer.read_text())["file"] == str(tmp_path / "new/lens-11.safetensors")
    assert tensors(tmp_path / "run", system.name)
    pointer.write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tensors(tmp_path / "run", system.name)


def test_many_may_store_the_same_at_once(kit, tmp_path):
    source = kit.module.Frozen().prepare(None, kit.cache)
    lens = kit.module.Frozen().build(None, source).modules
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(external.stored, tmp_path, lens, {"lens": source}) for _ in range(24)]
    assert [job.result() for job in jobs] == [{"lens": source.fingerprint}] * 24
    assert len(list((tmp_path / "external").iterdir())) == 1


class TestRefused:
    def test_a_phase_that_updates_it(self, kit, tmp_path):
        system = kit.module.Frozen()
        phases = system.phases
        system.phases = lambda *given: [
            Phase(p.name, ("model", "lens"), p.forward, p.composite) for p in phases(*given)
        ]
        with pytest.raises(SettingsError, match="phase model updates lens"):
            kit.fit(system, tmp_path)

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            (lambda own: {"glass": own}, "Built.external names 'glass'"),
            (lambda own: {"lens": External(own.file, "0" * 64)}, "has the weights sha256"),
        ],
    )
    def test_what_is_declared_wrongly(self, kit, tmp_path, changed, said):
        system = kit.module.Frozen()
        build = system.build

        def wrong(settings, prepared):
            built = build(settings, prepared)
            built.external = changed(prepared)
            return built

        system.build = wrong
        with pytest.raises(SettingsError, match=said):
            kit.fit(system, tmp_path)

    @pytest.mark.parametrize("name", ["Frozen", "Unbuilt"])
    def test_a_resume_on_data_of_another_one(self, kit, tmp_path, name):
        system = getattr(kit.module, name)()
        kit.fit(system, tmp_path / "run", stop=4)
        system.seed = 12
        with pytest.raises(CheckpointError, match="its data were made with another network"):
            kit.fit(system, tmp_path / "run", resume=True)


def as_before(path):
    """Rewrites a checkpoint as earlier versions wrote it: with all modules, without ties."""
    every = {k: v.clone() for k, v in checkpoint.load(path, "external_toy:Frozen").tensors.items()}
    save_file(every, path / "modules.safetensors")
    data = (path / "modules.safetensors").read_bytes()
    meta = checkpoint.read_meta(path)
    meta["files"]["modules.safetensors"] = [len(data), zlib.crc32(data)]
    meta |= {"format": 1}
    del meta["external"], meta["init_from"]
    (path / "meta.json").write_text(json.dumps(meta))


def test_checkpoints_of_before_are_read_as_they_are(kit, trained, tmp_path):
    directory, report = trained
    system = kit.module.Frozen()
    kit.fit(system, tmp_path / "old", stop=4)
    as_before(newest(tmp_path / "old"))
    shutil.rmtree(tmp_path / "old/external")
    assert "lens" in open_checkpoint(newest(tmp_path / "old")).modules
    assert kit.evaluate(system, tmp_path / "old")["val.mse"] is not None
    assert validated(kit.fit(system, tmp_path / "old", resume=True)) == validated(report)
    assert_same(tensors(tmp_path / "old"), tensors(directory))
    assert "module.lens.norm.weight" in load_file(newest(tmp_path / "old") / "modules.safetensors")
    assert kit.fit(system, tmp_path / "more", train__init_from=str(tmp_path / "old"))


class TestTied:
    def test_they_are_stored_once_and_tied_again(self, kit, trained):
        stored = newest(trained[0]) / "modules.safetensors"
        with safe_open(stored, framework="pt") as file:
            names = set(file.keys())
            tied = json.loads(file.metadata()["tied"])
        assert tied["module.model.down.weight"] == "module.model.up.weight"
        assert tied["ema.model.module.down.weight"] == "ema.model.module.up.weight"
        assert not names & tied.keys()
        found = read_tensors(stored)
        one, other = (found[f"module.model.{layer}.weight"] for layer in ("up", "down"))
        assert one.data_ptr() == other.data_ptr()
        model = open_checkpoint(newest(trained[0])).modules["model"]
        assert model.up.weight is model.down.weight

    def test_parts_of_a_tensor_are_stored_by_themselves(self, tmp_path):
        whole = torch.arange(6.0).reshape(2, 3)
        given = {
            "whole": whole,
            "row": whole[0],
            "turned": whole.T,
            "again": whole.view(2, 3),
            "none": torch.empty(0),
            "nothing": torch.empty(0),
        }
        write_tensors(tmp_path / "file", given)
        assert_same(read_tensors(tmp_path / "file"), given)
        with safe_open(tmp_path / "file", framework="pt") as file:
            assert json.loads(file.metadata()["tied"]) == {"again": "whole"}


def test_a_fingerprint_is_of_names_precisions_shapes_and_values(tmp_path):
    base = {"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "file", base)
    known = fingerprint(base)
    assert external_file(tmp_path / "file") == External(tmp_path / "file", known)
    assert fingerprint({"b": base["b"], "a": base["a"].reshape(2, 2).T.T.reshape(4)}) == known
    for other in (
        {**base, "a": torch.arange(4.0).double()},
        {**base, "a": torch.arange(4.0).view(2, 2)},
        {**base, "a": torch.arange(4.0) + 1e-6},
        {"c": base["a"], "b": base["b"]},
        {**base, "c": torch.empty(0)},
    ):
        assert fingerprint(other) != known


TOY = f"{HERE / 'external_toy.py'}:Frozen"
SETTINGS = {"train.ema_decay": 0.9, "train.batch_size": 4}


@pytest.mark.slow
class TestOfSeveralWorkers:
    """Two ranks, one after a resume in the middle, are one rank with both shares."""

    def test_two_ranks_equal_one(self, ranks, tmp_path):
        (tmp_path / "two").mkdir()
        (tmp_path / "one").mkdir()
        whole = {**SETTINGS, "train.batch_size": 8}
        (alone,), expected = ranks.trained(tmp_path / "one/run", 1, TOY, whole)
        two = tmp_path / "two/run"
        ranks.trained(two, 2, TOY, SETTINGS, stop=4)
        (report, same), found = ranks.trained(two, 2, TOY, SETTINGS)
        assert len(list((two / "external").iterdir())) == 1
        assert report["val.mse"] == same["val.mse"] == pytest.approx(alone["val.mse"], rel=1e-4)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.allclose(found[name].float(), tensor.float(), atol=1e-5), name

    def test_accumulation_equals_it_too_and_bf16_trains(self, ranks, tmp_path):
        one, parts, short = (tmp_path / name for name in ("one", "parts", "short"))
        _, whole = ranks.trained(one, 1, TOY, {**SETTINGS, "train.batch_size": 8})
        _, found = ranks.trained(parts, 1, TOY, {**SETTINGS, "train.accumulate": 2})
        for name, tensor in whole.items():
            assert torch.allclose(found[name].float(), tensor.float(), atol=1e-5), name
        settings = {**SETTINGS, "train.precision": "bf16"}
        (report,), _ = ranks.trained(short, 1, TOY, settings)
        assert report["val.mse"] is not None


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_a_file_that_cannot_be_read_is_refused_in_words(tmp_path, content):
    file = tmp_path / "encoder.safetensors"
    if content:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"cannot be read from .*encoder.*state dict"):
        external_file(file)
