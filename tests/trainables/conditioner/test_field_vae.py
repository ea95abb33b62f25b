"""The simulation VAE as a system: it learns, resumes exactly, measures again, generates."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from data.fields.seen import unpacked
from settings.flat import replace
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.conditioner.field_vae import FieldVae
from trainables.loop import fit
from trainables.reporting.measure import evaluate_checkpoint
from trainables.request import Request
from trainables.run import LocalRun
from trainables.system import load_system

pytestmark = pytest.mark.slow

SMALL = {
    "model.filters": (12, 10, 8),
    "model.main_size": 8,
    "model.hier_size": 4,
    "data.count": 24,
    "data.length": 8,
    "data.probes_per_side": 4,
    "train.steps": 6,
    "train.report_every": 3,
    "train.batch_size": 4,
    "train.tensorboard": False,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def make(cache):
    """(system, settings, prepared) with changed keys; "__" stands for a dot."""

    def build(**changes):
        system = load_system(FieldVae.name)
        named = {key.replace("__", "."): value for key, value in changes.items()}
        settings = replace(system.Settings(), {**SMALL, **named})
        return system, settings, system.prepare(settings, cache)

    return build


def train(directory, made, **run):
    system, settings, prepared = made
    report = fit(system, settings, LocalRun(directory, **run), prepared)
    newest = checkpoint.available(directory / "checkpoints")[-1]
    return dict(report), checkpoint.load(newest, system.name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make):
    """(directory, report, checkpoint) of a training as `SMALL` says."""
    directory = tmp_path_factory.mktemp("trained")
    return directory, *train(directory, make())


def test_it_is_found_by_its_name_and_keeps_the_contract(make):
    system, settings, prepared = make()
    assert system.name == "field_vae"
    assert system.prepare_reads == ("data.*",)
    assert system.metrics(settings, None)[0].name == "reconstruction_error"
    assert not system.preflight(settings, prepared)


def test_the_network_learns(tmp_path, make):
    """Without the linear path, where all has to be learnt."""
    plain = {"model__linear": False, "train__batch_size": 8}
    untrained, _ = train(tmp_path / "a", make(**plain, train__steps=1, optimizer__lr=1e-9))
    sixty = {"train__steps": 60, "train__report_every": 60, "optimizer__lr": 3e-3}
    trained, _ = train(tmp_path / "b", make(**plain, **sixty))
    key = "val.reconstruction_error"
    assert trained[key] < 0.7 * untrained[key]


def test_the_linear_path_is_better_than_a_short_training_without_it(tmp_path, make, trained):
    _, with_path, _ = trained
    without, _ = train(tmp_path, make(model__linear=False))
    key = "val.reconstruction_error"
    assert with_path[key] < 0.5 * without[key]


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, make, trained):
    _, whole, one = trained
    train(tmp_path, make(), stop_step=3)
    parts, two = train(tmp_path, make(), resume=True)
    assert {**whole, "seconds": 0} == {**parts, "seconds": 0}
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(value, two.tensors[key]) for key, value in one.tensors.items())


def test_accumulated_micro_batches_equal_one_batch(tmp_path, make, trained):
    """The sampling noise belongs to the sample, not to the step or the worker."""
    _, _, one = trained
    _, two = train(tmp_path, make(train__batch_size=2, train__accumulate=2))
    for key, value in one.tensors.items():
        torch.testing.assert_close(two.tensors[key], value, rtol=1e-3, atol=2e-5, msg=key)


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_a_checkpoint_opens_without_data(tmp_path, make, average):
    made = make(train__ema_decay=average)
    report, found = train(tmp_path, made)
    built = dict(found.meta["built"])
    assert unpacked(built.pop("trained_on")).size == len(made[2].train)
    assert built == {"length": 8, "nodes": 16}
    opened = open_checkpoint(found.path)
    assert not opened.modules["vae"].training
    kind = "ema.vae.module." if average else "module.vae."
    for key, value in opened.modules["vae"].state_dict().items():
        assert torch.equal(value, found.tensors[kind + key]), key
    again = evaluate_checkpoint(*made, found.path)
    assert again == {key: value for key, value in report.items() if key.startswith("val.")}


def test_a_checkpoint_that_does_not_say_its_shapes_is_refused(tmp_path, trained):
    directory, _, found = trained
    path = shutil.copytree(directory, tmp_path / "copy") / found.path.relative_to(directory)
    text = (path / "meta.json").read_text()
    (path / "meta.json").write_text(text.replace('"built"', '"unknown"'))
    with pytest.raises(checkpoint.CheckpointError, match="does not say what its modules were"):
        open_checkpoint(path)


def test_generate_reconstructs_a_file(tmp_path, make, trained):
    _, settings, prepared = make()
    _, _, found = trained
    opened = open_checkpoint(found.path)
    target = tmp_path / "out"
    target.mkdir()
    values = np.load(prepared.path)[:7]
    np.save(tmp_path / "some.npy", values)
    request = Request(target=target, source=tmp_path / "some.npy", batch_size=3)
    with torch.no_grad():
        counts = opened.system.generate(settings, opened.modules, request)
    main, hier = (torch.from_numpy(np.load(target / f"{n}.npy")) for n in ("main", "hier"))
    written = torch.from_numpy(np.load(target / "field.npy"))
    model = opened.modules["vae"]
    torch.testing.assert_close(written, model.decode(main, hier).detach())
    error = np.linalg.norm((written.numpy() - values).reshape(7, -1), axis=1)
    expected = np.mean(error / np.linalg.norm(values.reshape(7, -1), axis=1))
    mean = pytest.approx((7 * expected, 7), rel=1e-5)
    assert counts == {"fields": 7, "reconstruction_error": mean}


def test_fields_that_are_all_equal_are_hopeless(tmp_path, make):
    np.save(tmp_path / "flat.npy", np.full((8, 8, 16), 3.0, dtype=np.float32))
    system, settings, prepared = make(data__fields=str(tmp_path / "flat.npy"))
    (finding,) = system.preflight(settings, prepared)
    assert finding.hopeless and "every training value is 3" in finding.text
