"""Conditions that are no images: what they make of counts and modes, and of their absence."""

from __future__ import annotations

import pytest
import torch

from models.diffusion.conditions import (
    ModeEmbedding,
    ModeSettings,
    SizeBinEmbedding,
    SizeBinMaps,
    SizeBinSettings,
)
from models.diffusion.interface import conditioned
from models.draws import draw_uniform
from settings.mri import MODALITIES
from settings.schema import SettingsError

COUNTS = torch.tensor([[0, 0, 0, 0, 0, 0, 0], [1, 0, 2, 0, 0, 0, 10], [1, 0, 2, 0, 0, 0, 14]])
SEEDS = torch.arange(3)


def bins(enters: str, **changes: object) -> SizeBinEmbedding:
    torch.manual_seed(0)
    return SizeBinEmbedding(SizeBinSettings(enters=enters, **changes), 16)


@pytest.mark.parametrize(("enters", "shape"), [("film", (3, 2, 16)), ("add", (3, 16))])
def test_counts_begin_without_effect_and_have_one_once_trained(shake, enters, shape):
    embedding = bins(enters).eval()
    output = embedding(COUNTS)
    assert output.shape == shape and not output.any()
    e = torch.randn(3, 16)
    assert torch.equal(conditioned(e, output), e)
    output = shake(embedding)(COUNTS)
    assert (output[0] - output[1]).abs().max() > 1e-3
    torch.testing.assert_close(output[1], output[2])  # 10 and 14 are both 10 or more


@pytest.mark.parametrize("enters", ["film", "add"])
def test_every_bin_has_a_table_of_its_own(shake, enters):
    embedding = shake(bins(enters)).eval()
    one_each = torch.eye(7, dtype=torch.int64)
    assert len(embedding(one_each).flatten(1).unique(dim=0)) == 7
    parameters = sum(p.numel() for p in embedding.tables.parameters())
    assert parameters == 7 * 11 * 32  # the document's
    assert embedding.layers[0].in_features == 224


@pytest.mark.parametrize("enters", ["film", "add"])
def test_not_given_is_something_else_than_no_lesion(shake, enters):
    """001-M10: the document has zeros for both."""
    embedding = shake(bins(enters)).eval()
    is_null = torch.tensor([True, True, False])
    output, given = embedding(COUNTS, is_null=is_null), embedding(COUNTS)
    torch.testing.assert_close(output[0], output[1])  # whatever the counts
    torch.testing.assert_close(output[2], given[2])
    assert (output[0] - given[0]).abs().max() > 1e-3
    output[0].sum().backward()
    assert bool((embedding.null.grad != 0).any())


def test_maps_are_constant_shares_of_the_largest_count():
    maps = SizeBinMaps(SizeBinSettings(enters="maps")).eval()
    output = maps(COUNTS, (4, 2, 3))
    assert output.shape == (3, 7, 4, 2, 3)
    expected = torch.tensor([0.1, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0])
    for sample in (1, 2):
        torch.testing.assert_close(output[sample], expected.view(7, 1, 1, 1).expand(7, 4, 2, 3))
    assert not output[0].any()
    null = maps(COUNTS, (4, 2, 3), is_null=torch.tensor([True, False, False]))
    assert bool((null[0] < 0.0).all())
    torch.testing.assert_close(null[1:], output[1:])
    null.sum().backward()
    torch.testing.assert_close(maps.null.grad, torch.full((7,), 24.0))


def conditions(dropout: float) -> dict[str, object]:
    mode = ModeEmbedding(ModeSettings(dropout=dropout), 16)
    table = SizeBinEmbedding(SizeBinSettings(dropout=dropout), 16)
    maps = SizeBinMaps(SizeBinSettings(dropout=dropout))
    counts = COUNTS[1:2].expand(400, 7)
    return {
        "mode": (mode, (torch.full((400,), 2),)),
        "size_bins": (table, (counts,)),
        "maps": (maps, (counts, (1, 1))),
    }


