"""What needs no training, measured as a trained network is."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from accelerate import Accelerator

from metrics.metric import Metric, per_sample
from models.hdr.prefill import PREFILLS
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.compression.references import downsampled, smaller
from trainables.compression.settings import CompressionSettings
from trainables.conditioner.references import RIDGES, ridge
from trainables.loop import Training, fit
from trainables.reference import Reference
from trainables.reporting.evaluate import evaluate
from trainables.reporting.measure import evaluate_checkpoint
from trainables.reporting.references import UNTRAINED, measure_by_unit, measure_references
from trainables.run import LocalRun
from trainables.stepping.batches import validation_loader
from trainables.system import load_system

SYSTEMS = ("hdr_patch", "conditioner", "field_vae", "compression")


@pytest.fixture(scope="module", params=SYSTEMS)
def small(request, shared_cache):
    """(system, settings, prepared) of a system at its smallest."""
    system = load_system(request.param)
    settings = replace(system.Settings(), system.small)
    return system, settings, system.prepare(settings, shared_cache)


@pytest.fixture(scope="module", params=["validation", "test"])
def measured(small, request):
    return request.param, measure_references(*small, request.param)


def examined(system, settings, prepared):
    """The columns of a system's examinations, which are of no unit and of no batch."""
    every = system.examinations(settings, prepared)
    return {f"val.{column.name}" for each in every for column in each.columns}


def test_every_system_has_some_and_the_network_at_step_0(small, measured):
    system, settings, prepared = small
    split, found = measured
    assert len(found) >= 3
    assert UNTRAINED in found
    objective = f"val.{system.metrics(settings, prepared)[0].name}"
    units = list(dict.fromkeys(system.loaders(settings, prepared).units[split]))
    for name, columns in found.items():
        assert columns["about"] and columns["unit"] == units
        others = {"about", "costs", "unit", "units"} | examined(system, settings, prepared)
        assert columns["units"].keys() == columns.keys() - others
        for column, values in columns["units"].items():
            assert len(values) == len(units), f"{name} {column}"
    values = [found[name][objective] for name in found]
    assert sum(value is not None for value in values) >= 2
    assert len({value for value in values if value is not None}) > 1


def test_untrained_is_what_a_training_starts_from(small, measured, tmp_path):
    system, settings, prepared = small
    split, found = measured
    training = Training(system, settings, LocalRun(tmp_path), prepared)
    columns = evaluate(
        Accelerator(cpu=True),
        training.modules,
        training.phases,
        training.metrics,
        validation_loader(training.loaders, 4, 1, 0, split),
        settings,
    )
    training.close()
    for name, value in found[UNTRAINED].items():
        if name.startswith("val.") and name not in examined(system, settings, prepared):
            assert value == (None if columns[name] is None else pytest.approx(columns[name], 1e-5))


def test_a_checkpoint_is_measured_as_validation_does_and_by_unit(small, tmp_path):
    system, settings, prepared = small
    settings = replace(settings, {"train.steps": 2, "train.report_every": 2})
    fit(system, settings, run := LocalRun(tmp_path), prepared)
    for split in ("validation", "test"):
        path = checkpoint.find(tmp_path)
        found = measure_by_unit(system, settings, prepared, path, split)
        expected = evaluate_checkpoint(system, settings, prepared, path, split)
        columns = [name for name in found if name.startswith("val.")]
        for name in columns:
            wanted = expected[name]
            assert found[name] == (None if wanted is None else pytest.approx(wanted, 1e-4)), name
            if split == "validation" and wanted is not None:
                assert run.history[-1][name] == pytest.approx(wanted, 1e-5)
        assert len(found["unit"]) == len(set(system.loaders(settings, prepared).units[split]))


