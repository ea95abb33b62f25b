"""Images of a diffusion network: files, seeds, conditions. The network is one of noise: what is
asked is that the same is made again; what is made of a trained one is asked elsewhere.
"""

from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from data.files import DataError
from data.mri.nifti_write import write_nifti
from ray_jobs.generation import merged
from settings.flat import replace
from settings.schema import SettingsError
from trainables.diffusion.system import Diffusion
from trainables.diffusion.use import GenerateSettings
from trainables.request import Request

SYSTEM = Diffusion()


def made(cache, **changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **named})
    torch.manual_seed(0)
    modules = SYSTEM.build(settings, SYSTEM.prepare(settings, cache)).modules
    for module in modules.values():
        module.eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return settings, modules


def generate(settings, modules, target, options=None, **request):
    target.mkdir()
    chosen = replace(GenerateSettings(), {"sampling.steps": 3, **(options or {})})
    with torch.no_grad():
        asked = Request(target=target, options=chosen, **request)
        return merged([SYSTEM.generate(settings, modules, asked)])


def volumes(folder):
    files = sorted(folder.rglob("*.nii.gz"))
    return {
        str(file.relative_to(folder)): np.asarray(nibabel.load(file).dataobj) for file in files
    }


def test_one_seed_gives_the_same_files_again_and_another_gives_others(shared_cache, tmp_path):
    settings, modules = made(shared_cache)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        measures = generate(settings, modules, tmp_path / name, count=3, seed=seed)
    assert measures["samples"] == 3
    contents = [
        {file.name: file.read_bytes() for file in sorted((tmp_path / name).iterdir())}
        for name in "abc"
    ]
    assert contents[0] == contents[1]
    expected = ["000000.nii.gz", "000001.nii.gz", "000002.nii.gz", "grid_000000.png"]
    assert list(contents[0]) == expected == list(contents[2])
    assert not any(contents[0][name] == contents[2][name] for name in expected)
    with Image.open(tmp_path / "a" / "grid_000000.png") as grid:
        assert grid.size == (3 * 16, 16)


@pytest.mark.parametrize("kind", ["rflow", "ddpm"])
def test_a_sample_does_not_depend_on_its_batch(shared_cache, tmp_path, kind):
    settings, modules = made(shared_cache, strategy__kind=kind)
    for size in (1, 8):
        generate(settings, modules, tmp_path / str(size), count=9, batch_size=size)
    alone, together = (volumes(tmp_path / size) for size in ("1", "8"))
    assert len(alone) == 9 and alone.keys() == together.keys()
    for name in alone:
        np.testing.assert_allclose(alone[name], together[name], atol=1e-5)
    assert np.abs(alone["000000.nii.gz"] - alone["000001.nii.gz"]).max() > 0.01


def test_files_lie_on_the_grid_of_the_training_and_within_0_and_1(shared_cache, tmp_path):
    settings, modules = made(shared_cache, data__group="dual")
    prepared = SYSTEM.prepare(settings, shared_cache)
    measures = generate(settings, modules, tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert [file.name for file in files] == ["000000_t1_gd.nii.gz", "000000_t1_pre.nii.gz"]
    image = nibabel.load(files[0])
    expected = np.array(prepared.affine)[:, [2, 1, 0, 3]]  # X, Y, Z are W, H, D
    np.testing.assert_allclose(image.affine, expected, rtol=1e-6)
    values = np.asarray(image.dataobj)
    assert values.shape == (16, 16, 1)
    assert values.min() >= 0.0 and values.max() <= 1.0
    assert 0 < measures["clipped_values"] < measures["values"] == 2 * 16 * 16


def test_masks_are_masks_and_bf16_is_near(shared_cache, tmp_path):
    settings, modules = made(shared_cache, data__group="seg")
    measures = generate(settings, modules, tmp_path / "mask")
    assert "clipped_values" not in measures and "values" not in measures
    (mask,) = volumes(tmp_path / "mask").values()
    assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1}
    settings, modules = made(shared_cache)
    generate(settings, modules, tmp_path / "full")
    generate(settings, modules, tmp_path / "half", {"precision": "bf16"})
    (full,), (half,) = (volumes(tmp_path / name).values() for name in ("full", "half"))
    assert 0.0 < np.abs(full - half).mean() < 0.02


