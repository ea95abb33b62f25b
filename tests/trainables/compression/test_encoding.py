"""Latents of an autoencoder's data, on scans of noise."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from data.latents import read_latents
from data.mri.lesions import lesions_of
from data.mri.nifti_write import write_nifti
from settings.flat import replace
from settings.mri import MODALITIES
from settings.schema import SettingsError
from trainables.compression.encoding import Moments, encode_data, prepare_volumes
from trainables.compression.system import Compression

SHAPE = (16, 16, 6)
AFFINE = np.array([[-1.5, 0, 0, 40], [0, 1.25, 0, -30], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])
SYSTEM = Compression()


def write_patient(folder: Path, depth: int = SHAPE[2], seed: int = 0, modalities=MODALITIES):
    rng = np.random.default_rng((seed, depth))
    shape = (*SHAPE[:2], depth)
    for name in modalities:
        values = rng.integers(1, 500, shape).astype(np.int16)
        write_nifti(folder / f"{name}.nii.gz", values, AFFINE, "noise")
    mask = (rng.random(shape) > 0.8).astype(np.uint8)
    write_nifti(folder / "seg.nii.gz", mask, AFFINE, "noise")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Patients of noise: train/1, train/2, val/3."""
    folder = tmp_path_factory.mktemp("patients")
    for seed, place in enumerate(("train/1", "train/2", "val/3")):
        write_patient(folder / place, seed=seed)
    return folder


@pytest.fixture(scope="module")
def unequal(tmp_path_factory) -> Path:
    """Patients with 12, 30 and 9 slices, of one modality."""
    folder = tmp_path_factory.mktemp("unequal")
    for depth, place in ((12, "train/1"), (30, "train/2"), (9, "val/3")):
        write_patient(folder / place, depth, modalities=("bravo",))
    return folder


@pytest.mark.parametrize("kind", ["vae", "vqvae"])
def test_latents_of_whole_splits_with_their_own_scale(autoencoder, root, tmp_path, kind):
    settings, built = autoencoder(root, model__kind=kind, data__group="multi_modality")
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    model = built.modules["autoencoder"]
    path = tmp_path / "a.arrow"
    facts = encode_data(settings, model, prepared, ["validation"], {"step": 1}, path)
    found = read_latents(path)
    assert len(found) == facts["samples"]["validation"] == 24
    assert set(found.column("split")) == {"validation"}
    assert [found.column("modality").tolist().count(i) for i in range(4)] == [6] * 4
    samples = SYSTEM.loaders(settings, prepared).validation
    with torch.no_grad():
        for row in (0, 7, 23):
            wanted = model(samples[row]["image"][None])["latent"][0]
            assert np.allclose(found.latent(row), wanted, atol=1e-5)
    train = SYSTEM.loaders(replace(settings, {"augment.kind": "none"}), prepared).train
    images = torch.stack([train.read(i)["image"] for i in range(len(train))])
    with torch.no_grad():
        all_train = model.encode(images).double().numpy()
    assert facts["measured_samples"] == len(images) == 48
    assert facts["shift"] == pytest.approx(all_train.mean())
    assert facts["scale_factor"] == pytest.approx(1.0 / all_train.std())
    assert np.allclose(facts["channel_mean"], all_train.mean(axis=(0, 2, 3)))
    assert np.allclose(facts["channel_std"], all_train.std(axis=(0, 2, 3)))
    measured = encode_data(settings, model, prepared, ["validation"], {"step": 1}, None)
    assert measured["scale_factor"] == facts["scale_factor"]


