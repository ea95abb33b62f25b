"""Folders of latents: what is read of each format, how it is split, and each refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data.files import DataError
from data.style.dataset import open_split, prepare
from data.style.files import read_latent
from data.style.folder import read_folder
from settings.flat import replace


class Code:
    """What runs on being unpickled by whoever lets it."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('the code has run')",))


def refused(settings, said):
    """The one line that a folder is refused with."""
    with pytest.raises(DataError, match=said) as error:
        read_folder(settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def root_of(settings):
    return Path(settings.root)


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_every_format_is_read_as_it_was_stored(make_folder, suffix, tmp_path):
    settings = make_folder(suffix, monet=10, photo=10)
    if suffix == ".npy":
        facts = {"scale": 0.18215, "source": "sd-vae-ft-mse"}
        (root_of(settings) / "latents.json").write_text(json.dumps(facts))
    sets = read_folder(settings)
    assert sets.facts == {"scale": 0.18215, "source": "sd-vae-ft-mse"}
    generator = torch.Generator().manual_seed(0)
    expected = {
        f"{name}/{number}{suffix}": torch.randn(4, 8, 8, generator=generator).numpy()
        for name in ("monet", "photo")
        for number in range(10)
    }
    found = {
        unit: latent
        for split in sets.splits.values()
        for unit, latent in zip(split.units, split.values, strict=True)
    }
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[unit], expected[unit]) for unit in expected)


def test_a_plain_tensor_and_half_precision_are_read(tmp_path):
    latent = torch.randn(1, 4, 8, 8).bfloat16()
    torch.save(latent, tmp_path / "a.pt")
    save_file({"z": latent}, tmp_path / "a.safetensors")
    for suffix in (".pt", ".safetensors"):
        values, facts = read_latent(tmp_path / f"a{suffix}")
        assert values.dtype == np.float32
        assert np.array_equal(values, latent[0].float().numpy())
        assert (facts.scale, facts.source) == (None, "")


def test_files_are_split_by_themselves_and_always_alike(make_folder, tmp_path):
    settings = make_folder(monet=20, photo=30)
    prepared = prepare(settings, tmp_path / "cache")
    units = prepared.units
    files = [unit for of in units.values() for unit in of]
    assert len(files) == len(set(files)) == 50
    assert {split: len(of) for split, of in units.items()} == {
        "train": 30,
        "validation": 10,
        "test": 10,
    }
    assert prepared.described == "monet 12/4/4, photo 18/6/6 of [4, 8, 8]"
    assert prepare(settings, tmp_path / "other").units == units
    assert prepare(replace(settings, {"seed": 1}), tmp_path / "cache").units != units
    stored = json.loads((Path(prepared.folder) / "index.json").read_text())
    assert stored["units"] == units
    for split, of in units.items():
        samples = open_split(prepared, split, settings)
        for row, unit in enumerate(of):
            latent, _ = read_latent(root_of(settings) / unit)
            assert np.array_equal(samples.latents[row], latent)


def test_a_factor_is_applied_and_joins_the_scale(make_folder):
    settings = make_folder(std=1 / 0.18215, facts={"scale": 1.0, "source": "x"})
    sets = read_folder(replace(settings, {"multiply": 0.18215}))
    assert sets.splits["train"].values.std() == pytest.approx(1.0, abs=0.05)
    assert sets.facts["scale"] == 0.18215


def test_scale_and_source_may_be_given(make_folder):
    settings = make_folder(facts={})
    message = refused(settings, "expected the scale of the latents and their autoencoder")
    assert "data.scale" in message and "data.latent_source" in message
    given = replace(settings, {"scale": 0.18215, "latent_source": "ours"})
    assert read_folder(given).facts == {"scale": 0.18215, "source": "ours"}


def test_a_given_scale_that_the_files_contradict_is_refused(make_folder):
    refused(replace(make_folder(), {"scale": 1.0}), r"data.scale=1, but the files say 0.18215")


def test_one_style_is_refused(make_folder):
    refused(make_folder(monet=9), "expected 2 styles or more.*found monet only")


