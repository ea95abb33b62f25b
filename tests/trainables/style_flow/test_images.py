"""Images as latents: what is encoded, its scale, an autoencoder of diffusers, images out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data.files import DataError
from settings.flat import replace
from settings.schema import SettingsError
from trainables.request import Request
from trainables.style_flow.image_files import read_images
from trainables.style_flow.images import ImageVaeSettings, open_codec
from trainables.style_flow.prepared import prepare_styles
from trainables.style_flow.system import StyleFlow
from trainables.style_flow.use import GenerateSettings, generate

pytestmark = pytest.mark.slow

SYSTEM = StyleFlow()


@pytest.fixture(scope="module")
def prepared(embedded, shared_cache):
    return prepare_styles(embedded(), shared_cache)


def latents_of(prepared, split="train", end=""):
    return np.load(Path(prepared.folder) / f"{split}{end}.npy")


def test_latents_of_the_training_split_have_mean_0_and_deviation_1(prepared):
    values = latents_of(prepared).astype(np.float64)
    assert values.shape[1:] == (4, 8, 8) == tuple(prepared.shape)
    np.testing.assert_allclose(values.mean(axis=(0, 2, 3)), 0.0, atol=1e-5)
    assert values.std() == pytest.approx(1.0, rel=1e-4)
    codec = open_codec(prepared.codec_meta, prepared.codec)
    assert prepared.scale == pytest.approx(1.0 / float(codec.deviation))
    assert not prepared.are_images


def test_a_codec_that_is_opened_again_gives_the_stored_latents(prepared, embedded, shared_cache):
    from data.style.crops import read_crops

    crops = torch.from_numpy(read_crops(embedded().data).splits["validation"].values)
    codec = open_codec(prepared.codec_meta, prepared.codec)
    torch.testing.assert_close(
        codec.encode(crops), torch.from_numpy(latents_of(prepared, "validation"))
    )
    error = 0.5 * (codec.decode(codec.encode(crops)) - crops)
    psnr = -10.0 * error.square().flatten(1).mean(dim=1).log10().mean()
    (noted,) = prepared.notes.values()
    assert noted == pytest.approx(float(psnr), abs=0.01)
    assert noted > 20.0  # where its principal components begin


def test_latents_without_colour_are_of_grey_images(prepared, embedded, shared_cache):
    from data.style.crops import read_crops

    data = replace(embedded().data, {"grey": True})
    crops = torch.from_numpy(read_crops(data).splits["test"].values)
    codec = open_codec(prepared.codec_meta, prepared.codec)
    expected = codec.encode(crops)
    made = torch.from_numpy(latents_of(prepared, "test", "_grey"))
    # the file's grey was rounded to bytes, and that of the retina before it was reduced
    torch.testing.assert_close(made, expected, atol=0.05, rtol=0.0)


def test_the_examples_are_training_latents_of_each_style(prepared):
    codec = open_codec(prepared.codec_meta, prepared.codec)
    train, styles = latents_of(prepared), np.array(prepared.styles["train"])
    for style, example in enumerate(codec.examples.numpy()):
        of_style = train[styles == style]
        assert (of_style == example).all(axis=(1, 2, 3)).any()


def test_the_autoencoder_is_trained_once(prepared, embedded, shared_cache, monkeypatch):
    from trainables.style_flow import images

    def never(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(images, "_train", never)
    again = prepare_styles(embedded(flow__steps=3, data__references=3), shared_cache)
    assert again.folder == prepared.folder
    with pytest.raises(AssertionError, match="trained again"):
        prepare_styles(embedded(vae__seed=1), shared_cache)


def test_a_system_on_images_has_the_codec_frozen_and_makes_it_again(prepared, embedded):
    built = SYSTEM.build(embedded(), prepared)
    codec = built.modules["codec"]
    assert not any(p.requires_grad for p in codec.parameters())
    assert not codec.train().training
    assert built.external["codec"].file.is_file()
    again = SYSTEM.rebuild(embedded(), built.meta).modules["codec"]
    again.load_state_dict(load_file(built.external["codec"].file))
    latents = torch.from_numpy(latents_of(prepared, "test")[:2])
    assert torch.equal(again.decode(latents), codec.decode(latents))


def test_generate_gives_images_in_a_style(prepared, embedded, tmp_path):
    settings = embedded()
    modules = {name: m.eval() for name, m in SYSTEM.build(settings, prepared).modules.items()}
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name in ("retina.jpg", "b.png"):  # of a name that the embedded images have as well
        Image.fromarray(rng.integers(0, 256, (35, 50, 3), np.uint8)).save(tmp_path / "in" / name)
    options = {"style": "ihc", "sampling.steps": 2, "sampling.inversion_steps": 2}
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        request = Request(
            target=folder,
            source=tmp_path / "in",
            options=replace(GenerateSettings(), options),
            batch_size=2,
        )
        assert generate(settings, modules, request)["samples"] == 2
    files = sorted(path.name for path in folders[0].iterdir())
    assert files == ["000000.npy", "000000.png", "000001.npy", "000001.png", "grid_000000.png"]
    for name in files:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    latent = torch.from_numpy(np.load(folders[0] / "000001.npy"))
    decoded = (0.5 * (modules["codec"].decode(latent[None])[0] + 1.0)).movedim(0, 2).numpy()
    pixels = np.asarray(Image.open(folders[0] / "000001.png"), np.float32) / 255.0
    assert pixels.shape == (32, 48, 3)  # multiples of 16 pixels, the middle
    np.testing.assert_allclose(pixels, decoded, atol=0.5 / 255.0 + 1e-6)
    assert Image.open(folders[0] / "grid_000000.png").size == (2 * 48, 3 * 32)


def test_images_that_do_not_fit_are_refused_in_words(tmp_path):
    for side, name in ((16, "a.png"), (32, "b.png")):
        Image.new("RGB", (side, side)).save(tmp_path / name)
    with pytest.raises(DataError, match="images of one size"):
        read_images(tmp_path, 16)
    with pytest.raises(DataError, match="64 pixels a side or more"):
        read_images(tmp_path / "a.png", 64)
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        read_images(tmp_path / "c.png", 16)
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(DataError, match="trained on images"):
        read_images(tmp_path / "d.npy", 16)


# An autoencoder of diffusers


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("kl")
    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=2,
    )
    network.save_pretrained(folder)
    return folder, network.eval()


def test_a_folder_of_diffusers_encodes_and_decodes(published, embedded, tmp_path):
    from data.style.crops import read_crops

    folder, network = published
    settings = embedded(vae__folder=str(folder))
    made = prepare_styles(settings, tmp_path)
    assert tuple(made.shape) == (3, 16, 16)
    assert made.source == str(folder)
    codec = open_codec(made.codec_meta, made.codec)
    crops = torch.from_numpy(read_crops(settings.data).splits["test"].values)[:3]
    with torch.no_grad():
        raw = network.encode(crops).latent_dist.mean
        decoded = network.decode(raw).sample.clamp(-1.0, 1.0)
    torch.testing.assert_close(codec.encode(crops) * codec.deviation + codec.shift, raw)
    torch.testing.assert_close(codec.decode(codec.encode(crops)), decoded, atol=1e-5, rtol=1e-5)


def test_what_is_no_such_folder_is_refused_in_words(embedded, tmp_path):
    for text, message in (
        (None, "has no config.json"),
        ('{"_class_name": "AutoencoderDC"}', "is a AutoencoderDC of diffusers"),
        ('{"_class_name": "AutoencoderKL"}', "cannot be read"),
    ):
        folder = tmp_path / str(len(message))
        folder.mkdir()
        if text is not None:
            (folder / "config.json").write_text(text)
        with pytest.raises(SettingsError, match=message):
            prepare_styles(embedded(vae__folder=str(folder)), tmp_path / "cache")


def test_crops_that_the_flow_cannot_halve_are_refused(embedded):
    with pytest.raises(SettingsError, match=r"data\.crop must be a multiple of 16"):
        embedded(data__crop=40)
    with pytest.raises(SettingsError, match=r"vae\.width must be a multiple of 4"):
        ImageVaeSettings(width=6)
