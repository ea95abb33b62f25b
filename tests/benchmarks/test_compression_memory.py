from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.compression_memory import (
    COMPARED,
    MEASURED,
    PRESETS,
    SIDES,
    Held,
    pixels_of,
    values_of,
)
from settings.flat import flatten, replace
from trainables.system import load_system

CHANGED = {
    "checkpointing": {"model.checkpointing"},
    "no_critic": {"discriminator.enabled", "loss.adversarial.enabled"},
    "bf16": {"train.precision"},
    "pure_weights": {"model.pure_weights"},
}


@pytest.mark.parametrize("network", PRESETS)
@pytest.mark.parametrize("side", COMPARED)
def test_what_is_compared_differs_by_what_is_named_alone(network, side):
    """Such as a preset that has recomputed activations already: nothing would be measured."""
    base = COMPARED[side][0]
    defaults = load_system("compression").Settings()
    ours, peer = (
        flatten(replace(defaults, values_of(network, each, MEASURED))) for each in (side, base)
    )
    assert {key for key in ours if ours[key] != peer[key]} == CHANGED[side]
    assert set(SIDES) == {*COMPARED, "fp32"}


def test_the_documented_size_is_that_of_the_presets():
    assert pixels_of(values_of("vae_2d", "fp32", {})) == 16 * 256 * 256
    assert pixels_of(values_of("vae_3d", "fp32", {})) == 160 * 256 * 256
    assert pixels_of(values_of("vae_2d", "fp32", MEASURED)) == 2 * 96 * 96


@pytest.mark.slow
def test_what_autograd_holds_is_counted_once_and_parameters_are_not():
    """exp keeps its result, which sin keeps again, and the product keeps both of its factors, one
    of them a view of a parameter. Two graphs after each other do not add up.
    """
    held, numbers = Held(), torch.nn.Parameter(torch.ones(1000))
    for _ in range(2):
        with saved_tensors_hooks(held.pack, held.unpack):
            total = _total(numbers)
        total.backward()
    assert held.peak_bytes == 2 * 4000
    (expected,) = torch.autograd.grad(_total(numbers), numbers)
    torch.testing.assert_close(numbers.grad, 2.0 * expected)


def _total(numbers):
    return (torch.exp(2.0 * numbers).sin() * numbers.view(-1)).sum()
