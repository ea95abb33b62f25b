"""What every network of the diffusion promises, whatever its kind and its number of dimensions."""

from __future__ import annotations

import copy

import pytest
import torch

from models.diffusion.build import CLASSES, build_network
from models.diffusion.interface import PLACES, combined, conditioned, joined
from models.diffusion.settings import KINDS, ModelSettings
from settings.flat import replace
from settings.schema import SettingsError

SORTS = [(kind, dims) for kind in KINDS for dims in (2, 3)]
every_sort = pytest.mark.parametrize(("kind", "dims"), SORTS, ids=[f"{k}_{d}d" for k, d in SORTS])

CROSS = {"dit.conditioning": "cross_attn"}
SORTS_AND_CROSS = [(kind, dims, {}) for kind, dims in SORTS] + [
    ("dit", dims, CROSS) for dims in (2, 3)
]
every_way = pytest.mark.parametrize(
    ("kind", "dims", "changes"),
    SORTS_AND_CROSS,
    ids=[f"{k}_{d}d{'_cross' * bool(c)}" for k, d, c in SORTS_AND_CROSS],
)


def test_kinds_are_those_that_can_be_built():
    assert tuple(CLASSES) == KINDS


@every_way
@pytest.mark.parametrize("channels", [1, 3])
def test_a_prediction_has_the_shape_of_what_is_diffused(
    make, inputs, kind, dims, changes, channels
):
    network = make(kind, dims, channels, condition=2, **changes)
    crosses = bool(changes)
    assert network.dimensions == dims and network.out_channels == channels
    assert network.in_channels == channels + (0 if crosses else 2)
    assert network.context_channels == (2 if crosses else 0)
    given = inputs(network)
    prediction = network(**given)
    assert prediction.shape == (2, channels, *given["x"].shape[2:])
    assert prediction.dtype == torch.float32
    assert (network.size is None) == (kind == "unet")


@every_way
def test_everything_that_is_given_moves_the_prediction(make, shake, inputs, kind, dims, changes):
    """Each sample's by its own alone."""
    network, given = shake(make(kind, dims, **changes)).eval(), None
    given = inputs(network)
    before = network(**given)
    for name, value in given.items():
        if value is None:
            continue
        moved = value.clone()
        moved[1] = 1.0 - moved[1]
        after = network(**{**given, name: moved})
        torch.testing.assert_close(after[0], before[0], msg=name)
        assert (after[1] - before[1]).abs().max() > 1e-3, name


@every_sort
def test_scale_and_shift_modulate_where_a_vector_is_added(make, shake, inputs, kind, dims):
    network = shake(make(kind, dims))
    given = inputs(network)
    shift = given["embedding"]
    added = network(**given)
    film = torch.stack([torch.zeros_like(shift), shift], dim=1)
    torch.testing.assert_close(network(**{**given, "embedding": film}), added)
    film[:, 0] = 0.7
    assert (network(**{**given, "embedding": film}) - added).abs().max() > 1e-3
    nothing = network(**{**given, "embedding": torch.zeros_like(shift)})
    torch.testing.assert_close(network(**{**given, "embedding": None}), nothing)