def test_a_style_with_too_few_latents_is_refused_whatever_is_in_the_cache(make_folder, tmp_path):
    settings = make_folder(monet=10, photo=30)
    said = (
        "expected 3 latents or more of each style in validation, data.references=2 beside the one "
        "that is transferred; monet has 2"
    )
    with pytest.raises(DataError, match=said):
        prepare(settings, tmp_path / "cache")
    fewer = replace(settings, {"references": 1})
    prepared = prepare(fewer, tmp_path / "cache")
    assert len(prepared.styles["validation"]) == 8
    with pytest.raises(DataError, match=said):
        prepare(settings, tmp_path / "cache")
    refused(make_folder(lonely=1), "for training and for validation, found 1 file")


def test_mixed_shapes_are_refused(make_folder):
    settings = make_folder()
    torch.save(torch.randn(4, 16, 16), root_of(settings) / "monet" / "3.pt")
    refused(
        settings, r"one shape, found \[4, 8, 8\] in 49 files, \[4, 16, 16\] in 1 file: monet/3"
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(make_folder, number):
    settings = make_folder()
    latent = torch.randn(4, 8, 8)
    latent[2, 3, 4] = number
    torch.save(latent, root_of(settings) / "photo" / "7.pt")
    refused(settings, r"NaN or infinity in 1 file: photo/7.pt")


def test_a_file_with_code_is_refused_and_not_run(make_folder):
    settings = make_folder()
    torch.save({"latent": torch.randn(4, 8, 8), "more": Code()}, root_of(settings) / "photo/7.pt")
    refused(settings, r"photo/7.pt: expected a tensor, found code or objects, which are not run")
    numpy_file = root_of(settings) / "photo/8.npy"
    np.save(numpy_file, np.array([Code()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="expected an array of numbers, found code"):
        read_latent(numpy_file)


def test_damaged_and_strange_files_are_refused(make_folder, tmp_path):
    for suffix in (".pt", ".npy", ".safetensors"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"not a latent at all, whatever its name says")
        with pytest.raises(DataError, match=f"broken{suffix}: expected"):
            read_latent(path)
    path = tmp_path / "two.pt"
    torch.save({"a": torch.zeros(2), "b": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="under 'latent', found 'a', 'b'"):
        read_latent(path)
    np.save(tmp_path / "flat.npy", np.zeros(4, np.float32))
    with pytest.raises(DataError, match=r"expected one latent \[C, H, W\].*found float32 \[4\]"):
        read_latent(tmp_path / "flat.npy")
    settings = make_folder()
    (root_of(settings) / "photo" / "notes.txt").write_text("seen")
    (root_of(settings) / ".hidden").write_text("unseen")
    refused(settings, r"alone, found photo/notes.txt\. Move")


def test_a_scale_that_was_applied_twice_is_refused_with_the_factor(make_folder):
    settings = make_folder(std=0.18215)
    message = refused(settings, "as of latents that were scaled by 0.18215 twice")
    assert "standard deviation of 0.5 to 2, found 0.181 in monet" in message
    factor = float(message.split("data.multiply=")[1].split()[0])
    assert factor == pytest.approx(1 / 0.18215, rel=0.03)
    mended = read_folder(replace(settings, {"multiply": factor}))
    assert mended.splits["train"].values.std() == pytest.approx(1.0, abs=0.03)


def test_raw_latents_are_refused_with_the_factor(make_folder):
    message = refused(make_folder(std=5.49, facts={"scale": 1.0, "source": "x"}), "found 5")
    assert "twice" not in message
    assert float(message.split("data.multiply=")[1].split()[0]) == pytest.approx(0.182, rel=0.03)


def test_one_unscaled_style_among_others_is_refused(make_folder):
    make_folder(photo=20)
    refused(make_folder(std=0.18, monet=20), "in monet")


def test_scaling_what_is_scaled_is_refused(make_folder):
    settings = replace(make_folder(std=5.49), {"multiply": 0.18215})
    refused(settings, "would scale the latents twice: their numbers are multiplied by 0.18215")


def test_latents_of_two_autoencoders_are_refused(make_folder):
    make_folder(photo=20, facts={"scale": 0.13, "source": "other"})
    refused(make_folder(monet=20), "expected latents of one autoencoder and one scale, found")


def test_a_content_that_is_no_style_is_refused(make_folder, tmp_path):
    settings = replace(make_folder(), {"content": "photos"})
    with pytest.raises(DataError, match=r"data\.content=photos is none of the styles, which are"):
        prepare(settings, tmp_path / "cache")
