"""The rules of the contract, asked of diffusion in latents: of a checkpoint, of a file, and of
structured latents under encoded masks.
"""

from __future__ import annotations

import pytest
import torch

from losses.diffusion import TERMS
from settings.flat import flatten, replace
from trainables.contract.check import check
from trainables.contract.examined import Examined
from trainables.diffusion.system import Diffusion
from trainables.stepping.inputs import batch_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def examined(autoencoders, latent_file, latents, shared_cache):
    """`examined(source)`: the system as its contract is looked at."""
    of_source = {
        "checkpoint": ("vae", {"condition__mask__enabled": True, "condition__mask__dropout": 0.2}),
        "structured": (
            "structured",
            {
                "augmented_diffusion__enabled": True,
                "condition__mask__enabled": True,
                "condition__mask__enters": "encoder",
                "condition__mask__encoder": str(autoencoders("masks")),
            },
        ),
        "file": ("", {}),
    }

    def of(source):
        name, changes = of_source[source]
        settings = latents.settings(autoencoders(name) if name else latent_file, **changes)
        system = Diffusion()
        defaults = flatten(replace(system.Settings(), system.small))
        given = {k: v for k, v in flatten(settings).items() if v != defaults[k]}
        return Examined(system, shared_cache, {**given, "train.steps": 4})

    return of


@pytest.mark.slow
@pytest.mark.parametrize("source", ["checkpoint", "structured", "file"])
def test_diffusion_in_latents_keeps_the_contract(examined, source):
    assert [str(fault) for fault in check(examined(source))] == []


def test_the_regional_count_is_that_of_the_latents_values(examined):
    """A weight of 1 everywhere makes the term the mean over all values of the latents."""
    of = examined("checkpoint")
    ones = {f"loss.regional.size.{size}": 1.0 for size in ("tiny", "small", "medium", "large")}
    settings = replace(of.settings, {**ones, "loss.regional.enabled": True})
    batch = batch_of(of.system.loaders(settings, of.prepared), "train", [(0, 1), (3, 2)])
    latent = batch["latent"]
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(latent.shape, generator=generator)
    prediction = {
        "prediction": error,
        "target": torch.zeros_like(error),
        "weight": torch.ones(len(error)),
    }
    term = TERMS["regional"]
    mean = term.sum(prediction, batch, settings) / term.count(batch, settings)
    assert float(mean) == pytest.approx(float(error.square().mean()), rel=1e-5)
