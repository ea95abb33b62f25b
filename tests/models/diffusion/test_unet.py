"""The UNet against the library's own forward, and what is set where the library's defaults are
slow.
"""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.blocks import SABlock
from monai.networks.nets import DiffusionModelUNet


@pytest.mark.parametrize("dims", [2, 3])
def test_without_an_embedding_it_is_the_librarys(make, shake, inputs, dims):
    network = shake(make("unet", dims, **{"unet.widths": (8, 16, 16), "unet.res_blocks": 2}))
    given = inputs(network)
    expected = DiffusionModelUNet.forward(network, given["x"], 1000.0 * given["time"])
    found = network(given["x"], given["time"])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_embedding_is_added_as_that_of_a_class_is_in_the_library(make, shake, inputs, dims):
    network = shake(make("unet", dims))
    given = inputs(network)
    network.num_class_embeds = 2
    network.class_embedding = torch.nn.Embedding.from_pretrained(given["embedding"])
    time = 1000.0 * given["time"]
    expected = DiffusionModelUNet.forward(network, given["x"], time, None, torch.tensor([0, 1]))
    torch.testing.assert_close(network(**given), expected, atol=1e-6, rtol=0.0)


def test_attention_is_fused_and_has_heads_of_the_set_width(make):
    network = make("unet", 2, **{"unet.widths": (8, 16, 32), "unet.attention": 2})
    attentions = [module for module in network.modules() if isinstance(module, SABlock)]
    # after 1 block of each level down, 2 up, and in the middle
    assert len(attentions) == 2 * 3 + 1
    assert all(attention.use_flash_attention for attention in attentions)
    assert {attention.dim_head for attention in attentions} == {8}
    assert {attention.num_heads for attention in attentions} == {2, 4}


@pytest.mark.parametrize("levels", [0, 1])
def test_attention_is_at_the_coarsest_levels(make, levels):
    network = make("unet", 2, **{"unet.widths": (8, 16, 16), "unet.attention": levels})
    attended = [hasattr(block, "attentions") for block in network.down_blocks]
    assert attended == [False, False, levels == 1]


def test_a_frozen_copy_gives_the_same_digits(make, one_thread):
    """As a moving average is one: torch's product of a transposed view by a weight depends on
    whether the weight requires a gradient, even where none is computed.
    """
    changes = {"unet.widths": (8, 8), "unet.norm_groups": 4, "unet.head_width": 8}
    network = make("unet", 2, **changes).eval()
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frozen = copy.deepcopy(network).requires_grad_(False)
    x, t = torch.randn(12, network.in_channels, 16, 16), torch.rand(12)
    with torch.no_grad():
        assert torch.equal(network(x, t), frozen(x, t))