def test_volumes_of_a_2d_model_are_its_slices_in_order(autoencoder, root, tmp_path):
    """Also the slices that a training leaves out. Six of a patient's six, with a copy of the
    outermost at each end.
    """
    settings, built = autoencoder(root, data__slice_sum=1e9)
    model, path = built.modules["autoencoder"], tmp_path / "a.arrow"
    settings, prepared = prepare_volumes(settings, tmp_path / "cache")
    facts = encode_data(settings, model, prepared, ["train", "validation"], {"step": 1}, path)
    assert facts["image_shape"] == [1, 8, 16, 16]
    assert facts["latent_shape"] == [3, 8, 8, 8]
    assert facts["factors"] == [1, 2, 2]
    assert facts["data"]["volume_size"] == (8, 16, 16)
    assert facts["samples"] == {"train": 2, "validation": 1}
    found = read_latents(path)
    assert found.column("slice").tolist() == [-1] * 3

    slices = SYSTEM.prepare(replace(settings, {"data.slice_sum": 0.0}), tmp_path / "cache")
    assert encode_data(settings, model, slices, ["validation"], {}, tmp_path / "b.arrow")
    each = read_latents(tmp_path / "b.arrow")
    assert each.column("slice").tolist() == list(range(6))
    wanted = np.stack([each.latent(row) for row in (0, *range(6), 5)], axis=1)
    assert np.allclose(found.latent(2), wanted, atol=1e-5)
    assert facts["channel_mean"] == pytest.approx(
        np.stack([found.latent(row) for row in (0, 1)]).mean(axis=(0, 2, 3, 4)), rel=1e-4
    )


def test_data_of_other_channels_is_refused(autoencoder, root, tmp_path):
    settings, built = autoencoder(root)
    dual = replace(settings, {"data.group": "dual"})
    prepared = SYSTEM.prepare(dual, tmp_path / "cache")
    with pytest.raises(SettingsError, match=r"takes images of 1 channels, and data\.group=dual"):
        encode_data(dual, built.modules["autoencoder"], prepared, ["train"], {}, None)


@pytest.mark.parametrize(("learnt", "said"), [
    (["flair"], "values below 0 of flair are kept by the rule of this checkpoint's training"),
    ([], ""),
    (None, ""),
])
def test_another_decision_about_values_below_0_is_said(
    autoencoder, root, capsys, tmp_path, learnt, said
):
    """The scans of noise have none, so their own decision is that nothing is signed."""
    settings, built = autoencoder(root, data__group="flair")
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    assert list(prepared.signed) == []
    model = built.modules["autoencoder"]
    model.signed = learnt
    encode_data(settings, model, prepared, ["validation"], {}, None)
    told = capsys.readouterr().err
    assert (said in told) if said else not told
    if said:
        assert "data.below_zero=keep" in told


def test_volumes_are_as_deep_as_the_deepest_patient(autoencoder, unequal, tmp_path):
    settings, built = autoencoder(unequal)
    settings, prepared = prepare_volumes(settings, tmp_path / "cache")
    assert settings.data.volume_size == prepared.space == (30, 16, 16)
    assert prepared.counts["cropped_slices"] == 0
    assert not [text for text in prepared.warnings if "slices" in text]
    path, splits = tmp_path / "a.arrow", ["train", "validation"]
    facts = encode_data(settings, built.modules["autoencoder"], prepared, splits, {}, path)
    assert (facts["cropped_slices"], facts["padded_slices"]) == (0, 18 + 21)
    found = read_latents(path)
    assert found.latent(0).shape == (3, 30, 8, 8)
    assert found.inside.tolist() == [[9, 21], [0, 30], [10, 19]]


def test_a_depth_that_is_given_decides_and_what_it_crops_is_said(autoencoder, unequal, tmp_path):
    settings, _ = autoencoder(unequal, data__volume_size=(16, 64, 64))
    settings, prepared = prepare_volumes(settings, tmp_path / "cache", ["data.volume_size"])
    assert settings.data.volume_size == (16, 16, 16)
    assert prepared.counts["cropped_slices"] == 14
    (said,) = [text for text in prepared.warnings if text.startswith("--volumes")]
    assert "D = 16 leaves 14 of 51 slices (27.5%) without a latent" in said
    assert "Leave out data.volume_size" in said


