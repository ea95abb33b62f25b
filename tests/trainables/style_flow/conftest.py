"""Crops as latents, small: every test of them shares one autoencoder of two steps."""

from __future__ import annotations

import pytest

from settings.flat import replace
from trainables.style_flow.system import StyleFlow

EMBEDDED = {
    "data.source": "embedded",
    "data.crop": 32,
    "data.content": "photo",
    "vae.steps": 2,
    "classifier.steps": 0,
}


@pytest.fixture(scope="session")
def embedded():
    """Settings of `style_flow` on images, changed; "__" stands for a dot."""

    def make(**changes):
        values = {key.replace("__", "."): value for key, value in changes.items()}
        return replace(StyleFlow.Settings(), {**StyleFlow.small, **EMBEDDED, **values})

    return make