def tensors_kept(network, given):
    """The prediction, and how many tensors wait for its backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        return network(**given), len(kept)


@every_way
def test_checkpointing_changes_neither_the_prediction_nor_a_gradient(
    make, shake, inputs, kind, dims, changes
):
    outcomes = []
    for checkpointing in (False, True):
        network = shake(make(kind, dims, checkpointing=checkpointing, **changes)).train()
        given = inputs(network)
        given["x"].requires_grad_()
        prediction, kept = tensors_kept(network, given)
        prediction.square().sum().backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        outcomes.append((prediction, {**gradients, "x": given["x"].grad}, kept))
    (plain, gradients, all_kept), (recomputed, again, few_kept) = outcomes
    torch.testing.assert_close(recomputed, plain)
    assert all(gradient is not None for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-4, rtol=1e-3, msg=name)
    assert few_kept < 0.5 * all_kept


@every_sort
def test_a_batch_is_learnt_in_some_steps(make, kind, dims):
    """Pixel by pixel: what knows the mean alone keeps all of the loss."""
    network = make(kind, dims, condition=1).train()
    generator = torch.Generator().manual_seed(2)
    sides = (8, 16, 8)[:dims]
    x = torch.randn(2, 2, *sides, generator=generator)
    target = -x[:, :1]
    time = torch.tensor([0.2, 0.9])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = (network(x, time) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]


@every_way
def test_half_precision_is_near(make, shake, inputs, kind, dims, changes):
    network = shake(make(kind, dims, **changes))
    given = inputs(network)
    exact = network(**given)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(**given)
    pure = copy.deepcopy(network).bfloat16()(**given)
    for name, rough in {"mixed": mixed, "pure": pure}.items():
        assert rough.dtype == torch.float32
        error = (rough - exact).square().mean().sqrt() / exact.std()
        assert error < 0.05, name


@every_sort
def test_other_shapes_are_refused(make, inputs, kind, dims):
    network = make(kind, dims)
    given = inputs(network)
    x = given["x"]
    wrong = {
        "takes images": {"x": x[:, :1]},
        "one number a sample": {"time": given["time"][:1]},
        "embedding_width": {"embedding": given["embedding"][:, 1:]},
        "context of this network": {"context": x[:, :1]},
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            network(**{**given, **changes})
    with pytest.raises(ValueError, match="takes images"):
        network(**{**given, "x": x[..., 1:]})
    with pytest.raises(ValueError, match="takes images"):
        network(**{**given, "x": x[..., None]})


@pytest.mark.parametrize(
    ("kind", "size"),
    [("unet", (8, 9)), ("dit", (8, 10)), ("hdit", (8, 6)), ("uvit", (6, 8)), ("unet", (8, 8, 8))],
)
def test_sizes_that_cannot_be_divided_are_refused(kind, size):
    settings = replace(ModelSettings(), {"kind": kind, "unet.widths": (32, 32)})
    with pytest.raises(SettingsError, match="multiples of"):
        build_network(settings, size, 1)


def test_cross_attention_needs_something_to_attend_to():
    settings = replace(ModelSettings(), {"kind": "dit", **CROSS})
    with pytest.raises(SettingsError, match="use concat"):
        build_network(settings, (8, 8), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"hdit.level_depths": (2, 2)},
        {"unet.norm_groups": 5},
        {"unet.head_width": 24},
        {"unet.widths": ()},
    ],
)
def test_settings_that_fit_no_network_are_refused(changes):
    with pytest.raises(SettingsError, match=f"model.{next(iter(changes))}"):
        replace(ModelSettings(), changes)


def test_embeddings_are_combined_as_one_after_the_other_where_one_has_a_scale():
    e, added, more = torch.randn(3, 4, 5)
    film = torch.randn(4, 2, 5)
    torch.testing.assert_close(conditioned(e, combined([added, more])), e + added + more)
    torch.testing.assert_close(
        conditioned(e, combined([added, film, more])),
        e * (1.0 + film[:, 0]) + film[:, 1] + added + more,
    )
    assert combined([]) is None
    assert conditioned(e, None) is e


@pytest.mark.parametrize("changes", [{}, CROSS], ids=["concat", "cross_attn"])
def test_a_condition_goes_where_the_network_takes_it(make, changes):
    network = make("dit", 2, condition=2, **changes)
    noisy, condition = torch.randn(2, 1, 8, 16), torch.randn(2, 2, 8, 16)
    x, context = joined(noisy, condition, network)
    assert network(x, torch.rand(2), context=context).shape == noisy.shape
    assert torch.equal(x[:, :1], noisy)
    assert torch.equal(context if changes else x[:, 1:], condition)
    assert joined(noisy, None, network) == (noisy, None)


@every_sort
def test_features_are_perturbed_at_every_place(make, shake, inputs, kind, dims):
    """Where nothing is added nothing moves; a push at one place alone moves the prediction, and of
    its own sample alone.
    """
    network = shake(make(kind, dims)).eval()
    given, called = inputs(network), []

    def pushed(place):
        def perturb(name, features):
            called.append(name)
            push = torch.zeros_like(features)
            push[0] = 0.5 * torch.cos(torch.arange(push[0].numel())).view_as(push[0])
            return features + push if name == place else features

        return network(**given, perturb=perturb)

    plain = network(**given)
    assert torch.equal(pushed("none"), plain)
    assert list(dict.fromkeys(called)) == list(PLACES)  # on the way, in this order
    assert called.count("middle") == 1
    for place in PLACES:
        moved = pushed(place)
        assert (moved[0] - plain[0]).abs().max() > 1e-4
        torch.testing.assert_close(moved[1:], plain[1:], rtol=0.0, atol=1e-6)
