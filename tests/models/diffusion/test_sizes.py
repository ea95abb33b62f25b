"""Parameters of the published sizes, counted without making any of them."""

from __future__ import annotations

import pytest
import torch

from models.diffusion.build import build_network
from models.diffusion.hdit import Hdit
from models.diffusion.interface import DiffusionNetwork
from models.diffusion.settings import (
    DIT_SIZES,
    HDIT_SIZES,
    UNET_SIZES,
    UVIT_SIZES,
    ModelSettings,
    UnetSettings,
)
from settings.flat import replace

LATENT = (32, 32)
VOLUME = (128, 128, 160)


def counted(
    kind: str,
    size: tuple[int, ...],
    channels: int,
    condition: int = 0,
    unet: UnetSettings | None = None,
    **changes: object,
) -> DiffusionNetwork:
    settings = ModelSettings(
        kind=kind, spatial_dims=len(size), unet=unet if unet is not None else UnetSettings()
    )
    with torch.device("meta"):
        return build_network(
            replace(settings, changes), size, channels, condition_channels=condition
        )


def millions(network: torch.nn.Module, without: str | None = None) -> float:
    named = network.named_parameters()
    return sum(p.numel() for name, p in named if not without or without not in name) / 1e6


def test_unet_from_two_channels_to_one():
    network = counted("unet", (128, 128), 1, condition=1, unet=UNET_SIZES["default"])
    assert (network.in_channels, network.out_channels) == (2, 1)
    assert millions(network) == pytest.approx(18.502145, abs=1e-9)  # of the library itself


@pytest.mark.parametrize(
    ("size", "expected", "ours"),
    [("S", 32.5, 32.6), ("B", 129.5, 129.7), ("L", 456.8, 457.1), ("XL", 673.6, 674.0)],
)
def test_dit(size, expected, ours):
    """Ours has positions that are trained, and the norms of queries and keys."""
    network = counted("dit", LATENT, 4, **{"dit.size": size, "dit.patch_size": 2})
    assert millions(network) == pytest.approx(expected, rel=0.005)
    assert millions(network) == pytest.approx(ours, abs=0.05)


def test_pixels_add_positions_to_dit():
    network = counted("dit", (128, 128), 1, **{"dit.size": "S", "dit.patch_size": 2})
    positions = millions(network) - millions(network, without="positions")
    assert positions == pytest.approx(1.6, rel=0.02)
    fixed = {"dit.size": "S", "dit.patch_size": 2, "dit.positions": "fixed"}
    assert millions(counted("dit", (128, 128), 1, **fixed)) == pytest.approx(
        millions(network) - positions
    )


@pytest.mark.parametrize(
    ("size", "expected"), [("S", 53.8), ("B", 214.7), ("L", 381.4), ("XL", 482.6)]
)
def test_hdit_without_positions(size, expected):
    network = counted("hdit", VOLUME, 1, condition=1, **{"hdit.size": size})
    assert millions(network, without="positions") == pytest.approx(expected, rel=0.005)
    if size == "S":
        assert millions(network) - expected == pytest.approx(17.9, rel=0.005)
    assert isinstance(network, Hdit)
    assert network.token_counts == (40_960, 5_120, 640)


@pytest.mark.parametrize(
    ("size", "expected"), [("S", 44.3), ("S-Deep", 57.9), ("M", 130.1), ("L", 285.7)]
)
def test_uvit_without_time_layers(size, expected):
    sized = {"uvit.size": size, "uvit.patch_size": 2}
    network = counted("uvit", LATENT, 4, **sized)
    assert millions(network) == pytest.approx(expected, rel=0.005)
    width = UVIT_SIZES[size].width
    more = millions(counted("uvit", LATENT, 4, **sized, **{"uvit.time_mlp": True}))
    assert more - millions(network) == pytest.approx(2 * (width * width + width) / 1e6)


@pytest.mark.parametrize(
    ("kind", "plane", "volume"),
    [("unet", 0.28, 0.73), ("dit", 0.35, 0.37), ("hdit", 0.84, 0.90), ("uvit", 0.29, 0.31)],
)
def test_the_demo_is_small(kind, plane, volume):
    for size, expected in (((64, 64), plane), ((32, 32, 32), volume)):
        network = counted(kind, size, 1, condition=1)
        assert millions(network) == pytest.approx(expected, abs=0.005)


UNET_MILLIONS = {
    "demo": 0.28,
    "default": 18.50,
    "default_4lvl": 50.97,
    "default_3d": 184.37,
    "default_3d_5lvl": 184.64,
    "wdm_3d": 50.72,
}


@pytest.mark.parametrize("name", UNET_SIZES)
def test_every_size_of_the_unet_runs_in_its_dimensions(name):
    dims = 3 if "3d" in name else 2
    network = counted("unet", (64,) * dims, 1, condition=1, unet=UNET_SIZES[name])
    assert millions(network) == pytest.approx(UNET_MILLIONS[name], abs=0.005)
    with torch.device("meta"):
        x, time = torch.empty(1, 2, *(64,) * dims), torch.empty(1)
        assert network(x, time).shape == (1, 1, *(64,) * dims)


@pytest.mark.parametrize(
    ("kind", "sizes"), [("dit", DIT_SIZES), ("hdit", HDIT_SIZES), ("uvit", UVIT_SIZES)]
)
def test_sizes_of_a_transformer_fit_their_heads_and_run_in_2d_and_3d(kind, sizes):
    assert all(size.width % (2 * size.heads) == 0 for size in sizes.values())
    for dims in (2, 3):
        network = counted(kind, (16,) * dims, 1)
        with torch.device("meta"):
            x, time = torch.empty(1, 1, *(16,) * dims), torch.empty(1)
            assert network(x, time).shape == x.shape