def test_units_are_measured_by_themselves_and_add_up():
    """The mean over samples is that of the units, each with its number of samples."""

    class Numbers(torch.utils.data.Dataset):
        values = (1.0, 2.0, 5.0, 11.0, 3.0)

        def __len__(self):
            return len(self.values)

        def __getitem__(self, index):
            return {"y": torch.tensor([self.values[index]])}

    toy = load_system("trainables.toy:Toy")

    class Halves(type(toy)):
        def loaders(self, settings, prepared):
            loaders = super().loaders(settings, prepared)
            units = {"validation": ("b", "a", "b", "b", "a")}
            return dataclasses.replace(loaders, validation=Numbers(), units=units)

        def metrics(self, settings, prepared):
            def error(prediction, batch, settings):
                return per_sample((prediction["y"] - batch["y"])[:, 0] ** 2)

            def other(prediction, batch, settings):
                return per_sample(prediction["z"][:, 0])

            def root(sums, count):
                return math.sqrt(float(sums) / count)

            return [
                Metric("rmse", "", "min", error, "a root after the sum", finish=root),
                Metric("other", "", "min", other, "of what nobody predicts"),
            ]

        def references(self, settings, prepared):
            def none(batch):
                return {"y": 0.0 * batch["y"]}

            def rate(batch):
                return {"other": (batch["y"].sum(), torch.tensor(len(batch["y"])))}

            return {
                "zero": Reference(none, "nothing"),
                "codec": Reference(none, "a file", measure=rate),
            }

    system = Halves()
    settings = replace(system.Settings(), {"train.validation_batch_size": 2})
    with pytest.raises(KeyError):  # the toy's own network reads x, which these samples lack
        measure_references(system, settings, None)
    Numbers.__getitem__ = lambda self, i: {
        "y": torch.tensor([self.values[i]]),
        "x": torch.zeros(1),
    }
    measured = measure_references(system, settings, None)
    codec, found = measured["codec"], measured["zero"]
    assert codec["val.other"] == pytest.approx(22 / 5)
    assert codec["units"]["val.other"] == pytest.approx([17 / 3, 5 / 2])
    assert codec["val.rmse"] == found["val.rmse"]
    assert found["unit"] == ["b", "a"]
    assert found["units"]["val.rmse"] == pytest.approx(
        [math.sqrt((1 + 25 + 121) / 3), math.sqrt((4 + 9) / 2)]
    )
    assert found["val.rmse"] == pytest.approx(math.sqrt((1 + 4 + 25 + 121 + 9) / 5))
    assert found["val.other"] is None
    assert found["units"]["val.other"] == [None, None]


def test_a_wrong_number_of_units_is_refused(tmp_path):
    toy = load_system("trainables.toy:Toy")

    class Wrong(type(toy)):
        def loaders(self, settings, prepared):
            loaders = super().loaders(settings, prepared)
            return dataclasses.replace(loaders, units={"validation": ("a",)})

    with pytest.raises(ValueError, match=r"names 1 units for the \d+ samples of validation"):
        measure_references(Wrong(), Wrong.Settings(), None)


def test_the_name_of_the_platforms_own_is_taken():
    toy = load_system("trainables.toy:Toy")

    class Mine(type(toy)):
        def references(self, settings, prepared):
            return {UNTRAINED: Reference(lambda batch: {}, "mine")}

    with pytest.raises(SettingsError, match="Give it another name"):
        measure_references(Mine(), Mine.Settings(), None)


def test_a_prefill_alone_is_a_network_that_predicts_zero(shared_cache):
    system = load_system("hdr_patch")
    settings = replace(system.Settings(), system.small)
    prepared = system.prepare(settings, shared_cache)
    found = measure_references(system, settings, prepared)
    assert {f"prefill_{kind}" for kind in PREFILLS} < found.keys()
    for kind in PREFILLS:
        own = replace(settings, {"hdr.prefill": kind})
        modules = system.build(own, prepared).modules
        for parameter in modules["model"].network.output.parameters():
            torch.nn.init.zeros_(parameter)
        columns = evaluate(
            Accelerator(cpu=True),
            modules,
            system.phases(own, prepared),
            system.metrics(own, prepared),
            validation_loader(system.loaders(own, prepared), 4, 1, 0),
            own,
        )
        mine = found[f"prefill_{kind}"]
        assert mine["val.hole_log_rmse"] == pytest.approx(columns["val.hole_log_rmse"], rel=1e-6)


