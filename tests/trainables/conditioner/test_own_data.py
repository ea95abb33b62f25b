"""From files of one's own to predictions for one's own images, as the verbs do it: with fields,
and with latents that were given.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from data.fields.outlines import samples
from ray_jobs import generate, train
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint

COUNT, SIDE, TIMES = 24, 16, 8
SMALL = (
    "data.source=folder",
    "data.image_size=16",
    "model.filters=4,8",
    "vae.filters=8,6",
    "vae.main_size=4",
    "vae.hier_size=4",
    "vae.steps=3",
    "vae.batch_size=4",
    "train.steps=4",
    "train.report_every=2",
    "train.batch_size=4",
    "train.tensorboard=false",
)


def write_images(folder):
    """img1.png, img2.png, .. img10.png, ..: in natural order; returns images and fields."""
    folder.mkdir(parents=True)
    made = list(samples(COUNT, 3, SIDE, TIMES, 3, False))
    images = [np.rint(image * 255).astype(np.uint8) for image, _ in made]
    for number, pixels in enumerate(images, start=1):
        Image.fromarray(pixels).save(folder / f"img{number}.png")
    (folder / "readme.txt").write_text("no image\n")
    return np.stack(images), np.stack([field for _, field in made]).astype(np.float32)


def trained(folder, *overrides):
    """A training of the verb; afterwards the data is gone, but for the returned arrays."""
    patch = pytest.MonkeyPatch()
    patch.setenv("WEIGHBRIDGE_CACHE", str(folder / "cache"))
    images = f"data.images={folder / 'images'}"
    arguments = ["conditioner", *SMALL, images, *overrides, "--no-ray", "--dir"]
    assert train.main([*arguments, str(folder / "run")]) == 0
    patch.undo()
    split = {
        name: np.load(next((folder / "cache").rglob(f"conditioner-*/{name}.npy")))
        for name in ("train", "validation")
    }
    shutil.rmtree(folder / "cache")
    (folder / "images").rename(folder / "mine")
    return split


def generated(folder, output):
    arguments = ["--checkpoint", folder / "run", "--input", folder / "mine", "--output", output]
    assert generate.main([str(argument) for argument in arguments]) == 0
    lines = (folder / "run" / "reports.jsonl").read_text().splitlines()
    report = min((json.loads(line) for line in lines), key=objective)
    assert (output / "names.txt").read_text().split() == [
        f"img{number}.png" for number in range(1, COUNT + 1)
    ]
    return report


def objective(report):
    """What names the best checkpoint."""
    return report.get("val.decoded_field_error") or report["val.latent_rmse"]


@pytest.fixture(scope="module")
def fields(tmp_path_factory, module_on_one_thread):
    """(folder of a training on fields, its data, its split)."""
    folder = tmp_path_factory.mktemp("fields")
    images, values = write_images(folder / "images")
    np.save(folder / "fields.npy", values)
    split = trained(folder, f"data.targets={folder / 'fields.npy'}")
    (folder / "fields.npy").unlink()
    return folder, images, values, split


def test_fields_are_predicted_without_the_training_data(fields, tmp_path, capsys):
    folder, images, values, split = fields
    report = generated(folder, tmp_path / "out")
    assert "images                            24" in capsys.readouterr().out
    found = np.load(tmp_path / "out" / "field.npy")
    assert found.shape == values.shape
    assert np.array_equal(np.load(tmp_path / "out" / "images.npy")[:, 0], images)
    # The error that the training reported on its validation set, measured on what was written.
    rows = split["validation"]
    error = np.linalg.norm((found - values).reshape(COUNT, -1), axis=1)
    relative = error / np.linalg.norm(values.reshape(COUNT, -1), axis=1)
    assert report["val.decoded_field_error"] == pytest.approx(relative[rows].mean(), rel=1e-5)


def test_an_image_that_is_not_square_is_refused_with_a_way_out_that_generate_takes(
    fields, tmp_path, capsys
):
    folder, out = fields[0], tmp_path / "out"
    shutil.copytree(folder / "mine", tmp_path / "in")
    with Image.open(tmp_path / "in" / "img7.png") as image:
        image.crop((0, 0, SIDE, SIDE // 2)).save(tmp_path / "in" / "img7.png")
    told = ["--checkpoint", folder / "run", "--input", tmp_path / "in", "--output", out]
    assert generate.main([*map(str, told)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'in'}: 1 of 24 images cannot be used; mend them, ")
    assert "img7.png: expected a square image, found 16x8 pixels." in said
    assert "(data.fit=refuse): pad or crop it to a square." in said
    assert "target" not in said and "data.fit=pad" not in said
    with Image.open(tmp_path / "in" / "img7.png") as image:
        ImageOps.pad(image, (SIDE, SIDE)).save(tmp_path / "in" / "img7.png")
    shutil.rmtree(out)
    assert generate.main([*map(str, told)]) == 0


def test_the_written_field_is_that_of_the_written_latents(fields, tmp_path):
    folder, images, _, _ = fields
    report = generated(folder, tmp_path / "out")
    found = {name: np.load(tmp_path / "out" / f"{name}.npy") for name in ("main", "hier", "field")}
    steps = {
        checkpoint.step_of(path): path
        for path in checkpoint.available(folder / "run" / "checkpoints")
    }
    modules = open_checkpoint(steps[report["step"]]).modules
    with torch.no_grad():
        direct = modules["model"](torch.from_numpy(images)[:, None].float() / 255.0)
        field = modules["decoder"](direct["main"], direct["hier"]).numpy()
    assert np.abs(found["main"] - direct["main"].numpy()).max() == 0.0
    assert np.abs(found["hier"] - direct["hier"].numpy()).max() == 0.0
    assert np.abs(found["field"] - field).max() == 0.0
    assert (np.abs(found["main"]) < 1.0).all(), "a VAE's latents stay scaled"


def test_given_latents_need_no_vae_and_come_back_in_their_own_units(tmp_path, capsys, one_thread):
    images, _ = write_images(tmp_path / "images")
    rng = np.random.default_rng(0)
    size = images.reshape(COUNT, -1).mean(axis=1, keepdims=True) / 255.0
    own = {
        "main": 1000.0 + 300.0 * size * rng.normal(size=(1, 5)),
        "hier": (rng.normal(size=(COUNT, 2 * 3)) - 7.0).reshape(COUNT, 2, 3),
    }
    (tmp_path / "latents").mkdir()
    for name, values in own.items():
        np.save(tmp_path / "latents" / f"{name}.npy", values)
    targets = f"data.targets={tmp_path / 'latents'}"
    split = trained(tmp_path, targets, "data.kind=latents", "loss.balancer.kind=uncertainty")
    said = capsys.readouterr()
    assert "simulation VAE" not in said.out + said.err
    report = generated(tmp_path, tmp_path / "out")
    assert "val.latent_rmse" in report
    assert not [column for column in report if "field" in column or "decoded" in column]
    assert not (tmp_path / "out" / "field.npy").exists()
    for name, values in own.items():
        found = np.load(tmp_path / "out" / f"{name}.npy").astype(np.float64)
        fitted, judged = values[split["train"]], split["validation"]
        half_range = (fitted.max(axis=0) - fitted.min(axis=0)) / 2.0
        scaled = 0.7 * (found - values)[judged] / half_range
        assert report[f"val.{name}_mse"] == pytest.approx((scaled**2).mean(), rel=1e-3)


@pytest.mark.slow
def test_scalers_see_the_training_samples_alone(conditioner, tmp_path):
    """000-M17: a range that is fitted on all samples tells the training of the validation."""
    _, values = write_images(tmp_path / "images")
    prepared, changed = {}, {"none": None, "validation": None, "train": None}
    for split in changed:
        own = values.copy()
        if split != "none":
            own[prepared["none"].arrays.indices(split)[0]] *= 5.0
        np.save(tmp_path / f"{split}.npy", own)
        prepared[split] = conditioner.prepared(
            {
                "data.source": "folder",
                "data.images": str(tmp_path / "images"),
                "data.targets": str(tmp_path / f"{split}.npy"),
            }
        )
    constants = {split: load_file(p.decoded.decoder.file) for split, p in prepared.items()}
    assert [key for key in constants["none"] if "scaler" in key]
    for key, value in constants["none"].items():
        assert torch.equal(constants["validation"][key], value), key
    assert any(not torch.equal(constants["train"][key], v) for key, v in constants["none"].items())
    latents = {split: np.load(p.latents / "main.npy") for split, p in prepared.items()}
    rows = prepared["none"].arrays.indices("train")
    np.testing.assert_array_equal(latents["validation"][rows], latents["none"][rows])
    assert not np.array_equal(latents["validation"], latents["none"])
    assert np.abs(latents["none"][rows]).max() <= 0.7 + 1e-6
