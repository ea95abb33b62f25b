"""Diffusion of latents: where they come from, their moments, what a checkpoint holds, a resume."""

from __future__ import annotations

import json
import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open

from models.autoencoders.slicewise import Slicewise
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.error import ExternalError
from trainables.checkpoints.restore import open_checkpoint
from trainables.diffusion.samples import PAIRS
from trainables.diffusion.system import Diffusion
from trainables.stepping.inputs import batch_of

SYSTEM = Diffusion()

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def vae(autoencoders):
    return autoencoders("vae")


def model_of(folder):
    opened = open_checkpoint(checkpoint.find(folder, best=True))
    return opened.modules["autoencoder"]


# Where latents come from


def test_a_checkpoint_and_its_file_give_the_same_latents(vae, latent_file, latents, shared_cache):
    loaders = {}
    for source in (vae, latent_file):
        settings = latents.settings(source)
        loaders[source] = SYSTEM.loaders(settings, SYSTEM.prepare(settings, shared_cache))
    first, second = loaders.values()
    assert len(first.train) == len(second.train) > 10
    assert first.units == second.units and len(first.validation) == 4 * PAIRS
    keys = [(index, 5) for index in range(len(first.train))]
    a, b = (batch_of(each, "train", keys)["latent"] for each in (first, second))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0.0)
    for split in ("validation", "test"):
        a, b = (batch_of(each, split, [0, 7, 13]) for each in (first, second))
        torch.testing.assert_close(a["latent"], b["latent"], atol=1e-6, rtol=0.0)
        assert torch.equal(a["mask"], b["mask"])
        assert "image" in a and "image" not in b
    images = batch_of(first, "train", keys[:6])
    with torch.no_grad():
        expected = model_of(vae).encode(images["image"])
    torch.testing.assert_close(images["latent"], expected, atol=1e-6, rtol=1e-5)
    again = pickle.loads(pickle.dumps(first.train))  # noqa: S301 - made in this line
    assert again[keys[0]].keys() == images.keys()


def test_kind_and_factor_are_those_of_the_autoencoder(autoencoders, latents, shared_cache):
    """Nothing of them is configured: one training's network is another for another source."""
    channels = {}
    for name in ("vae", "structured"):
        more = {"augmented_diffusion__enabled": True} if name == "structured" else {}
        settings = latents.settings(autoencoders(name), **more)
        prepared = SYSTEM.prepare(settings, shared_cache)
        built = SYSTEM.build(settings, prepared)
        channels[name] = built.modules["network"].out_channels
        assert built.modules["space"].size_of((16, 16)) == (8, 8)
    assert channels == {"vae": 3, "structured": 64}


@pytest.mark.parametrize("statistics", ["voxels", "sample_means"])
def test_the_training_split_is_standardised(vae, latents, shared_cache, statistics):
    settings = latents.settings(vae, space__statistics=statistics)
    prepared = SYSTEM.prepare(settings, shared_cache)
    loaders, space = SYSTEM.loaders(settings, prepared), prepared.space(settings.space)
    raw = torch.stack([loaders.train[(i, 0)]["latent"] for i in range(len(loaders.train))])
    values = space.standardised(raw).double()
    by_channel = values.transpose(0, 1).flatten(1)
    torch.testing.assert_close(by_channel.mean(dim=1), torch.zeros(3).double(), atol=1e-5, rtol=0)
    if statistics == "sample_means":
        by_channel = values.mean(dim=(2, 3)).T
    deviation = by_channel.std(dim=1, correction=0)
    torch.testing.assert_close(deviation, torch.ones(3).double(), atol=1e-4, rtol=0.0)
    with torch.no_grad():
        expected = model_of(vae).decode(raw[:2])
    torch.testing.assert_close(space.decode(space.standardised(raw[:2])), expected)


def test_a_channel_that_is_one_number_is_shifted_alone():
    from trainables.diffusion.latent.latents import _moments

    values = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    values[:, 1] = 0.3
    shift, scale = _moments(iter([values]))["voxels"]
    assert shift[1] == pytest.approx(0.3) and scale[1] == 1.0
    assert scale[0] == pytest.approx(float(values[:, 0].std(correction=0)))


# Trainings


def finite(report, *columns):
    return all(math.isfinite(report[column]) for column in columns)


def test_ten_steps_on_a_checkpoint_are_judged_in_images(vae, latents, shared_cache, tmp_path):
    settings = latents.settings(vae, train__steps=10, train__report_every=10)
    trained = latents.train(settings, shared_cache, tmp_path)
    assert trained.report["step"] == 10
    assert finite(trained.report, "val.denoising_mse", "val.psnr_db", "val.ms_ssim")
    assert finite(trained.report, "val.generated_mean", "val.loss.perceptual")


