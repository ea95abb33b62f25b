"""The control branch: a copy of the encoder, silent at first, heard by all of the UNet."""

from __future__ import annotations

import pytest
import torch

from models.diffusion.build import build_control
from models.diffusion.control import OWN
from models.diffusion.rejection_head import Tapped
from models.diffusion.settings import ControlSettings, ModelSettings
from settings.flat import replace
from settings.schema import SettingsError


@pytest.fixture
def pair(make, shake, inputs):
    """`pair(dims, widths)`: a shaken UNet, its branch, their inputs and a mask of {-1, 1}."""

    def of(dims, widths=(4,)):
        changes = {"unet.widths": (8, 16), "unet.res_blocks": 2}
        network = shake(make("unet", dims, **changes))
        settings = ModelSettings(kind="unet", spatial_dims=dims)
        tiny = {"unet.widths": (8, 16), "unet.head_width": 8, "unet.norm_groups": 4}
        settings = replace(settings, {**tiny, "unet.res_blocks": 2})
        control = build_control(settings, ControlSettings(widths=widths), network.in_channels)
        control.copy_encoder(network)
        given = {key: inputs(network)[key] for key in ("x", "time", "embedding")}
        factor = 2 ** (len(widths) - 1)
        sides = [factor * side for side in given["x"].shape[2:]]
        generator = torch.Generator().manual_seed(3)
        image = torch.randint(0, 2, (2, 1, *sides), generator=generator) * 2.0 - 1.0
        return network, control, given, image

    return of


@pytest.mark.parametrize("dims", [2, 3])
def test_before_its_first_step_the_prediction_is_that_of_the_network_alone(pair, dims):
    network, control, given, image = pair(dims)
    added = control(given["x"], given["time"], image, given["embedding"])
    assert torch.equal(network(**given, added=added), network(**given))


@pytest.mark.parametrize("dims", [2, 3])
def test_its_features_are_those_of_the_encoder_it_is_a_copy_of(pair, dims):
    """With the identity in the place of the zeros it adds the skip connections themselves."""
    network, control, given, image = pair(dims)
    for block in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        convolution = getattr(block, "conv", block)
        torch.nn.init.dirac_(convolution.weight)
    added = control(given["x"], given["time"], image, given["embedding"])
    seen = []
    network.middle_block.register_forward_hook(lambda _, __, output: seen.append(output))
    for block in network.down_blocks:
        block.register_forward_hook(lambda _, __, output: seen.extend(output[1]))
    network.conv_in.register_forward_hook(lambda _, __, output: seen.append(output))
    network(**given)
    assert len(added) == len(seen)
    for ours, theirs in zip(added, seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_every_residual_reaches_the_prediction_and_no_gradient_the_network(pair, shake, dims):
    network, control, given, image = pair(dims)
    network.requires_grad_(False)
    shake(control)
    added = control(given["x"], given["time"], image, given["embedding"])
    for residual in added:
        residual.retain_grad()
    network(**given, added=added).square().mean().backward()
    assert all(bool(residual.grad.abs().max() > 0.0) for residual in added)
    silent = [n for n, p in control.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_embedding_the_time_and_the_mask_change_what_is_added(pair, shake):
    _, control, given, image = pair(2)
    shake(control)
    x, time, embedding = given["x"], given["time"], given["embedding"]
    film = torch.stack([embedding, embedding], dim=1)
    base = control(x, time, image, embedding)
    others = (
        control(x, time, image, embedding + 1.0),
        control(x, time, image, film),
        control(x, time, image),
        control(x, 1.0 - time, image, embedding),
        control(x, time, -image, embedding),
    )
    for other in others:
        # the first is of the convolution before the time enters
        assert all(not torch.equal(a, b) for a, b in zip(base[1:], other[1:], strict=True))


def test_the_scale_multiplies_what_is_added(pair, shake):
    _, control, given, image = pair(2)
    shake(control)
    plain = control(given["x"], given["time"], image, given["embedding"])
    doubled = control(given["x"], given["time"], image, given["embedding"], 2.0)
    for once, twice in zip(plain, doubled, strict=True):
        assert torch.equal(2.0 * once, twice)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_the_widths_of_the_document_fit_latents_of_factor_8(pair, dims):
    network, control, given, image = pair(dims, (16, 32, 96, 256))
    assert [8 * side for side in given["x"].shape[2:]] == list(image.shape[2:])
    added = control(given["x"], given["time"], image, given["embedding"])
    assert torch.equal(network(**given, added=added), network(**given))


def test_a_tapped_network_hears_it_and_its_features_do(pair, shake):
    network, control, given, image = pair(2)
    shake(control)
    added = control(given["x"], given["time"], image, given["embedding"])
    tapped = Tapped(network)
    tapped(**given)
    alone = tapped.features
    assert torch.equal(tapped(**given, added=added), network(**given, added=added))
    torch.testing.assert_close(tapped.features, alone + added[-1])


def test_all_but_its_own_layers_are_taken(pair):
    network, control, _, _ = pair(2)
    theirs, ours = network.state_dict(), control.state_dict()
    shared = [name for name in ours if not name.startswith(OWN)]
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    left = {name.split(".")[0] for name in theirs if name not in ours}
    assert left == {"up_blocks", "out"}


def test_another_number_of_widths_is_refused_with_the_one_that_fits():
    with pytest.raises(SettingsError, match="Give it 1"):
        ControlSettings().check_size((16, 16), (16, 16))
    with pytest.raises(SettingsError, match="Give it 4"):
        ControlSettings(widths=(16,)).check_size((16, 16), (2, 2))
    with pytest.raises(SettingsError, match="factor is a power of 2"):
        ControlSettings(widths=(16,)).check_size((16, 16, 16), (4, 8, 8))
    ControlSettings().check_size((64, 128), (8, 16))