@pytest.fixture
def patient(tmp_path):
    """A mask of 16 x 16 x 4 with lesions in its slices 1 and 3."""
    mask = np.zeros((16, 16, 4), np.uint8)
    mask[4:8, 5:9, 1] = 1
    mask[9:12, 2:6, 3] = 1
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    write_nifti(tmp_path / "patients" / "one" / "seg.nii.gz", mask, affine, "a mask")
    return tmp_path / "patients"


def test_every_slice_with_a_lesion_is_made_under_its_mask(shared_cache, tmp_path, patient):
    changes = {"condition__mask__enabled": True, "condition__mask__dropout": 0.2}
    settings, modules = made(shared_cache, **changes)
    measures = generate(settings, modules, tmp_path / "out", source=patient, count=2)
    assert measures["samples"] == 4
    files = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert [str(file.relative_to(tmp_path / "out")) for file in files] == [
        f"one/bravo_slice_00{number}_sample_00{sample}.nii.gz"
        for number in (1, 3)
        for sample in (0, 1)
    ]
    heights = [float(nibabel.load(file).affine[2, 3]) for file in files]
    assert heights == pytest.approx([5.0, 5.0, 15.0, 15.0])  # slices 1 and 3, 5 mm apart
    plain = generate(settings, modules, tmp_path / "plain", source=patient)
    strong = {"sampling.guidance.start": 4.0, "sampling.guidance.end": 4.0}
    guided = generate(settings, modules, tmp_path / "guided", strong, source=patient)
    assert plain["samples"] == guided["samples"] == 2
    first, second = (volumes(tmp_path / name) for name in ("plain", "guided"))
    assert list(first) == ["one/bravo_slice_001.nii.gz", "one/bravo_slice_003.nii.gz"]
    assert all(np.abs(first[name] - second[name]).max() > 1e-4 for name in first)


def test_volumes_under_masks_lie_in_their_patients_folders(shared_cache, tmp_path, patient):
    """As the reconstructions of `compression`; of two modalities each by its name."""
    shutil.copytree(patient / "one", patient / "two")
    changes = {"model__spatial_dims": 3, "data__volume_size": (8, 16, 16), "data__group": "dual"}
    settings, modules = made(shared_cache, condition__mask__enabled=True, **changes)
    generate(settings, modules, tmp_path / "out", source=patient)
    names = [f"{folder}/t1_{end}.nii.gz" for folder in ("one", "two") for end in ("gd", "pre")]
    images = volumes(tmp_path / "out")
    assert list(images) == names
    assert np.abs(images[names[0]] - images[names[2]]).max() > 0.0  # one mask, two seeds


def test_conditions_that_the_network_does_not_know_are_refused(shared_cache, tmp_path, patient):
    settings, modules = made(shared_cache)
    with pytest.raises(SettingsError, match="without masks"):
        generate(settings, modules, tmp_path / "a", source=patient)
    with pytest.raises(SettingsError, match="was not told modalities"):
        generate(settings, modules, tmp_path / "m", {"modality": "flair"})
    with pytest.raises(SettingsError, match="was not told sizes of lesions"):
        generate(settings, modules, tmp_path / "b", {"counts": (1, 2)})
    with pytest.raises(SettingsError, match="dropout is 0"):
        generate(settings, modules, tmp_path / "c", {"sampling.guidance.start": 2.0})
    settings, modules = made(shared_cache, condition__mask__enabled=True)
    with pytest.raises(SettingsError, match="--input PATH"):
        generate(settings, modules, tmp_path / "d")
    empty = np.zeros((16, 16, 4), np.uint8)
    write_nifti(tmp_path / "empty" / "one" / "seg.nii.gz", empty, np.eye(4), "a mask")
    with pytest.raises(DataError, match="masks with lesions"):
        generate(settings, modules, tmp_path / "e", source=tmp_path / "empty")