@pytest.mark.slow
def test_ten_steps_on_a_file_are_judged_in_latents(vae, latent_file, latents, shared_cache,
                                                   tmp_path):  # fmt: skip
    changes = {"train__steps": 10, "train__report_every": 10}
    report = latents.train(
        latents.settings(latent_file, **changes), shared_cache, tmp_path / "file"
    ).report
    assert finite(report, "val.denoising_mse", "val.prediction_mse", "train.loss.mse")
    assert not [c for c in report if c.startswith(("val.psnr", "val.ms_ssim", "val.generated"))]
    other = latents.settings(vae, **changes)
    with_images = latents.train(other, shared_cache, tmp_path / "checkpoint").report
    assert report["val.denoising_mse"] == pytest.approx(with_images["val.denoising_mse"], rel=0.2)


def test_a_training_step_does_not_run_the_autoencoder(vae, latents, shared_cache):
    """With weights that are no numbers it predicts the same; validation decodes."""
    settings = latents.settings(vae)
    prepared = SYSTEM.prepare(settings, shared_cache)
    modules = SYSTEM.build(settings, prepared).modules
    for parameter in modules["network"].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    loaders, (phase,) = SYSTEM.loaders(settings, prepared), SYSTEM.phases(settings, prepared)
    batch = batch_of(loaders, "train", [(0, 1), (1, 2)])
    before = phase.forward(modules, batch, settings)
    for parameter in modules["autoencoder"].parameters():
        parameter.fill_(math.nan)
    after = phase.forward(modules, batch, settings)
    assert before.keys() == after.keys() and "reconstruction" not in after
    assert all(torch.equal(before[key], after[key]) for key in after)
    seen = phase.forward(modules, batch_of(loaders, "validation", [0]), settings)
    assert seen["reconstruction"].isnan().all() and seen["prediction"].isfinite().all()


