"""Reconstructions of an autoencoder, on scans of noise."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from data.files import DataError
from data.mri.inputs import find_inputs, read_scans
from data.mri.nifti_write import write_nifti
from data.mri.volumes import resize_image
from ray_jobs.generation import merged
from settings.flat import replace
from settings.mri import MODALITIES
from settings.systems import as_stored
from trainables.compression.system import Compression
from trainables.compression.use import FIGURE, LEFT_OUT
from trainables.request import Request

SHAPE = (16, 16, 6)
SYSTEM = Compression()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Patients of noise: train/1, train/2, val/3."""
    folder = tmp_path_factory.mktemp("patients")
    rng = np.random.default_rng(0)
    for place in ("train/1", "train/2", "val/3"):
        for name in MODALITIES:
            values = rng.integers(1, 500, SHAPE).astype(np.int16)
            write_nifti(folder / place / f"{name}.nii.gz", values, np.eye(4), "noise")
        mask = (rng.random(SHAPE) > 0.8).astype(np.uint8)
        write_nifti(folder / place / "seg.nii.gz", mask, np.eye(4), "noise")
    return folder


def generate(settings, built, source, target):
    target.mkdir()
    measures = SYSTEM.generate(settings, built.modules, Request(target=target, source=source))
    return merged([measures])


