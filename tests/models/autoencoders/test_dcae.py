"""The DC-AE in both dimensions: phases, structured latents, published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.autoencoders.build import build_autoencoder
from models.autoencoders.dcae import Dcae
from models.autoencoders.interface import PretrainedError
from models.autoencoders.settings import DcaeSettings, ModelSettings
from settings.flat import replace
from settings.schema import SettingsError

SMALL = ModelSettings(
    kind="dcae",
    dcae=DcaeSettings(
        latent_channels=8,
        widths=(8, 16, 32),
        layers=(0, 1, 1),
        decoder_layers=(0, 1, 1),
        depth_factors=(2, 1),
    ),
)
STRUCTURED: dict[str, Any] = {
    "dcae.latent_channels": 64,
    "dcae.widths": (8, 16, 64),
    "dcae.structured.enabled": True,
    "dcae.structured.channel_step": 24,
}
PUBLISHED: dict[str, Any] = {
    "dcae.widths": (128, 256, 512, 512, 1024, 1024),
    "dcae.layers": (0, 4, 8, 2, 2, 2),
    "dcae.decoder_layers": (0, 5, 10, 2, 2, 2),
    "dcae.latent_channels": 32,
    "dcae.attention": 3,
    "dcae.batch_norm": 3,
}
"""As the networks trained on ImageNet are published."""

ANY_DIMS = pytest.mark.parametrize("dims", [pytest.param(2, marks=pytest.mark.slow), 3])


def make(dims: int, **changes: Any) -> Dcae:
    torch.manual_seed(0)
    named = {key.replace("__", "."): value for key, value in changes.items()}
    made = build_autoencoder(replace(SMALL, {"spatial_dims": dims, **named}), 1)
    assert isinstance(made, Dcae)
    return made


def image_of(dims: int) -> Tensor:
    return torch.rand(2, 1, *(8,) * dims, generator=torch.Generator().manual_seed(1))


def grown(shape: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(".", "__"): value for key, value in shape.items()}


# --- phases -------------------------------------------------------------------------------------


@ANY_DIMS
@pytest.mark.parametrize(
    ("phase", "learning"),
    [
        (2, ("encoder.down_blocks.2", "encoder.conv_out",
             "decoder.conv_in", "decoder.up_blocks.2")),
        (3, ("decoder.up_blocks.1", "decoder.norm_out", "decoder.conv_out")),
    ],
)
def test_a_phase_changes_its_own_part_alone(
    dims: int, phase: int, learning: tuple[str, ...]
) -> None:
    normed = {"dcae__batch_norm": 3} if dims == 2 else {}
    model = make(dims, phase=phase, **normed)  # in training from the start, as every module
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert (dims == 2) == any(name.endswith("running_mean") for name in before)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    (model(image_of(dims))["reconstruction"] - 0.3).abs().sum().backward()
    optimizer.step()
    model.eval().train()(image_of(dims))
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    parts = {part for part in learning if any(name.startswith(part) for name in changed)}
    assert parts == set(learning)
    assert all(name.startswith(learning) for name in changed)


@ANY_DIMS
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("phase", [1, 2, 3])
def test_the_last_layer_learns_in_every_phase(dims: int, phase: int, checkpointing: bool) -> None:
    model = make(dims, phase=phase, checkpointing=checkpointing).train()
    (last,) = model.last_layer()
    assert last.requires_grad
    loss = (model(image_of(dims))["reconstruction"] - 0.3).square().sum()
    (gradient,) = torch.autograd.grad(loss, last)
    assert bool(gradient.abs().sum() > 0)


# --- structured latents -------------------------------------------------------------------------


@ANY_DIMS
def test_training_drops_trailing_channels_and_evaluation_none(dims: int) -> None:
    model, image = make(dims, **grown(STRUCTURED)).train(), image_of(dims)
    assert model.options == (16, 40, 64)
    seen = set()
    for seed in range(12):
        latent = model(image, torch.full((len(image),), seed))["latent"]
        kept = int(latent.abs().sum(dim=(0, *range(2, latent.ndim))).count_nonzero())
        assert kept in model.options
        assert not latent[:, kept:].any()
        torch.testing.assert_close(latent[:, :kept], model.encode(image)[:, :kept])
        seen.add(kept)
    assert seen == set(model.options)
    model.eval()
    torch.testing.assert_close(model(image)["latent"], model.encode(image))


@ANY_DIMS
@pytest.mark.parametrize("seed", range(3))
def test_adaptive_layers_equal_masking(dims: int, seed: int) -> None:
    image, found = image_of(dims), []
    for adaptive in (True, False):
        model = make(dims, **grown(STRUCTURED), dcae__adaptive_layers=adaptive).train()
        prediction = model(image, torch.full((len(image),), seed))
        prediction["reconstruction"].square().sum().backward()
        found.append((prediction, {name: p.grad for name, p in model.named_parameters()}))
    (ours, our_gradients), (masked, masked_gradients) = found
    for name in masked:
        torch.testing.assert_close(ours[name], masked[name])
    for name, gradient in masked_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, atol=1e-4, rtol=1e-3)


def test_small_latents_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least 64 channels"):
        replace(SMALL, {"dcae.structured.enabled": True})


# --- published weights --------------------------------------------------------------------------


def published(folder: Path, shape: ModelSettings, channels: int = 3) -> Any:
    """A network of the library's with random weights, saved as published ones are."""
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

    from models.autoencoders.dcae_2d import configuration

    torch.manual_seed(7)
    made = AutoencoderDC(**configuration(shape.dcae, channels)).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(folder)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_weights_for_rgb_treat_our_images_as_grey(
    tmp_path: Path, channels: int, first: int
) -> None:
    layers = (first, 1, 1)
    shape = replace(SMALL, {"dcae.layers": layers, "dcae.decoder_layers": layers})
    theirs = published(tmp_path, shape)
    ours = build_autoencoder(replace(shape, {"pretrained": str(tmp_path)}), channels).eval()
    rgb = torch.rand(2, 3 if channels == 3 else 1, 16, 16).expand(-1, 3, -1, -1)
    with torch.no_grad():
        found = ours(rgb[:, :channels])
        latent = theirs.encode(2 * rgb - 1, return_dict=False)[0]
        expected = (theirs.decode(latent, return_dict=False)[0] + 1) / 2
    if channels < 3:
        expected = expected.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    torch.testing.assert_close(found["latent"], latent, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["reconstruction"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_another_network_is_refused_with_the_settings_that_describe_it(tmp_path: Path) -> None:
    published(tmp_path, replace(SMALL, {"dcae.layers": (0, 2, 1)}))
    with pytest.raises(SettingsError, match=r"\(0, 2, 1\), not \(0, 1, 1\) \(model.dcae.layers"):
        build_autoencoder(replace(SMALL, {"pretrained": str(tmp_path)}), 1)


@pytest.mark.slow
def test_weights_that_cannot_be_read_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PretrainedError, match=r"must hold config.json"):
        build_autoencoder(replace(SMALL, {"pretrained": str(tmp_path)}), 1)
    published(tmp_path, SMALL)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(PretrainedError, match=r"must hold config.json"):
        build_autoencoder(replace(SMALL, {"pretrained": str(tmp_path)}), 1)
    with pytest.raises(PretrainedError, match=r"no such folder here"):
        build_autoencoder(replace(SMALL, {"pretrained": str(tmp_path / "other")}), 1)
    name = "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers"
    with pytest.raises(PretrainedError, match=r"hub.*--local-dir"):
        build_autoencoder(replace(SMALL, {"pretrained": name}), 1)
    kept = build_autoencoder(replace(SMALL, {"pretrained": name}), 1, load=False)
    assert isinstance(kept, Dcae)


# --- sizes --------------------------------------------------------------------------------------


def deeper(stages: int, channels: int) -> dict[str, Any]:
    """The published network with as many more stages."""
    return {
        "dcae.widths": (*PUBLISHED["dcae.widths"], *[2048] * stages),
        "dcae.layers": (*PUBLISHED["dcae.layers"], *[2] * stages),
        "dcae.decoder_layers": (*PUBLISHED["dcae.decoder_layers"], *[2] * stages),
        "dcae.latent_channels": channels,
        "dcae.attention": 3 + stages,
    }


SANA: dict[str, Any] = {
    "dcae.layers": (2, 2, 2, 3, 3, 3),
    "dcae.decoder_layers": (3,) * 6,
    "dcae.multiscale": True,
    "dcae.strided": True,
    "dcae.batch_norm": 0,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "latent", "millions"),
    [
        ({}, (32, 8, 8), 323.3),
        (SANA, (32, 8, 8), 312.2),
        (deeper(1, 128), (128, 4, 4), 676.9),
        (deeper(2, 512), (512, 2, 2), 1120.7),
    ],
    ids=["f32c32", "f32c32_sana", "f64c128", "f128c512"],
)
def test_documented_sizes(
    changes: dict[str, Any], latent: tuple[int, ...], millions: float
) -> None:
    """Latents of the document's table; parameters of the published networks, for one channel."""
    settings = replace(SMALL, {**PUBLISHED, **changes})
    with torch.device("meta"):
        model = build_autoencoder(settings, 1)
        found = model(torch.zeros(1, 1, 256, 256))
    assert found["latent"].shape[1:] == latent == model.latent_shape((256, 256))
    assert found["reconstruction"].shape == (1, 1, 256, 256)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.slow
def test_the_library_is_the_reference_of_our_three_dimensional_network() -> None:
    """With depth factors of 1 and kernels that see one slice, ours is the 2-D network a slice."""
    changes: dict[str, Any] = {"dcae.attention": 0, "dcae.depth_factors": (1, 1)}
    plane = build_autoencoder(replace(SMALL, changes), 1)
    volume = build_autoencoder(replace(SMALL, {**changes, "spatial_dims": 3}), 1)
    for parameter in plane.parameters():
        nn.init.normal_(parameter, std=0.3)
    places = {"conv1.": "branch.0.", "conv2.": "branch.2.", ".norm.": ".branch.3."}
    target = dict(volume.named_parameters())
    with torch.no_grad():
        for name, value in plane.named_parameters():
            for theirs, own in places.items():
                name = name.replace(theirs, own)
            if value.ndim == 4:
                target[name].zero_()[:, :, 1] = value
            else:
                target[name].copy_(value)
        images = torch.rand(2, 1, 3, 16, 16)
        found = volume(images)
        for depth in range(3):
            expected = plane(images[:, :, depth])
            for key, value in expected.items():
                torch.testing.assert_close(found[key][:, :, depth], value, atol=1e-3, rtol=1e-3)