@pytest.mark.slow
def test_ten_steps_slice_by_slice_in_3d(vae, latents, shared_cache, tmp_path):
    settings = latents.settings(
        vae, model__spatial_dims=3, train__steps=10, train__report_every=10,
        condition__mask__enabled=True, data__validation_samples=1,
    )  # fmt: skip
    trained = latents.train(settings, shared_cache, tmp_path)
    assert finite(trained.report, "val.denoising_mse", "val.psnr_db", "train.loss.mse")
    loaders = SYSTEM.loaders(settings, trained.prepared)
    sample = loaders.train[(0, 0)]
    assert sample["latent"].shape == (3, 8, 8, 8), "the depth stays"
    with torch.no_grad():
        expected = Slicewise(model_of(vae)).encode(sample["image"][None])[0]
    torch.testing.assert_close(sample["latent"], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_ten_steps_on_an_autoencoder_of_volumes(autoencoders, latents, shared_cache, tmp_path):
    """Its cells have a depth, and so have the bits of the mask in one."""
    source, changes = autoencoders("volumes"), {"data__validation_samples": 1}
    with pytest.raises(SettingsError, match="takes volumes, and"):
        SYSTEM.prepare(latents.settings(source, **changes), shared_cache)
    settings = latents.settings(
        source, model__spatial_dims=3, condition__mask__enabled=True, train__steps=10,
        train__report_every=10, **changes,
    )  # fmt: skip
    trained = latents.train(settings, shared_cache, tmp_path)
    assert finite(trained.report, "val.denoising_mse", "val.psnr_db", "train.loss.mse")
    assert trained.prepared.latents.latents.latent(0).shape == (3, 4, 8, 8)
    assert open_checkpoint(trained.path).modules["conditions"].masks.depth == 2


@pytest.mark.slow
def test_a_resumed_training_is_the_uninterrupted_one(vae, latents, shared_cache, tmp_path):
    settings = latents.settings(
        vae, train__steps=4, train__ema_decay=0.9, condition__mask__enabled=True,
        condition__mask__dropout=0.3,
    )  # fmt: skip
    whole = latents.train(settings, shared_cache, tmp_path / "whole")
    latents.train(settings, shared_cache, tmp_path / "cut", stop_step=2)
    again = latents.train(settings, shared_cache, tmp_path / "cut", resume=True)
    a, b = (checkpoint.load(each.path, "diffusion").tensors for each in (whole, again))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert any(key.startswith("module.conditions.masks.") for key in a)


# What a checkpoint holds


def test_a_checkpoint_holds_no_autoencoder(autoencoders, latents, shared_cache, tmp_path):
    """Bytes <= 1.05 x (network + average + moments of the optimizer), with a network so large that
    the names of tensors are no part of it, and an autoencoder that would go beyond.
    """
    settings = latents.settings(
        autoencoders("wide"), train__steps=1, train__report_every=1, train__ema_decay=0.9,
        model__unet__widths=(48, 48), model__unet__norm_groups=8, model__unet__head_width=16,
    )  # fmt: skip
    trained = latents.train(settings, shared_cache, tmp_path)
    with safe_open(trained.path / "modules.safetensors", "pt") as file:
        names = {name for name in file.keys() if ".network." not in name}  # noqa: SIM118
    assert names == {f"module.space.{name}" for name in ("shift", "scale", "deviation")}
    built = SYSTEM.build(settings, trained.prepared)
    size = {
        name: 4 * sum(parameter.numel() for parameter in built.modules[name].parameters())
        for name in ("network", "autoencoder")
    }
    held = sum(file.stat().st_size for file in trained.path.iterdir())
    most = 1.05 * size["network"] * (1 + 1 + 2)
    assert size["network"] * 4 < held <= most < held + size["autoencoder"]


@pytest.mark.slow
def test_path_and_hash_of_the_autoencoder_are_in_the_meta(vae, latents, shared_cache, tmp_path):
    trained = latents.train(latents.settings(vae), shared_cache, tmp_path)
    meta = json.loads((trained.path / "meta.json").read_text())
    source = meta["built"]["latents"]["autoencoder"]["source"]
    expected = checkpoint.source(checkpoint.find(vae, best=True))
    assert source == expected and expected["fingerprint"]
    assert meta["external"]["autoencoder"] == trained.prepared.latents.weights.fingerprint
    opened = open_checkpoint(trained.path)
    given = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = model_of(vae).decode(given)
    torch.testing.assert_close(opened.modules["autoencoder"].decode(given), expected)
    # gone, and another one
    (kept,) = (tmp_path / "external").glob("*.safetensors")
    shutil.move(kept, tmp_path / "away.safetensors")
    with pytest.raises(ExternalError, match=r"autoencoder.*is not there.*train\.external"):
        open_checkpoint(trained.path)
    shutil.copy(trained.path / "modules.safetensors", kept)
    with pytest.raises(ExternalError, match="holds others"):
        open_checkpoint(trained.path)
    assert open_checkpoint(trained.path, str(tmp_path / "away.safetensors")).step == 2


@pytest.mark.slow
def test_latents_are_made_once_for_the_same_weights_and_data(vae, latents, tmp_path):
    settings = latents.settings(vae)
    first = SYSTEM.prepare(settings, tmp_path).latents
    stamp = (first_file := tmp_path / first.file).stat().st_mtime_ns
    again = SYSTEM.prepare(latents.settings(vae, optimizer__lr=1e-3), tmp_path).latents
    assert again.file == first.file and first_file.stat().st_mtime_ns == stamp
    other = SYSTEM.prepare(latents.settings(vae, data__seed=1), tmp_path).latents
    assert other.file != first.file
    assert not np.allclose(other.latents.latent(0), first.latents.latent(0))


# Refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space__latents": ""}, "space.latents names none"),
        ({"space__kind": "pixel"}, "space.kind=latent alone"),
        ({"augment__kind": "diffusion"}, "Set augment.kind=none"),
        ({"space__latents": "a.arrow", "loss__perceptual__enabled": True}, "latents alone"),
        ({"space__latents": "a.arrow", "loss__regional__enabled": True}, "latents alone"),
        ({"condition__mask__enabled": True, "condition__mask__enters": "encoder"},
         "names none"),
        ({"condition__mask__encoder": "runs/masks"}, "is read with"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(latents, changes, words):
    with pytest.raises(SettingsError, match=words):
        latents.settings("runs/vae", **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__group": "dual"}, r"group \['?|latents of group"),
        ({"data__image_size": 32}, "data.image_size"),
        ({"model__spatial_dims": 3}, "spatial_dims 2, and model.spatial_dims says 3"),
    ],
)
def test_a_file_of_other_data_is_refused(latent_file, latents, shared_cache, changes, words):
    with pytest.raises(SettingsError, match=words):
        SYSTEM.prepare(latents.settings(latent_file, **changes), shared_cache)


def test_a_source_that_is_none_is_refused(vae, latents, shared_cache, tmp_path):
    with pytest.raises(SettingsError, match="there is none"):
        SYSTEM.prepare(latents.settings(tmp_path / "gone.arrow"), shared_cache)
    with pytest.raises(checkpoint.CheckpointError, match="neither a checkpoint"):
        SYSTEM.prepare(latents.settings(tmp_path / "gone"), shared_cache)
    with pytest.raises(SettingsError, match="channels"):
        SYSTEM.prepare(latents.settings(vae, data__group="dual"), shared_cache)
    own = latents.train(latents.settings(vae), shared_cache, tmp_path / "own")
    with pytest.raises(SettingsError, match="one of system diffusion"):
        SYSTEM.prepare(latents.settings(own.path), shared_cache)
