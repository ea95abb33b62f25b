"""What `profile` says of the networks of the diffusion, against the networks themselves."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from models.diffusion.build import build_network
from models.diffusion.settings import ModelSettings
from models.diffusion.transformer import Attention
from settings.flat import replace
from settings.schema import SettingsError
from trainables.diffusion.profile import network_of, tokens_of
from trainables.diffusion.system import Diffusion
from trainables.reporting.profile import kept_bytes

SYSTEM = Diffusion()


def test_every_network_is_profiled_at_every_size():
    kinds, sizes = ["unet", "dit-S/2", "dit/4", "uvit-S-Deep", "hdit-demo/2"], ["32", "64"]
    cases = SYSTEM.profile_cases(SYSTEM.Settings(), kinds, sizes)
    named = [(case["kind"], case["size"]) for case, _ in cases]
    assert named == [(kind, f"{size}x{size}") for kind, size in itertools.product(kinds, sizes)]
    by_name = {kind: tree.model for (kind, _), (_, tree) in zip(named, cases, strict=True)}
    small = by_name["dit-S/2"]
    assert (small.kind, small.dit.size, small.dit.patch_size) == ("dit", "S", 2)
    assert (by_name["dit/4"].dit.size, by_name["dit/4"].dit.patch_size) == ("demo", 4)
    assert by_name["uvit-S-Deep"].uvit.size == "S-Deep"
    (_, tree), *more = SYSTEM.profile_cases(SYSTEM.Settings(), [], [])
    assert tree == SYSTEM.Settings() and not more


def test_a_size_of_the_unet_is_the_documents():
    tree = replace(SYSTEM.Settings(), network_of("unet-default_4lvl"))
    assert tree.model.unet.widths == (128, 256, 256, 512)
    assert tree.model.unet.norm_groups == 32


@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [
        ("gan", "64", "--kinds takes unet, dit, hdit, uvit"),
        ("dit-M", "64", "dit has the sizes demo, demo-B, demo-L, S, B, L, XL, not 'M'"),
        ("unet/2", "64", "a unet has none"),
        ("dit/two", "64", "a patch is a number of cells"),
        ("dit/3", "66", "patch_size"),
        ("dit/8", "60", "multiples of 8 x 8, not 60 x 60"),
        ("dit", "32x64", "slices are square"),
    ],
)
def test_cases_that_there_are_not_are_refused(kind, size, words):
    with pytest.raises(SettingsError, match=words):
        SYSTEM.profile_cases(SYSTEM.Settings(), [kind], [size])


CASES = ("unet", "dit-demo/2", "dit-demo/4", "hdit-demo/2", "uvit-demo/4")


@pytest.mark.parametrize("spelled", CASES)
@pytest.mark.parametrize("dims", [2, 3])
def test_tokens_are_what_the_attention_sees(spelled, dims):
    changes = {key.removeprefix("model."): value for key, value in network_of(spelled).items()}
    model = replace(ModelSettings(), {"spatial_dims": dims, **changes})
    sides = (32, 16, 16)[:dims]
    network, seen = build_network(model, sides, 1), set()

    def look(module, given, output):
        x = given[0]
        seen.add(math.prod(x.shape[2:]) if x.ndim > 3 else x.shape[1])

    is_attention = ("SpatialAttentionBlock",) if model.kind == "unet" else (Attention.__name__,)
    for module in network.modules():
        if type(module).__name__ in is_attention:
            module.register_forward_hook(look)
    with torch.no_grad():
        network(torch.zeros(1, 1, *sides), torch.zeros(1))
    assert seen == set(tokens_of(model, sides))


def test_tokens_of_the_documents_hdit():
    model = replace(ModelSettings(), {"kind": "hdit", "spatial_dims": 3, "hdit.size": "S"})
    assert tokens_of(model, (128, 128, 160)) == [40960, 5120, 640]


def test_what_is_kept_for_the_backward_is_counted_once():
    """ReLU keeps its output, which the second layer keeps as its input; each layer keeps its own
    input; weights are none of it."""
    layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    x = torch.zeros(4, 16)
    assert kept_bytes(lambda: layers(x), {"layers": layers}) == 4 * (4 * 16 + 4 * 32)
    assert kept_bytes(lambda: layers(x).detach(), {}) > 4 * (4 * 16 + 4 * 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.kind": "dit", "model.dit.patch_size": 2},
        {"data.group": "dual", "condition.mask.enabled": True, "loss.regional.enabled": True},
        {"data.group": "seg", "condition.sizes.enabled": True, "condition.sizes.enters": "maps"},
        {
            "model.spatial_dims": 3,
            "data.volume_size": (8, 16, 16),
            "metric.ms_ssim": False,
            "space.kind": "wavelet",
        },
    ],
    ids=["dit", "masked", "sizes", "volumes"],
)
def test_a_step_on_noise_is_measured(changes):
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})
    measures = SYSTEM.profile_step(settings, 1)
    built = SYSTEM.build(settings, None)
    learnt = (built.modules[name] for name in ("network", "conditions") if name in built.modules)
    expected = sum(p.numel() for module in learnt for p in module.parameters())
    assert measures["parameters"] == expected
    assert tuple(measures["latent"][1:]) == settings.sides
    assert measures["latent"][0] == len(built.modules["space"].shift)
    assert measures["activations_mb"] > 0.0 and measures["step_seconds"] > 0.0


def test_a_patch_of_half_the_side_keeps_four_times_as_much():
    """Of tokens: what a block keeps grows with their number under fused attention."""
    kept = []
    for patch in (2, 4):
        changes = {"data.image_size": 32, "train.batch_size": 1, **network_of(f"dit-demo/{patch}")}
        settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})
        kept.append(SYSTEM.profile_step(settings, 1)["activations_mb"])
    assert 3.0 < kept[0] / kept[1] < 4.2