@pytest.mark.parametrize("enters", ["film", "add", "maps"])
def test_in_the_documents_form_not_given_is_no_lesion(shake, enters):
    """001-M10."""
    is_null, sizes = torch.tensor([True, True, False]), ((4,) if enters == "maps" else ())
    if enters == "maps":
        embedding = SizeBinMaps(SizeBinSettings(enters=enters, null="zeros")).eval()
    else:
        embedding = shake(bins(enters, null="zeros")).eval()
    output = embedding(COUNTS, *[sizes][: len(sizes)], is_null=is_null)
    given = embedding(COUNTS, *[sizes][: len(sizes)])
    assert torch.equal(output[0], given[0]) and torch.equal(output[1], given[0])
    assert torch.equal(output[2], given[2]) and not torch.equal(given[2], given[0])
    assert "null" not in dict(embedding.named_parameters())


@pytest.mark.parametrize("name", ["mode", "size_bins", "maps"])
def test_dropout_is_drawn_by_the_seeds_in_training_alone(shake, name):
    condition, inputs = conditions(0.3)[name]
    shake(condition, 0.3)
    seeds = torch.arange(400)
    given = condition.eval()(*inputs).flatten(1)
    null = condition(*inputs, is_null=torch.ones(400, dtype=torch.bool)).flatten(1)
    assert not torch.allclose(given[0], null[0])
    assert torch.equal(condition(*inputs, seeds).flatten(1), given)
    output = condition.train()(*inputs, seeds).flatten(1)
    stream = "condition.mode" if name == "mode" else "condition.size_bins"
    is_null = draw_uniform(seeds, stream) < 0.3
    assert 0.2 < float(is_null.float().mean()) < 0.4
    torch.testing.assert_close(output, torch.where(is_null[:, None], null, given))
    with pytest.raises(ValueError, match="draws from the seeds"):
        condition(*inputs)
    order = torch.randperm(400)
    again = condition(
        *(part[order] if part is inputs[0] else part for part in inputs), seeds[order]
    )
    torch.testing.assert_close(again.flatten(1), output[order])


@pytest.mark.parametrize("name", ["mode", "size_bins", "maps"])
def test_what_is_left_out_by_hand_stays_out_of_training_too(shake, name):
    condition, inputs = conditions(0.3)[name]
    shake(condition, 0.3)
    everything = torch.ones(400, dtype=torch.bool)
    output = condition.train()(*inputs, torch.arange(400), everything).flatten(1)
    torch.testing.assert_close(output, output[:1].expand_as(output))
    free, inputs = conditions(0.0)[name]
    assert torch.equal(free.train()(*inputs), free.eval()(*inputs))


def test_every_mode_has_an_embedding_and_so_has_none():
    embedding = ModeEmbedding(ModeSettings(), 16).eval()
    ids = torch.tensor([0, 1, 2, 3, 0])
    is_null = torch.tensor([False] * 4 + [True])
    assert len(MODALITIES) == 4
    assert len(embedding(ids, is_null=is_null).unique(dim=0)) == 5
    with pytest.raises(IndexError):
        embedding(torch.tensor([5]))


@pytest.mark.parametrize("counts", [COUNTS[:, 1:], COUNTS.float(), COUNTS[0]])
def test_other_counts_are_refused(counts):
    for condition in (bins("film").eval(), SizeBinMaps(SizeBinSettings()).eval()):
        with pytest.raises(ValueError, match=r"whole numbers \[B, 7\]"):
            condition(counts, *([] if isinstance(condition, SizeBinEmbedding) else [(2, 2)]))


@pytest.mark.parametrize("edges", [(), (0.0, 3.0, 3.0)])
def test_edges_that_do_not_rise_are_refused(edges):
    with pytest.raises(SettingsError, match="edges_mm"):
        SizeBinSettings(edges_mm=edges)
