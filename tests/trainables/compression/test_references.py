"""What an autoencoder has to beat: principal components of images and of cells, and a codec."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from scipy.stats import norm

from settings.flat import replace
from trainables.compression.codec import bits_of, decoded, most_bpp, rates, webp
from trainables.compression.references import (
    from_cells,
    principal_axes,
    references,
    to_cells,
)
from trainables.compression.settings import CompressionSettings
from trainables.compression.system import Compression
from trainables.reporting.references import measure_references

SYSTEM = Compression()
SMALL = {**SYSTEM.small, "data.image_size": 32}
VOLUMES = {
    **SYSTEM.small,
    "model.spatial_dims": 3,
    "data.volume_size": (16, 16, 16),
    "metric.ms_ssim": True,
}


def made(cache, **changes):
    """(settings, loaders without augmentation, the references)"""
    given = {key.replace("__", "."): value for key, value in changes.items()}
    settings = replace(CompressionSettings(), {**SMALL, **given})
    prepared = SYSTEM.prepare(settings, cache)
    loaders = SYSTEM.loaders(replace(settings, SYSTEM.originals), prepared)
    return settings, loaders, SYSTEM.references(settings, prepared)


def images_of(samples):
    return torch.stack([samples[(index, 0)]["image"] for index in range(len(samples))])


def brain(side=64):
    """A head of smooth tissue, in bytes."""
    y, x = np.mgrid[-1.0 : 1.0 : side * 1j, -1.0 : 1.0 : side * 1j]
    inside = (x / 0.7) ** 2 + (y / 0.9) ** 2 < 1.0
    tissue = 0.5 + 0.3 * np.sin(9.0 * x + 4.0 * y * y) + 0.1 * np.cos(25.0 * y)
    return (255.0 * np.where(inside, tissue, 0.0)).round().astype(np.uint8)


@pytest.mark.parametrize("shape", [(30, 7), (6, 40)])
def test_principal_axes_leave_what_the_smaller_singular_values_hold(shape):
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()
    middle = rows.mean(dim=0)
    axes = principal_axes(rows, middle, 4)
    torch.testing.assert_close(axes @ axes.T, torch.eye(4), atol=1e-5, rtol=0.0)
    left = (rows - middle) - (rows - middle) @ axes.T @ axes
    expected = scipy.linalg.svdvals((rows - middle).double().numpy())[4:]
    assert float(left.square().sum()) == pytest.approx(float(np.square(expected).sum()), rel=1e-4)
    assert len(principal_axes(rows, middle, 100)) == min(shape[0] - 1, shape[1])


@pytest.mark.parametrize("factors", [(4, 2), (2, 4, 1)])
def test_cells_hold_their_own_pixels_and_come_together_again(factors):
    space = tuple(3 * f for f in factors)
    image = torch.rand(2, 3, *space)
    cells = to_cells(image, factors)
    assert cells.shape == (2, *(3 for _ in factors), 3 * math.prod(factors))
    for place in itertools.product(range(3), repeat=len(factors)):
        window = [slice(p * f, (p + 1) * f) for p, f in zip(place, factors, strict=True)]
        expected = image[(slice(None), slice(None), *window)].flatten(1)
        assert torch.equal(cells[(slice(None), *place)], expected)
    assert torch.equal(from_cells(cells, image.shape, factors), image)


@pytest.mark.slow
def test_components_of_cells_are_a_linear_network_with_the_models_latent(shared_cache):
    settings, loaders, found = made(shared_cache)
    images = images_of(loaders.train)
    prediction = found["cell_components"].predict({"image": images})
    space = images.shape[2:]
    assert prediction["latent"].shape[1:] == settings.model.latent_shape(space)
    assert prediction["symbols"].shape == prediction["latent"].shape
    cells = to_cells(images, settings.model.factors).flatten(0, -2).double().numpy()
    values = scipy.linalg.svdvals(cells - cells.mean(axis=0))
    expected = float(np.square(values[settings.model.latent_channels :]).sum())
    left = float((prediction["reconstruction"] - images).double().square().sum())
    assert left == pytest.approx(expected, rel=1e-3)


def test_components_of_images_are_as_many_as_the_latent_has_numbers_or_images(shared_cache):
    settings, loaders, found = made(shared_cache)
    images = images_of(loaders.train)
    numbers = math.prod(settings.model.latent_shape(images.shape[2:]))
    assert len(images) - 1 < numbers  # so every training image is among the components
    prediction = found["principal_components"].predict({"image": images})
    torch.testing.assert_close(prediction["reconstruction"], images, atol=1e-4, rtol=0.0)
    assert prediction["latent"].shape == (len(images), len(images) - 1)
    assert f"{numbers} numbers" in found["principal_components"].about
    narrow, _, found = made(shared_cache, model__vae__widths=(8,) * 5, data__image_size=32)
    numbers = math.prod(narrow.model.latent_shape((32, 32)))
    prediction = found["principal_components"].predict({"image": images})
    assert prediction["latent"].shape == (len(images), numbers)
    values = scipy.linalg.svdvals((images - images.mean(dim=0)).flatten(1).double().numpy())
    left = float((prediction["reconstruction"] - images).double().square().sum())
    assert left == pytest.approx(float(np.square(values[numbers:]).sum()), rel=1e-3)


def test_whole_images_are_left_out_where_too_few_fit_into_memory(shared_cache):
    settings, loaders, found = made(shared_cache)
    size = 32 * 32
    few = references(settings, loaders, room=15 * size)
    assert found.keys() - few.keys() == {"principal_components"}
    enough = references(settings, loaders, room=16 * size)["principal_components"]
    assert enough.about.startswith("the first 16 principal components of 16 training images")


def test_a_file_costs_what_follows_its_header():
    """The decoder's own numbers: sides from the header, grey values of the file that Pillow
    reads.
    """
    pixels = brain()
    file = webp(pixels.tobytes(), pixels.shape, 50)
    assert Image.open(io.BytesIO(file)).size == (64, 64)
    assert bits_of(file) in (8 * (len(file) - 30), 8 * (len(file) - 31))  # padded to even
    header, others = file[:30], webp(brain()[::-1].copy().tobytes(), pixels.shape, 50)[:30]
    said = {*range(4, 8), *range(16, 20), *range(20, 23)}  # two sizes, and that of a partition
    assert all(header[at] == others[at] for at in set(range(30)) - said)
    given = np.frombuffer(decoded(file), np.uint8).reshape(64, 64)
    assert np.array_equal(given, np.asarray(Image.open(io.BytesIO(file)).convert("L")))
    with pytest.raises(ValueError, match="a WebP file"):
        bits_of(b"\x89PNG" + file[4:])


def test_no_latent_costs_more_than_the_rates_go_up_to():
    """The entropy of normal numbers in steps, by scipy; and that of equally frequent codes."""
    settings = CompressionSettings()
    step, numbers = settings.metric.rate_step, 3 * 16 * 16
    edges = (np.arange(-200, 202) - 0.5) * step
    shares = np.diff(norm.cdf(edges))
    entropy = -float((shares * np.log2(np.maximum(shares, 1e-300))).sum())
    most = most_bpp(settings, (64, 64))
    exact = (numbers * entropy + 32) / 64**2
    assert exact <= most <= 1.01 * exact
    assert rates(settings, (64, 64)) == [0.25, 0.375, 0.5, 0.75]
    codes = replace(settings, {"model.kind": "vqvae"})
    assert most_bpp(codes, (64, 64)) == 16 * 16 * 9 / 64**2
    assert rates(codes, (64, 64)) == [0.1875, 0.25, 0.375, 0.5]
    assert rates(settings, (64, 128)) == rates(settings, (64, 64))


@pytest.mark.slow
def test_the_codec_keeps_every_image_within_its_rate_and_is_better_at_higher_ones(shared_cache):
    settings, _, found = made(shared_cache, data__image_size=64)
    names = [name for name in found if name.startswith("webp")]
    assert names == [f"webp_{rate:.3g}bpp" for rate in rates(settings, (64, 64))]
    batch = {"image": torch.from_numpy(brain() / 255.0).float().expand(2, 1, 64, 64)}
    every = [bits_of(webp(brain().tobytes(), (64, 64), quality)) for quality in range(101)]
    errors = []
    for name in names:
        prediction = found[name].predict(batch)
        assert torch.equal(prediction["reconstruction"], prediction["quantised_reconstruction"])
        errors.append(float((prediction["reconstruction"] - batch["image"]).square().mean()))
        sums, pixels = found[name].measure(batch)["rate_bpp"]
        assert float(pixels) == 2 * 64 * 64 and not sums[:-1].any()
        most = float(name[5:-3]) * 64 * 64
        assert float(sums[-1]) / 2 in {bits for bits in every if bits <= most}
    assert errors == sorted(errors, reverse=True)


def test_an_image_that_no_quality_brings_within_the_rate_is_at_the_lowest(shared_cache):
    _, _, found = made(shared_cache, data__image_size=64)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    batch = {"image": torch.from_numpy(noise / 255.0).float()[None, None]}
    first = next(reference for name, reference in found.items() if name.startswith("webp"))
    sums, _ = first.measure(batch)["rate_bpp"]
    assert float(sums[-1]) == bits_of(webp(noise.tobytes(), noise.shape, 0)) > 0.25 * 64 * 64


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"model.kind": "vqvae"}])
def test_they_are_measured_with_their_rate(shared_cache, changes):
    """The codec has the columns of a rounded latent, the rate of a network of codes as well."""
    settings = replace(CompressionSettings(), {**SMALL, **changes})
    measured = measure_references(SYSTEM, settings, SYSTEM.prepare(settings, shared_cache))
    codecs = {name: it for name, it in measured.items() if name.startswith("webp")}
    assert len(codecs) == 4
    for name, it in codecs.items():
        assert it["val.psnr_quantised_db"] == it["val.psnr_db"]
        assert it["val.ms_ssim"] == it["val.ms_ssim_quantised"]
        assert it["val.rate_bpp"] > 0.0
        assert it["val.codebook_perplexity" if changes else "val.rate_limit_share"] is None, name
    for name, it in measured.items():
        is_free = name in ("mean", "untrained")
        assert it["costs"] == ([] if is_free else ["val.rate_bpp"]), name
    if not changes:
        assert measured["cell_components"]["val.rate_bpp"] > 0.0
        assert measured["principal_components"]["val.rate_bpp"] > 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"data.group": "dual"}, VOLUMES], ids=["two channels", "volumes"]
)
def test_channels_and_volumes_have_components_and_no_codec(shared_cache, changes):
    settings = replace(CompressionSettings(), {**SMALL, **changes})
    prepared = SYSTEM.prepare(settings, shared_cache)
    found = SYSTEM.references(settings, prepared)
    assert list(found) == ["mean", "downsampled", "principal_components", "cell_components"]
    loaders = SYSTEM.loaders(settings, prepared)
    image = torch.stack([loaders.validation[0]["image"]])
    mean = found["mean"].predict({"image": image})["reconstruction"]
    for name in ("principal_components", "cell_components"):
        prediction = found[name].predict({"image": image})
        error = float((prediction["reconstruction"] - image).square().mean())
        assert error < float((mean - image).square().mean())
    latent = prediction["latent"]
    assert latent.shape[1:] == settings.model.latent_shape(image.shape[2:])