def test_ridge_is_the_best_of_leaving_one_out():
    """Against fits that really leave each sample out."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 9))
    y = x @ rng.normal(size=(9, 3)) + 1.5 * rng.normal(size=(24, 3)) + 4.0
    unit = float(np.square(x - x.mean(axis=0)).sum()) / 9

    def fit(rows, targets, strength):
        centred = rows - rows.mean(axis=0)
        gram = centred.T @ centred + strength * unit * np.eye(9)
        coefficients = np.linalg.solve(gram, centred.T @ (targets - targets.mean(axis=0)))
        return lambda new: (new - rows.mean(axis=0)) @ coefficients + targets.mean(axis=0)

    errors = []
    for strength in RIDGES:
        left = [
            fit(np.delete(x, i, 0), np.delete(y, i, 0), strength)(x[i]) - y[i] for i in range(24)
        ]
        errors.append(float(np.mean(np.square(left))))
    best = RIDGES[int(np.argmin(errors))]
    assert best not in (RIDGES[0], RIDGES[-1])  # so that it can be missed on both sides
    found = ridge(torch.from_numpy(x), torch.from_numpy(y))(torch.from_numpy(x[:5]))
    np.testing.assert_allclose(found.numpy(), fit(x, y, best)(x[:5]), rtol=1e-5)


def test_a_smaller_image_has_at_most_as_many_numbers_as_the_latent():
    for space, numbers, channels in (((64, 64), 768, 1), ((24, 32, 32), 3072, 2), ((9, 8), 5, 1)):
        sides = smaller(space, numbers, channels)
        assert math.prod(sides) * channels <= numbers
        assert len(sides) == len(space)
    assert smaller((64, 64), 256, 1) == (16, 16)
    settings = CompressionSettings()
    image = torch.full((2, 1, 64, 64), 0.25)
    prediction = downsampled(image, settings)
    torch.testing.assert_close(prediction["reconstruction"], image)
    torch.testing.assert_close(prediction["quantised_reconstruction"], image)
    numbers = math.prod(settings.model.latent_shape((64, 64)))
    assert 0.5 * numbers < prediction["latent"][0].numel() <= numbers


def test_principal_components_leave_what_the_smaller_singular_values_hold(shared_cache):
    system = load_system("field_vae")
    settings = replace(system.Settings(), system.small)
    prepared = system.prepare(settings, shared_cache)
    train = system.loaders(settings, prepared).train
    fields = torch.stack([train[(index, 0)]["field"] for index in range(len(train))])
    numbers = 4 + 1 * 4
    reference = system.references(settings, prepared)["principal_components"]
    left = fields.double() - reference.predict({"field": fields})["field"]
    centred = (fields - fields.mean(dim=0)).flatten(1).double().numpy()
    expected = np.sqrt((scipy.linalg.svdvals(centred)[numbers:] ** 2).sum())
    assert float(left.norm()) == pytest.approx(expected, rel=1e-4)
    mean = system.references(settings, prepared)["mean"].predict({"field": fields[:2]})["field"]
    torch.testing.assert_close(mean, fields.mean(dim=0).expand(2, -1, -1))


def test_the_mean_image_is_of_images_as_they_are(shared_cache):
    system = load_system("compression")
    settings = replace(system.Settings(), system.small)
    prepared = system.prepare(settings, shared_cache)
    images = system.loaders(replace(settings, system.originals), prepared).train
    mean = torch.stack([images[(index, 0)]["image"] for index in range(len(images))]).mean(dim=0)
    given = {"image": torch.zeros(2, *mean.shape)}
    found = system.references(settings, prepared)["mean"].predict(given)["reconstruction"]
    torch.testing.assert_close(found, mean.expand(2, *mean.shape))


def test_a_term_is_measured_where_its_reference_can_be_asked(shared_cache):
    """Conditioner: the spectral term reads features that only the network has."""
    system = load_system("conditioner")
    settings = replace(system.Settings(), system.small)
    found = measure_references(system, settings, system.prepare(settings, shared_cache))["mean"]
    assert found["val.loss.spectral"] is None
    assert found["val.loss.main_mse"] == pytest.approx(found["val.main_mse"], rel=1e-4)
