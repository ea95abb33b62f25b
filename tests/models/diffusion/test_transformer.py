"""Parts of the transformers against their formulas by loops, and what their papers promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.diffusion.hdit import neighbours, spread
from models.diffusion.transformer import (
    Attention,
    DitBlock,
    DropPath,
    Positions,
    drop_path_shares,
    patchify,
    sincos_positions,
    unpatchify,
)


@pytest.mark.parametrize("grid", [(3, 2), (2, 3, 2)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_by_loops(grid, patch):
    x = torch.randn(2, 3, *(patch * side for side in grid))
    tokens = patchify(x, patch)
    for token, place in enumerate(itertools.product(*map(range, grid))):
        cut = tuple(slice(patch * p, patch * (p + 1)) for p in place)
        assert torch.equal(tokens[:, token], x[(slice(None), slice(None), *cut)].flatten(1))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=3), st.sampled_from([1, 2, 4]),
    st.integers(1, 3),
)  # fmt: skip
def test_unpatchify_is_the_inverse(grid, patch, channels):
    x = torch.randn(2, channels, *(patch * side for side in grid))
    assert torch.equal(unpatchify(patchify(x, patch), grid, patch), x)


@pytest.mark.parametrize("grid", [(4, 6), (2, 4, 6)])
def test_neighbours_become_one_token_and_come_back(grid):
    tokens = torch.randn(2, math.prod(grid), 3)
    merged = neighbours(tokens, grid)
    coarse = tuple(side // 2 for side in grid)
    of_place = tokens.unflatten(1, grid)
    for token, place in enumerate(itertools.product(*map(range, coarse))):
        corners = itertools.product(*((2 * p, 2 * p + 1) for p in place))
        expected = torch.stack([of_place[(slice(None), *corner)] for corner in corners], dim=2)
        assert torch.equal(merged[:, token], expected.flatten(1))
    assert torch.equal(spread(merged, coarse), tokens)


@pytest.mark.parametrize(
    ("grid", "width", "counts"),
    [((3, 4), 12, (3, 3)), ((2, 3, 4), 16, (3, 3, 2)), ((2, 3, 4), 24, (4, 4, 4))],
)
def test_positions_by_loops(grid, width, counts):
    found = sincos_positions(grid, width)
    for token, place in enumerate(itertools.product(*map(range, grid))):
        expected = []
        for p, count in zip(place, counts, strict=True):
            angles = [p / 10000.0 ** (i / count) for i in range(count)]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        np.testing.assert_allclose(found[token].numpy(), expected, atol=1e-6)
    assert len(found.unique(dim=0)) == len(found)


def test_positions_are_trained_or_fixed():
    trained, fixed = (Positions((2, 2), 8, kind) for kind in ("learned", "fixed"))
    tokens = torch.randn(1, 4, 8)
    assert torch.equal(trained(tokens), fixed(tokens))
    assert [name for name, _ in trained.named_parameters()] == ["table"]
    assert not list(fixed.parameters()) and not fixed.state_dict()
    with pytest.raises(ValueError, match="even width"):
        sincos_positions((2, 2), 7)


@pytest.mark.parametrize("crosses", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_by_its_formula(qk_norm, crosses):
    torch.manual_seed(0)
    heads, width = 2, 8
    attention = Attention(width, heads, qk_norm=qk_norm)
    tokens, context = torch.randn(2, 3, width), torch.randn(2, 5, width)
    source = context if crosses else tokens
    query = attention.query(tokens)
    key, value = attention.key_value(source).split(width, dim=-1)
    expected = torch.zeros(2, 3, width)
    for head in range(heads):
        part = slice(4 * head, 4 * (head + 1))
        q, k = query[..., part], key[..., part]
        if qk_norm:
            q, k = ((x - x.mean(-1, keepdim=True)) for x in (q, k))
            q, k = (x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(4), dim=-1)
        expected[..., part] = weights @ value[..., part]
    found = attention(tokens, context if crosses else None)
    torch.testing.assert_close(found, attention.out(expected))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_qk_norm_takes_the_scale_of_queries_and_keys_away(qk_norm):
    torch.manual_seed(0)
    attention = Attention(8, 2, qk_norm=qk_norm)
    tokens = torch.randn(2, 5, 8)
    before = attention(tokens)
    with torch.no_grad():
        attention.query.weight *= 50.0
        attention.query.bias *= 50.0
        attention.key_value.weight[:8] *= 50.0
        attention.key_value.bias[:8] *= 50.0
    assert torch.allclose(attention(tokens), before, atol=1e-4) == qk_norm


@pytest.mark.parametrize("kind", ["dit", "hdit", "uvit"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_qk_norm_is_where_it_is_set(make, kind, qk_norm):
    network = make(kind, 2, **{f"{kind}.qk_norm": qk_norm})
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    assert attentions
    for attention in attentions:
        for norm in (attention.query_norm, attention.key_norm):
            assert isinstance(norm, torch.nn.LayerNorm) == qk_norm
    assert (attentions[0].query.bias is None) == (kind == "uvit")


def test_dit_has_the_gelu_of_its_paper_and_uvit_the_exact_one(make):
    x = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)
    by_tanh = 0.5 * x * (1.0 + (math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)).tanh())
    exact = 0.5 * x * (1.0 + (x / math.sqrt(2.0)).erf())
    for block, expected in ((make("dit", 2).blocks[0], by_tanh), (make("uvit", 2).middle, exact)):
        widen, gelu, narrow = block.feed_forward
        assert widen.out_features == narrow.in_features == 4 * widen.in_features
        torch.testing.assert_close(gelu(x), expected, atol=1e-12, rtol=0.0)
    assert (by_tanh - exact).abs().max() > 1e-4


def test_drop_path_leaves_out_a_share_and_keeps_the_mean():
    torch.manual_seed(0)
    gate, branch = DropPath(0.25).train(), torch.ones(20_000, 2, 3)
    found = gate(branch)
    assert set(found.unique().tolist()) == {0.0, float(torch.tensor(1.0) / torch.tensor(0.75))}
    assert torch.equal(found, found[:, :1, :1].expand_as(found))
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)  # 5 standard errors
    assert torch.equal(gate.eval()(branch), branch)


@pytest.mark.parametrize("crosses", [False, True])
def test_drop_path_is_on_every_branch_of_a_block(shake, crosses):
    block = shake(DitBlock(8, 2, qk_norm=True, drop_path=1.0, crosses=crosses)).train()
    tokens, e, context = torch.randn(2, 3, 8), torch.randn(2, 8), torch.randn(2, 5, 8)
    inputs = (tokens, e, context if crosses else None)
    assert torch.equal(block(*inputs), tokens)
    assert not torch.allclose(block.eval()(*inputs), tokens, atol=1e-3)


def test_drop_path_grows_linearly():
    assert drop_path_shares(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert drop_path_shares(0.3, 1) == [0.0]


@pytest.mark.parametrize("kind", ["dit", "hdit"])
def test_drop_path_is_off_in_evaluation_and_on_in_training(make, shake, inputs, kind):
    plain = shake(make(kind, 2)).train()
    network = shake(make(kind, 2, **{f"{kind}.drop_path": 0.8})).train()
    given = inputs(network)
    torch.manual_seed(0)
    draws = [network(**given) for _ in range(3)]
    assert any(not torch.allclose(draw, draws[0], atol=1e-4) for draw in draws[1:])
    assert torch.equal(network.eval()(**given), plain(**given))
    shares = [m.gate.p for m in network.modules() if isinstance(m, DropPath)]
    assert shares == pytest.approx(drop_path_shares(0.8, len(shares)))


def test_drop_path_is_recomputed_as_it_was_drawn(make, shake, inputs):
    gradients = []
    for checkpointing in (False, True):
        changes = {"dit.drop_path": 0.8, "checkpointing": checkpointing}
        network = shake(make("dit", 2, **changes)).train()
        torch.manual_seed(0)
        network(**inputs(network)).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("crosses", [False, True])
def test_a_block_begins_as_the_identity_and_learns_by_its_gates(crosses):
    block = DitBlock(8, 2, qk_norm=True, crosses=crosses)
    tokens, e, context = torch.randn(2, 3, 8), torch.randn(2, 8), torch.randn(2, 5, 8)
    output = block(tokens, e, context if crosses else None)
    assert torch.equal(output, tokens)
    output.square().sum().backward()
    gates = block.modulation.weight.grad.view(6, 8, 8).abs().amax(dim=(1, 2))
    assert [bool(g > 0) for g in gates] == [False, False, True, False, False, True]
    if crosses:
        assert bool((block.cross.out.weight.grad != 0).any())


@pytest.mark.parametrize("kind", ["dit", "hdit"])
def test_the_prediction_begins_at_zero(make, inputs, kind):
    network = make(kind, 2)
    assert not network(**inputs(network)).any()


def test_patches_are_a_set_but_for_their_positions(make, shake, inputs):
    network = shake(make("dit", 2)).eval()
    given = inputs(network)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))

    def mixed(x: torch.Tensor) -> torch.Tensor:
        return unpatchify(patchify(x, 4)[:, order], (2, 4), 4)

    predicted = mixed(network(**given))
    of_mixed = network(**{**given, "x": mixed(given["x"])})
    assert not torch.allclose(predicted, of_mixed, atol=1e-3)
    torch.nn.init.zeros_(network.positions.table)
    predicted = mixed(network(**given))
    of_mixed = network(**{**given, "x": mixed(given["x"])})
    torch.testing.assert_close(predicted, of_mixed)


def test_what_is_attended_to_has_positions_too(make, shake, inputs):
    network = shake(make("dit", 2, **{"dit.conditioning": "cross_attn"})).eval()
    given = inputs(network)
    rolled = {**given, "context": given["context"].roll(4, dims=3)}  # by a patch
    assert not torch.allclose(network(**given), network(**rolled), atol=1e-4)
    torch.nn.init.zeros_(network.positions.table)
    torch.testing.assert_close(network(**given), network(**rolled))


def heard(modules: list[torch.nn.Module]) -> list[tuple]:
    """Fills with the (inputs, output) of every module in turn, as they are called."""
    calls: list[tuple] = []
    for module in modules:
        module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    return calls


def test_what_a_block_of_uvit_returns_joins_its_mirror(make, shake, inputs):
    network = shake(make("uvit", 2))
    calls = heard([*network.down, network.middle, *network.up])
    network(**inputs(network))
    outputs = [output for _, output in calls]
    assert len(outputs) == 5
    for block in (3, 4):
        tokens, skip = calls[block][0]
        assert tokens is outputs[block - 1] and skip is outputs[4 - block]


def test_what_leaves_a_level_of_hdit_joins_it_on_the_way_up(make, shake, inputs):
    depths = {"hdit.level_depths": (2, 1, 1, 1, 2)}
    network = shake(make("hdit", 2, **depths))
    last_blocks = heard([level[-1] for level in network.levels])
    skips = heard(list(network.skips))
    network(**inputs(network))
    width = network.embedding_width
    for call, ((joined,), _) in enumerate(skips):
        level = 1 - call
        assert joined.shape[1] == network.token_counts[level]
        assert torch.equal(joined[..., width:], last_blocks[level][1])