@pytest.mark.parametrize(("depth", "is_said"), [(30, False), (29, False), (28, True)])
def test_a_few_cropped_slices_are_counted_without_a_warning(
    autoencoder, unequal, tmp_path, depth, is_said
):
    """One of 51 is below 2 %, two are above."""
    settings, _ = autoencoder(unequal, data__volume_size=(depth, 16, 16))
    _, prepared = prepare_volumes(settings, tmp_path / "cache", ["data.volume_size"])
    assert prepared.counts["cropped_slices"] == 30 - depth
    assert any("without a latent" in text for text in prepared.warnings) == is_said


@pytest.mark.slow
def test_embedded_patients_are_those_of_the_training(autoencoder, tmp_path):
    changes = {"data.source": "embedded", "data.root": "", "data.slices": 11,
               "data.patients": (1, 1, 1), "data.volume_size": (8, 16, 16)}
    settings = replace(autoencoder(tmp_path)[0], changes)
    volumes, prepared = prepare_volumes(settings, tmp_path / "cache")
    assert volumes.data.volume_size == (11, 16, 16)
    SYSTEM.prepare(settings, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("mri-phantom-*"))) == 1
    assert prepared.counts["cropped_slices"] == prepared.counts["padded_slices"] == 0


def places(affine, shape):
    """mm [3, *shape] of the pixels."""
    index = np.stack([*np.indices(shape), np.ones(shape)])
    return np.tensordot(affine, index, 1)[:3]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_file_has_what_is_known_of_the_images(autoencoder, root, tmp_path, dims):
    """Against the seg file by nibabel: the masks and where they lie; lesions of those masks."""
    settings, built = autoencoder(root, data__slice_sum=0.0, data__lesion_pixels=2)
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    if dims == 3:
        settings, prepared = prepare_volumes(settings, tmp_path / "cache")
    path = tmp_path / "a.arrow"
    encode_data(settings, built.modules["autoencoder"], prepared, ["validation"], {}, path)
    found = read_latents(path)
    assert found.absent == ()
    assert len(found) == (6 if dims == 2 else 1)
    seg = nibabel.load(root / "val" / "3" / "seg.nii.gz")
    inside = np.asarray(seg.dataobj) > 0
    wanted = places(seg.affine, inside.shape)[:, inside].round(3)
    own = []
    for row in range(len(found)):
        mask = found.mask(row)
        volume = mask if dims == 3 else mask[None]
        own.append(places(found.affine[row], volume.shape)[:, volume].round(3))
        lengths = np.linalg.norm(found.affine[row][:3, :3], axis=0)
        assert np.allclose(found.spacing[row], lengths[-dims:])
        sizes = lesions_of(mask, found.spacing[row].tolist(), 2 if dims == 2 else 1)
        assert np.allclose(found.lesions_mm(row), sizes.diameters_mm)
        assert len(sizes.diameters_mm) > 0
        assert found.inside[row].tolist() == ([0, 1] if dims == 2 else [1, 7])
    assert set(map(tuple, np.concatenate(own, axis=1).T)) == set(map(tuple, wanted.T))
    assert found.patient_names() == ["3"] * len(found)


def test_a_constant_channel_has_a_deviation_of_0_and_others_that_of_numpy():
    """Also far from 0, where the mean square less the squared mean has no digit left."""
    rng = np.random.default_rng(0)
    latent = rng.normal(1e4, 1e-2, (60, 3, 7)).astype(np.float32)
    latent[:, 1] = 0.1
    moments = Moments()
    for part in np.split(latent, 6):
        moments.add(part)
    facts = moments.facts()
    wide = latent.astype(np.float64)
    assert facts["channel_std"][1] == 0.0
    assert facts["constant_channels"] == 1
    assert facts["channel_mean"] == pytest.approx(wide.mean(axis=(0, 2)), rel=1e-14)
    assert facts["channel_std"] == pytest.approx(wide.std(axis=(0, 2)), rel=1e-9)
    assert facts["shift"] == pytest.approx(wide.mean())
    assert facts["std"] == pytest.approx(wide.std())