def read(path):
    """[D, H, W] in the order of the samples."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    # From right, anterior, superior to what data.mri.files has.
    return np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]


def test_files_hold_what_the_model_makes_of_the_samples(autoencoder, root, tmp_path):
    settings, built = autoencoder(root, data__slice_sum=0.0)
    found = generate(settings, built, root, tmp_path / "out")
    assert (found["patients"], found["scans"], found["slices"]) == (3, 3, 18)
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    samples = SYSTEM.loaders(settings, prepared).validation
    images = torch.stack([samples[i]["image"] for i in range(len(samples))])
    with torch.no_grad():
        wanted = built.modules["autoencoder"](images)["reconstruction"].clamp(0, 1)[:, 0]
    own = read(tmp_path / "out" / "val" / "3" / "bravo.nii.gz")
    assert np.allclose(own, wanted.numpy(), atol=0.02), "samples are rounded to 1/255"
    psnr = peak_signal_noise_ratio(images[:, 0].numpy(), own, data_range=1.0)
    alone = generate(settings, built, root / "val", tmp_path / "alone")
    assert alone["psnr_db"] == pytest.approx(psnr, abs=0.02)
    assert Image.open(tmp_path / "alone" / FIGURE).size == (16, 48)


def test_volumes_go_through_whole_and_come_back_without_padding(autoencoder, root, tmp_path):
    settings, built = autoencoder(root, model__spatial_dims=3, model__kind="vqvae")
    found = generate(settings, built, root / "val" / "3", tmp_path / "out")
    assert (found["scans"], found["slices"], found["cropped_slices"]) == (1, 6, 0)
    image = nibabel.load(tmp_path / "out" / "3" / "bravo.nii.gz")
    assert image.shape == SHAPE
    assert np.allclose(nibabel.as_closest_canonical(image).affine, np.eye(4))


def scan(path: Path, low: int, depth: int = 6) -> Path:
    """Noise of which a fifth lies `low` or a little above, the rest at 300 .. 500."""
    rng = np.random.default_rng(3)
    values = rng.integers(300, 500, (16, 16, depth))
    values[:3] = low + rng.integers(0, 20, (3, 16, depth))
    write_nifti(path, values.astype(np.int16), np.eye(4), "noise")
    return path


@pytest.mark.parametrize(("trained_on", "kept"), [(-1000, True), (0, False)])
def test_values_below_0_are_treated_as_in_the_training_and_it_is_said(
    autoencoder, tmp_path, capsys, trained_on, kept
):
    """What the model sees of a CT, after a training on CT and after one on MRI."""
    for place in ("train/1", "train/2", "val/3"):
        scan(tmp_path / "data" / place / "bravo.nii.gz", trained_on)
    settings, _ = autoencoder(tmp_path / "data")
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    assert prepared.notes["signed.bravo"] == float(kept)
    stored = json.loads(json.dumps(dict(SYSTEM.build(settings, prepared).meta)))
    rebuilt = SYSTEM.rebuild(settings, stored)
    for module in rebuilt.modules.values():
        module.eval()
    capsys.readouterr()
    ct = scan(tmp_path / "ct" / "bravo.nii.gz", -1000)
    found = generate(settings, rebuilt, ct, tmp_path / "out")
    assert (found["signed.bravo"], found["negative_images"]) == (float(kept), 1.0)
    assert found["clipped_images"] == float(not kept)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (1 if kept else 2)
    if kept:
        assert told[0].startswith("warning: 1 image has values below 0 that were kept")
    else:
        assert told[0].startswith("warning: 1 image has values below 0 that became 0")
        assert told[1].startswith("warning: 1 of them is signed by the rule for one image")
        assert str(ct) in told[1]
    values = np.asarray(nibabel.load(ct).dataobj, np.float64)
    limits = (values[values > values.min()], values[values > 0])[not kept]
    low, high = np.percentile(limits, (0.1, 99.9))
    seen = torch.from_numpy(np.clip((values - low) / (high - low), 0, 1)).float()
    seen = seen.permute(2, 1, 0).flip(1, 2)[:, None]
    with torch.no_grad():
        wanted = rebuilt.modules["autoencoder"](seen)["reconstruction"].clamp(0, 1)[:, 0]
    own = read(tmp_path / "out" / "ct" / "bravo.nii.gz")
    np.testing.assert_allclose(own, wanted.numpy(), atol=1e-4)


def test_a_checkpoint_of_before_goes_by_each_image_and_stretches(autoencoder, tmp_path, root):
    """As it was trained; its meta says nothing of a decision."""
    before = as_stored("compression", {"data.image_size": 16})
    settings = autoencoder(root, **before)[0]
    assert (settings.data.below_zero, settings.data.fit) == ("each", "stretch")
    model = SYSTEM.rebuild(settings, {"channels": 1}).modules["autoencoder"]
    assert model.signed is None
    path = tmp_path / "one" / "bravo.nii.gz"
    values = np.random.default_rng(0).integers(1, 500, (16, 24, 6)).astype(np.int16)
    values[0, 0, 0] = -1
    write_nifti(path, values, np.eye(4), "noise")
    (found,) = read_scans(find_inputs(path, "bravo")[0][1], settings.data, 2, model.signed)
    brain = values[values > -1]
    low, high = np.percentile(brain, (0.1, 99.9))
    unit = np.clip((values - low) / (high - low), 0, 1).astype(np.float32).transpose(2, 1, 0)
    turned = np.ascontiguousarray(unit[:, ::-1, ::-1])
    np.testing.assert_allclose(found.image[0], resize_image(turned, 16, 16), atol=1e-6)
    assert (found.negative, found.clipped, found.unlike) == (1, 0, ())


def test_a_deep_volume_is_cropped_and_it_is_said(autoencoder, root, tmp_path, capsys):
    settings, built = autoencoder(root, model__spatial_dims=3, model__kind="vqvae")
    capsys.readouterr()
    path = scan(tmp_path / "deep" / "bravo.nii.gz", 0, depth=11)
    found = generate(settings, built, path, tmp_path / "out")
    assert (found["slices"], found["cropped_slices"]) == (8, 3)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("warning: 1 of 1 volume has more slices than data.volume_size")
    assert "3 of 11 (27.3%); deep/bravo loses 3 of 11. Cut the files" in told


def test_channels_and_masks_each_have_a_file(autoencoder, root, tmp_path):
    settings, built = autoencoder(root, data__group="dual")
    generate(settings, built, root / "val", tmp_path / "dual")
    names = sorted(path.name for path in (tmp_path / "dual" / "3").iterdir())
    assert names == ["t1_gd.nii.gz", "t1_pre.nii.gz"]
    seg = {"data__group": "seg", "model__seg_mode": True, "model__kind": "vqvae"}
    settings, built = autoencoder(root, **seg)
    found = generate(settings, built, root / "val", tmp_path / "seg")
    assert 0.0 <= found["dice"] <= 1.0
    made_mask = nibabel.load(tmp_path / "seg" / "3" / "seg.nii.gz")
    assert made_mask.get_data_dtype() == np.uint8
    assert set(np.unique(np.asarray(made_mask.dataobj))) <= {0, 1}


def test_unusable_patients_are_counted_and_named(autoencoder, root, tmp_path):
    source = tmp_path / "in"
    (source / "good").mkdir(parents=True)
    (source / "good" / "bravo.nii.gz").write_bytes(
        (root / "val" / "3" / "bravo.nii.gz").read_bytes()
    )
    settings, built = autoencoder(root)
    (source / "bad").mkdir()
    (source / "bad" / "bravo.nii.gz").write_bytes(b"no gzip")
    found = generate(settings, built, source, tmp_path / "out")
    assert (found["patients"], found["left_out"]) == (1, 1)
    assert "bad/bravo.nii.gz: expected" in (tmp_path / "out" / LEFT_OUT).read_text()
    with pytest.raises(DataError, match=r"bad/bravo\.nii\.gz: expected a complete NIfTI"):
        generate(settings, built, source / "bad", tmp_path / "none")


@pytest.mark.slow
def test_a_rebuilt_network_is_the_same_and_looks_nothing_up(autoencoder, root):
    settings, built = autoencoder(root, model__kind="dcae")
    named = replace(settings, {"model.pretrained": "/no/such/folder"})
    again = SYSTEM.rebuild(named, built.meta)
    again.modules["autoencoder"].load_state_dict(built.modules["autoencoder"].state_dict())
    assert dict(again.meta) == {"channels": 1}
