"""The conditioner as a system: its rules, what its forward makes, what its trials share."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.fields.network import ModelSettings
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from settings.flat import leaves
from settings.resolve import resolve
from settings.schema import SettingsError
from trainables.conditioner.field_vae import FieldVae
from trainables.conditioner.findings import contradictions, narrow_heads
from trainables.conditioner.system import Conditioner, ConditionerSettings, condition
from trainables.loop import fit
from trainables.run import LocalRun

LATENTS = {
    "data.source": "folder",
    "data.images": "images",
    "data.targets": "latents",
    "data.kind": "latents",
}
AUGMENTED = {"augment.outer_probability": 1.0, "augment.inner_probability": 1.0}
FOUR_STAGES = {"model.filters": (4, 4, 4, 4)}
EMA = {"loss.consistency.enabled": True, "loss.consistency.teacher": "ema"}


@pytest.mark.parametrize(
    ("broken", "message", "mended"),
    [
        (
            {**LATENTS, "loss.decoded.enabled": True},
            "loss.decoded needs a decoder",
            {"loss.decoded.weight": 0.0},
        ),
        (EMA, "train.ema_decay is 0", {"train.ema_decay": 0.9}),
        (EMA, "train.ema_decay is 0", {"loss.consistency.weight": 0.0}),
        (
            {**FOUR_STAGES, "data.image_size": 15},
            "data.image_size must be at least 16 for 4 stages",
            {"data.image_size": 16},
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(conditioner, broken, message, mended):
    with pytest.raises(SettingsError, match=message):
        conditioner.settings(broken)
    conditioner.settings({**broken, **mended})


def test_the_smallest_image_is_predicted(conditioner):
    settings = conditioner.settings({**FOUR_STAGES, "data.image_size": 16})
    meta = {"main_size": 4, "hier_shape": [1, 4]}
    model = Conditioner().rebuild(settings, meta).modules["model"]
    found = model(torch.rand(3, 1, 16, 16))
    assert found["main"].shape == (3, 4)
    assert bool(torch.isfinite(found["hier"]).all())


NO_MOVES = {f"augment.{name}_probability": 0.0 for name in ("shift", "rotation", "scale")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"loss.consistency.enabled": True}, []),
        ({"loss.consistency.enabled": True, "augment.outer_probability": 0.0}, []),
        (
            {
                "loss.consistency.enabled": True,
                "augment.outer_probability": 0.0,
                "augment.noise_probability": 0.0,
            },
            ["loss.consistency is idle"],
        ),
        (
            # The outline "moves" with probability 0.4, but no move has a chance of its own.
            {"loss.consistency.enabled": True, **NO_MOVES, "augment.noise_sigma": 0.0},
            ["loss.consistency is idle"],
        ),
        ({"augment.outer_probability": 0.0, "augment.noise_probability": 0.0}, []),
        ({"augment.flip_symmetric": True}, ["6% of the images are flipped"]),
        ({"augment.flip_symmetric": True, "data.symmetric": True}, []),
        ({"augment.flip_symmetric": True, "augment.flip_probability": 0.0}, []),
        ({**LATENTS, "augment.flip_symmetric": True}, []),  # the user knows
    ],
)
def test_contradictions_are_said_before_a_training(conditioner, changes, expected):
    tree = conditioner.settings(changes)
    found = contradictions(tree.augment, tree.loss, tree.data)
    assert len(found) == len(expected)
    assert all(
        text.startswith(begin) or begin in text
        for text, begin in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    ("widths", "narrow"),
    [((16, 16), []), ((3, 16), ["model.trunk_width"]), ((0, 2), ["model.head_width"])],
)
def test_heads_narrower_than_the_latents_are_named(tmp_path, widths, narrow):
    """Main latents of rank 4 among 6 numbers, hierarchical ones of rank 3."""
    rng = np.random.default_rng(0)
    main = rng.normal(size=(50, 4)) @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:4]
    np.save(tmp_path / "main.npy", main)
    np.save(tmp_path / "hier.npy", (rng.normal(size=(50, 3)) @ np.eye(3, 8)).reshape(50, 2, 4))
    model = ModelSettings(filters=(4, 8), trunk_width=widths[0], head_width=widths[1])
    found = narrow_heads(model, tmp_path, np.arange(50))
    assert bool(found) == bool(narrow)
    for name in narrow:
        assert name in found[0]
        assert "lies in 4 directions" in found[0]
        assert f"{min(filter(None, widths))} units, its narrowest layer" in found[0]


# The forward


def modules_and_batch(conditioner, settings, training=True):
    prepared = conditioner.system.prepare(settings, conditioner.cache)
    torch.manual_seed(0)
    modules = conditioner.system.build(settings, prepared).modules
    for module in modules.values():
        module.train(training)
    loaders = conditioner.system.loaders(settings, prepared)
    data = loaders.train if training else loaders.validation
    keys = [(index, 7 * index) for index in range(4)] if training else list(range(4))
    return modules, data.__getitems__(keys)


LATENT_ENTRIES = {"main", "hier"}
PAIRED = {"paired_main", "paired_hier"}
FIELDS = {"field", "target_field"}
FEATURES = {"feature_0", "feature_1"}


@pytest.mark.parametrize(
    ("on", "more"),
    [
        ({}, set()),
        ({"loss.main_perceptual.enabled": True, "loss.hier_huber.enabled": True}, set()),
        ({"loss.spectral.enabled": True}, FEATURES),
        ({"loss.spectral.enabled": True, "loss.spectral.weight": 0.0}, set()),
        ({"loss.consistency.enabled": True}, PAIRED),
        ({"loss.consistency.enabled": True, "loss.consistency.weight": 0.0}, set()),
        ({"loss.decoded.enabled": True}, FIELDS),
        ({"loss.decoded.enabled": True, "loss.decoded.weight": 0.0}, set()),
    ],
)
def test_a_training_forward_makes_what_its_terms_read(conditioner, on, more):
    settings = conditioner.settings(on)
    modules, batch = modules_and_batch(conditioner, settings)
    prediction = condition(modules, batch, settings)
    assert prediction.keys() == LATENT_ENTRIES | more
    # And it is enough: every term that is on finds its entries, and has a gradient or a target.
    (phase,) = conditioner.system.phases(settings, None)
    counts = phase.composite.counts(batch, settings).tolist()
    denominators = dict(zip(phase.composite.terms, counts, strict=True))
    weights = phase.composite.weights(0, 4)
    total = phase.composite.weigh(prediction, batch, settings, weights, denominators).total
    total.backward()
    assert all(not entry.requires_grad for name, entry in prediction.items() if name in PAIRED)
    assert all(p.grad is None for p in modules["decoder"].parameters())


def test_a_validation_forward_makes_everything(conditioner):
    settings = conditioner.settings()
    modules, batch = modules_and_batch(conditioner, settings, training=False)
    prediction = condition(modules, batch, settings)
    assert prediction.keys() == LATENT_ENTRIES | PAIRED | FIELDS | FEATURES
    assert prediction["field"].shape == batch["field"].shape == (4, 8, 9)
    assert not torch.equal(prediction["main"], prediction["paired_main"])


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def test_the_other_view_is_predicted_in_eval_mode(conditioner):
    """It moves no power iteration of spectral normalisation, and drops nothing out."""
    changes = {"loss.consistency.enabled": True, "model.dropout": 0.5, **AUGMENTED}
    settings = conditioner.settings(changes)
    modules, batch = modules_and_batch(conditioner, settings)
    model, alone = modules["model"], copy.deepcopy(modules["model"])
    torch.manual_seed(1)
    alone(batch["image"])
    torch.manual_seed(1)
    prediction = condition(modules, batch, settings)
    assert model.training
    assert all(module.training for module in model.modules())
    after = buffers(model)
    assert after, "there is no spectral normalisation to look at"
    assert all(torch.equal(value, after[name]) for name, value in buffers(alone).items())
    expected = model.eval()(batch["paired"])
    for kind in ("main", "hier"):
        assert torch.equal(prediction[f"paired_{kind}"], expected[kind])
        assert not torch.allclose(prediction[f"paired_{kind}"], prediction[kind], atol=1e-4)


@pytest.mark.slow
def test_the_teacher_may_be_the_moving_average(conditioner, tmp_path):
    changes = {**EMA, "train.ema_decay": 0.9, **AUGMENTED}
    settings = conditioner.settings(changes)
    modules, batch = modules_and_batch(conditioner, settings)
    torch.manual_seed(9)
    teacher = conditioner.system.rebuild(settings, {"main_size": 4, "hier_shape": [1, 4]})
    ema = teacher.modules["model"].eval()
    found = condition({**modules, "ema.model": ema}, batch, settings)
    assert torch.equal(found["paired_main"], ema(batch["paired"])["main"])
    heavy = {**changes, "loss.consistency.weight": 100.0, "train.report_every": 4}
    runs = [
        conditioner.fit(tmp_path / kind, {**heavy, "loss.consistency.teacher": kind})[1]
        for kind in ("ema", "same")
    ]
    assert runs[0].keys() == runs[1].keys()
    assert any(not torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


# What trials share


def test_trials_share_one_vae(conditioner):
    one = conditioner.prepared()
    files = list(conditioner.cache.rglob("vae.safetensors"))
    written = {path: path.stat().st_mtime_ns for path in files}
    two = conditioner.prepared({"loss.decoded.enabled": True, "model.filters": (4, 4)})
    assert two == one
    assert {
        path: path.stat().st_mtime_ns for path in conditioner.cache.rglob("vae.safetensors")
    } == written
    other = conditioner.prepared({"vae.seed": 1})
    assert other.latents != one.latents
    assert len(list(conditioner.cache.rglob("vae.safetensors"))) == len(files) + 1


@pytest.mark.parametrize("key", ["vae.lr", "vae.reach", "data.validation_share"])
def test_what_trials_share_is_not_searched(tmp_path, key):
    leaf = leaves(ConditionerSettings)[key]
    space = tmp_path / "space.yaml"
    space.write_text(f"{key}: {{choice: [{leaf.default / 2}, {leaf.default}]}}\n")
    with pytest.raises(SettingsError, match=f"{key} cannot be searched: the preparation"):
        new_setup(SweepOptions(system="conditioner", space=str(space)))


def test_a_vae_of_ones_own_is_taken(conditioner, tmp_path):
    """A file, or the folder of a training; a training that went on is another VAE."""
    one = conditioner.prepared()
    (file,) = (conditioner.cache / one.latents.relative_to(conditioner.cache).parts[0]).rglob(
        "vae.safetensors"
    )
    own = shutil.copy(file, tmp_path / "own.safetensors")
    given = conditioner.prepared({"vae.checkpoint": str(own)})
    assert given.latents != one.latents
    for name in ("main.npy", "hier.npy"):
        assert np.array_equal(np.load(given.latents / name), np.load(one.latents / name))

    vae, folder, indices = FieldVae(), tmp_path / "training", tmp_path / "train.npy"
    np.save(indices, one.arrays.indices("train"))
    settings = resolve(
        vae.Settings,
        vae.name,
        overrides=[
            f"data.fields={one.arrays.fields}",
            f"data.train_indices={indices}",
            *("model.filters=8,6", "model.main_size=4", "model.hier_size=4"),
            *("train.steps=4", "train.batch_size=4", "train.tensorboard=false"),
        ],
    ).settings
    prepared = vae.prepare(settings, tmp_path)
    taken = []
    for stop in (2, 4):
        fit(vae, settings, LocalRun(folder, resume=stop > 2, stop_step=stop), prepared)
        taken.append(conditioner.prepared({"vae.checkpoint": str(folder)}))
    early, late = (load_file(p.decoded.decoder.file) for p in taken)
    assert early.keys() == late.keys()
    assert any(not torch.equal(early[key], late[key]) for key in early)
