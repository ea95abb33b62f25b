"""Images of a diffusion of latents, from its checkpoint: decoded by the autoencoder beside it, or
by the one that a file of latents names.
"""

from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest
import torch

from data.mri.nifti_write import write_nifti
from ray_jobs import generate as verb
from ray_jobs.generation import merged
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints.restore import open_checkpoint
from trainables.diffusion.system import Diffusion
from trainables.diffusion.use import GenerateSettings
from trainables.request import Request

SYSTEM = Diffusion()

pytestmark = pytest.mark.usefixtures("one_thread")


def generate(path, target, options=None, **request):
    """What a checkpoint makes, opened as the verb does: neither data nor autoencoder are named."""
    opened = open_checkpoint(path)
    target.mkdir()
    chosen = replace(GenerateSettings(), {"sampling.steps": 3, **(options or {})})
    with torch.no_grad():
        asked = Request(target=target, options=chosen, **request)
        return merged([SYSTEM.generate(opened.settings, opened.modules, asked)])


def volumes(folder):
    files = sorted(folder.glob("*.nii.gz"))
    return {file.name: np.asarray(nibabel.load(file).dataobj) for file in files}


@pytest.fixture(scope="module")
def trained(autoencoders, shared_cache, tmp_path_factory, module_on_one_thread, latent_helpers):
    settings = latent_helpers.settings(autoencoders("vae"), optimizer__lr=1e-2)
    folder = tmp_path_factory.mktemp("trained")
    return latent_helpers.train(settings, shared_cache, folder / "run")


def test_a_sample_does_not_depend_on_its_batch_and_is_made_again(trained, tmp_path):
    for name, size in (("1", 1), ("8", 8), ("again", 8)):
        measures = generate(trained.path, tmp_path / name, count=9, batch_size=size)
    assert measures["samples"] == 9
    alone, together = (volumes(tmp_path / name) for name in ("1", "8"))
    assert len(alone) == 9 and alone.keys() == together.keys()
    for name in alone:
        assert alone[name].shape == (16, 16, 1)
        np.testing.assert_allclose(alone[name], together[name], atol=1e-5)
    assert np.abs(alone["000000.nii.gz"] - alone["000001.nii.gz"]).max() > 0.0
    first, second = (
        {file.name: file.read_bytes() for file in sorted((tmp_path / name).iterdir())}
        for name in ("8", "again")
    )
    assert first == second and len(first) == 11


def test_what_is_written_is_the_decoded_latent(trained, tmp_path):
    """The same from the sampler's states and the VAE's decoder, without the verb."""
    from models.diffusion.strategies.sampling import last
    from trainables.diffusion.use import sampled

    generate(trained.path, tmp_path / "out", batch_size=1)
    opened = open_checkpoint(trained.path)
    options = replace(GenerateSettings(), {"sampling.steps": 3})
    request = Request(target=tmp_path / "none", options=options, batch_size=1)
    ((_, seeds),) = list(request.batches(1))
    space, autoencoder = opened.modules["space"], opened.modules["autoencoder"]
    with torch.no_grad():
        path = sampled(opened.settings, opened.modules, {"seed": seeds}, seeds, options.sampling)
        latent = last(path).x.float() * space.scale.view(-1, 1, 1) + space.shift.view(-1, 1, 1)
        expected = autoencoder.codec.decode(latent).clamp(0.0, 1.0)[0, 0].T.numpy()
    (found,) = volumes(tmp_path / "out").values()
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_the_verb_generates_from_the_folder_of_the_training(trained, tmp_path, capsys):
    folder = trained.path.parents[1]
    given = ["--checkpoint", str(folder), "--count", "2", "--output", str(tmp_path / "out")]
    assert verb.main([*given, "sampling.steps=2"]) == 0
    assert len(volumes(tmp_path / "out")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("enters", ["bit_planes", "encoder"])
def test_volumes_are_made_slice_by_slice_under_their_masks(
    autoencoders, latents, shared_cache, tmp_path, enters
):
    encoder = str(autoencoders("masks")) if enters == "encoder" else ""
    settings = latents.settings(
        autoencoders("vae"), model__spatial_dims=3, condition__mask__enabled=True,
        condition__mask__enters=enters, condition__mask__encoder=encoder,
        data__validation_samples=1,
    )  # fmt: skip
    trained = latents.train(settings, shared_cache, tmp_path / "run")
    mask = np.zeros((16, 16, 8), np.uint8)
    mask[4:8, 5:9, 1:3] = 1
    spacing = (2.0, 2.0, 5.0)
    affine = np.diag([*spacing, 1.0])
    write_nifti(tmp_path / "patients" / "one" / "seg.nii.gz", mask, affine, "a mask")
    measures = generate(trained.path, tmp_path / "out", source=tmp_path / "patients", count=2)
    assert measures["samples"] == 2
    images = [nibabel.load(file) for file in (tmp_path / "out").rglob("*.nii.gz")]
    assert [image.shape for image in images] == [(16, 16, 8)] * 2
    assert images[0].header.get_zooms() == pytest.approx(spacing)
    held = {file.stem for file in (tmp_path / "run" / "external").iterdir()}
    assert len(held) == (2 if enters == "encoder" else 1)


# Of a file


@pytest.fixture
def own_file(autoencoders, tmp_path):
    """A file of latents whose autoencoder may be moved: (the file, the autoencoder's training)."""
    from ray_jobs import encode_latents

    folder = tmp_path / "vae"
    shutil.copytree(autoencoders("vae"), folder)
    path = tmp_path / "own.arrow"
    assert encode_latents.main(["--checkpoint", str(folder), "--output", str(path)]) == 0
    return path, folder


def test_a_file_names_its_autoencoder(own_file, autoencoders, latents, shared_cache, tmp_path,
                                      monkeypatch):  # fmt: skip
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    file, folder = own_file
    trained = latents.train(latents.settings(file), shared_cache, tmp_path / "run")
    assert not (tmp_path / "run" / "external").exists(), "a file has no weights to keep"
    generate(trained.path, tmp_path / "a")
    moved = tmp_path / "moved"
    folder.rename(moved)
    with pytest.raises(SettingsError, match=r"there is none at .*autoencoder=PATH"):
        generate(trained.path, tmp_path / "b")
    generate(trained.path, tmp_path / "c", {"autoencoder": str(moved)})
    (first,), (second,) = (volumes(tmp_path / name).values() for name in "ac")
    np.testing.assert_array_equal(first, second)
    with pytest.raises(SettingsError, match=r"is another one \("):
        generate(trained.path, tmp_path / "d", {"autoencoder": str(autoencoders("masks"))})
