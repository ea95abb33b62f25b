"""Autoencoders of a few steps, whose latents are diffused; trained once for all tests here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from settings.flat import replace
from trainables.checkpoints import checkpoint
from trainables.compression.system import Compression
from trainables.contract import samples, training
from trainables.diffusion.system import Diffusion
from trainables.loop import fit
from trainables.run import LocalRun

SIZES = {
    "data.image_size": 16,
    "data.volume_size": (8, 16, 16),
    "data.slices": 12,
    "data.patients": (2, 1, 1),
    "data.validation_samples": 4,
}
QUIET = {"train.tensorboard": False, "train.figures": False, "train.test": False}
PLAIN = {"discriminator.enabled": False, "loss.adversarial.enabled": False}
KINDS = {
    "vae": {},
    "masks": {"model.kind": "vqvae", "model.vqvae.widths": (8,), "model.vqvae.codes": 16,
              "model.vqvae.start": "kmeans",
              "model.seg_mode": True, "data.group": "seg"},
    "wide": {"model.vae.widths": (32, 64), "train.steps": 1},
    "volumes": {"model.spatial_dims": 3, "train.steps": 1, "data.validation_samples": 1},
    "structured": {"model.kind": "dcae", "model.dcae.latent_channels": 64, "train.steps": 1,
                   "model.dcae.widths": (16, 64), "model.dcae.layers": (0, 1),
                   "model.dcae.decoder_layers": (0, 1), "model.dcae.attention": 0,
                   "model.dcae.structured.enabled": True},
}  # fmt: skip
"""Each halves the sides of 16 x 16 pixels."""


def train_autoencoder(cache: Path, folder: Path, changes) -> Path:
    system = Compression()
    base = {**system.small, **SIZES, **PLAIN, **QUIET, "train.steps": 4, "train.report_every": 4}
    settings = replace(system.Settings(), {**base, **changes})
    fit(system, settings, LocalRun(folder), system.prepare(settings, cache))
    return folder


@pytest.fixture(scope="session")
def autoencoders(shared_cache, tmp_path_factory):
    """`autoencoders(name)`: the folder of a training, `KINDS` by name."""
    folder, made = tmp_path_factory.mktemp("autoencoders"), {}
    before = torch.get_num_threads()

    def of(name: str) -> Path:
        if name not in made:
            torch.set_num_threads(1)
            made[name] = train_autoencoder(shared_cache, folder / name, KINDS[name])
            torch.set_num_threads(before)
        return made[name]

    return of


def latent_settings(source, **changes):
    """A training of latents of two steps; "__" stands for a dot."""
    system = Diffusion()
    named = {key.replace("__", "."): value for key, value in changes.items()}
    base = {
        **system.small,
        **SIZES,
        **QUIET,
        "space.kind": "latent",
        "space.latents": str(source),
        "augment.kind": "none",
        "train.steps": 2,
        "train.report_every": 2,
    }
    return replace(system.Settings(), {**base, **named})


def train_latents(settings, cache, folder, **run):
    """(prepared, the run, its newest checkpoint)"""
    system, local = Diffusion(), LocalRun(folder, **run)
    prepared = system.prepare(settings, cache)
    fit(system, settings, local, prepared)
    newest = checkpoint.available(folder / "checkpoints")[-1]
    return SimpleNamespace(prepared=prepared, run=local, path=newest, report=local.history[-1])


@pytest.fixture(scope="session")
def latent_helpers():
    """The helpers above."""
    return SimpleNamespace(settings=latent_settings, train=train_latents)


@pytest.fixture
def latents(latent_helpers):
    return latent_helpers


@pytest.fixture(scope="session")
def latent_file(autoencoders, tmp_path_factory, shared_cache):
    """The file of latents of the VAE's own slices, as `encode_latents` writes it."""
    from ray_jobs import encode_latents

    path = tmp_path_factory.mktemp("latents") / "slices.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
        given = ["--checkpoint", str(autoencoders("vae")), "--output", str(path)]
        assert encode_latents.main(given) == 0
    return path


@pytest.fixture(scope="session")
def rules_of_trainings():
    """Rules of the contract without those that turn on all terms at once, for `sda` and ScoreAug
    exclude each other, and those of a single batch, of which one draw for all may leave nothing.
    """
    return (
        samples.draws_by_sample,
        training.learns_one_batch,
        training.resumes_exactly,
        training.validates_alike_in_any_batches,
    )
