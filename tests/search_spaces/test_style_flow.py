"""The spaces of style_flow: the document's tunables, and trials that can be set."""

from __future__ import annotations

import pytest

from search_spaces.style_flow import SPACES
from settings.flat import flatten, replace
from trainables.style_flow.settings import StyleFlowSettings


def test_the_full_space_has_the_documented_tunables():
    """002.B, but for the length, checkpointing and what `generate` has."""
    domains = SPACES["full"].domains
    keys = ["train.batch_size", "label_drop.share", "loss.swd.max_samples", "flow.steps"]
    keys += ["loss.ssm.max_positions", "loss.swd.weight", "loss.swd.projections", "flow.t0_low"]
    keys += ["loss.swd.patch_5", "loss.velocity.weight", "loss.divergence.weight"]
    keys += ["optimizer.lr", "optimizer.weight_decay", "train.clip_norm", "loss.swd.group"]
    assert not [key for key in keys if key not in domains]
    assert not [key for key in domains if key not in flatten(StyleFlowSettings())]


@pytest.mark.parametrize("name", SPACES)
def test_the_ends_of_every_domain_can_be_set(name):
    space = SPACES[name]
    for end in (0, -1):
        values = {key: domain.ends[end] for key, domain in space.domains.items()}
        tree = replace(StyleFlowSettings(), {**space.fixed, **values})
        assert flatten(tree).items() >= values.items()
