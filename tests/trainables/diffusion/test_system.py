"""Diffusion of slices: its pairs, its standardisation, what judges it, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from metrics.diffusion import LEVELS, TIME_BINS
from search.guard import check_objective
from search_spaces.diffusion import NETWORK, STRATEGY
from settings.flat import replace
from settings.schema import SettingsError
from trainables.diffusion.forward import noised, times
from trainables.diffusion.prediction import strategy_of
from trainables.diffusion.samples import PAIRS, WithCounts, size_counts
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.system import Diffusion
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.stepping.inputs import batch_of

SYSTEM = Diffusion()
STRATEGIES = (
    {"strategy.kind": "rflow"},
    {"strategy.kind": "ddpm"},
    {"strategy.kind": "ddpm", "strategy.ddpm.prediction": "v"},
)
SPACES = ("pixel", "space_to_depth", "wavelet")


def named(changes):
    return {key.replace("__", "."): value for key, value in changes.items()}


def small(**changes):
    return replace(SYSTEM.Settings(), {**SYSTEM.small, **named(changes)})


def made(cache, **changes):
    settings = small(**changes)
    prepared = SYSTEM.prepare(settings, cache)
    return settings, prepared, SYSTEM.loaders(settings, prepared)


# Pairs


def test_a_pair_has_the_log_snr_of_its_level_under_every_strategy(shared_cache):
    _, _, loaders = made(shared_cache)
    batch = batch_of(loaders, "validation", list(range(2 * PAIRS)))
    by_level = batch["level"] >= 0
    assert by_level.tolist() == ([True] * len(LEVELS) + [False]) * 2
    for changes in STRATEGIES:
        strategy = strategy_of(replace(small(), changes))
        t = times(strategy, batch)
        found = strategy.log_snr(t[by_level])
        expected = torch.tensor(LEVELS * 2, dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0.0)
        middles = (batch["bin"][~by_level].float() + 0.5) / TIME_BINS
        torch.testing.assert_close(t[~by_level], middles)


def test_all_time_bins_are_looked_at_and_the_noise_stays(shared_cache):
    settings, prepared, loaders = made(shared_cache)
    bins = {int(loaders.validation[i]["bin"]) for i in range(len(loaders.validation))}
    assert bins == {-1, *range(TIME_BINS)}
    space = prepared.space(settings.space)
    again = [
        noised(space, batch_of(loaders, "validation", keys), settings)["noisy"]
        for keys in ([3, 4, 5], [5, 4, 3])
    ]
    assert torch.equal(again[0], again[1].flip(0))
    assert not torch.equal(again[0][0], again[0][1])


def test_the_noise_of_a_pair_is_that_of_every_strategy_and_prediction(shared_cache):
    """At one log-SNR they are given the same x_t / alpha, so that their errors compare."""
    _, prepared, loaders = made(shared_cache)
    batch = batch_of(loaders, "validation", [0, 2, 4])
    scaled = []
    for changes in STRATEGIES:
        settings = replace(small(), changes)
        given = noised(prepared.space(settings.space), batch, settings)
        alpha = strategy_of(settings).coefficients(given["t"]).alpha.float()
        scaled.append(given["noisy"] / alpha.view(-1, 1, 1, 1))
    for other in scaled[1:]:
        torch.testing.assert_close(scaled[0], other, atol=1e-3, rtol=1e-3)


def test_training_times_are_those_of_the_seeds(shared_cache):
    _, _, loaders = made(shared_cache)
    strategy = strategy_of(small())
    batch = batch_of(loaders, "train", [(0, 5), (0, 6), (1, 5)])
    t = times(strategy, batch)
    assert t[0] == t[2] != t[1]
    assert torch.equal(t, strategy.draw_times(batch["seed"]))


# Standardisation


@pytest.mark.parametrize("kind", SPACES)
def test_the_training_split_is_standardised_and_the_moments_are_stored(shared_cache, kind):
    settings, prepared, loaders = made(shared_cache, space__kind=kind)
    space = prepared.space(settings.space)
    images = torch.stack([loaders.train.read(i)["image"] for i in range(len(loaders.train))])
    values = space.encode(images).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(values.mean(dim=1), torch.zeros(len(values)).double(), atol=1e-5,
                               rtol=0.0)  # fmt: skip
    deviation = values.std(dim=1, correction=0)
    torch.testing.assert_close(deviation, torch.ones(len(values)).double(), atol=1e-4, rtol=0.0)
    assert settings.sides == tuple(values.shape[1:]) or settings.sides == space.size_of((16, 16))
    built = SYSTEM.build(settings, prepared)
    again = SYSTEM.rebuild(settings, json.loads(json.dumps(built.meta)))
    again.modules["space"].load_state_dict(built.modules["space"].state_dict())
    torch.testing.assert_close(again.modules["space"].decode(space.encode(images)), images)


def test_a_checkpoint_holds_the_network_the_moments_and_no_more(shared_cache, tmp_path):
    """Bytes within 5 % of the network's (the tensors alone)."""
    settings, prepared, _ = made(
        shared_cache, train__steps=1, train__report_every=1, train__tensorboard=False,
        train__figures=False, train__test=False,
    )  # fmt: skip
    fit(SYSTEM, settings, LocalRun(tmp_path), prepared)
    (path,) = (tmp_path / "checkpoints").glob("step-*/modules.safetensors")
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        shift = file.get_tensor("module.space.shift")
    assert {name.split(".")[1] for name in names} == {"network", "space"}
    assert float(shift) == pytest.approx(prepared.moments["pixel"]["voxels"][0][0], rel=1e-6)
    network = SYSTEM.build(settings, prepared).modules["network"]
    bytes_of_network = 4 * sum(p.numel() for p in network.parameters())
    assert path.stat().st_size <= 1.05 * bytes_of_network + 20_000  # names and shapes


# Judges


def test_strategies_are_judged_by_the_clean_estimate_alone():
    settings = DiffusionSettings()
    metrics = SYSTEM.metrics(settings, None)
    terms = SYSTEM.phases(settings, None)[0].composite.terms
    for space in (STRATEGY, NETWORK):
        check_objective(["val.denoising_mse"], metrics, terms, space.domains)
    for column in ("val.prediction_mse", "val.loss.mse", "val.prediction_mse_t3"):
        with pytest.raises(SettingsError, match=r"strategy\."):
            check_objective([column], metrics, terms, STRATEGY.domains)
        check_objective([column], metrics, terms, NETWORK.domains)
    with pytest.raises(SettingsError, match=r"space\."):
        check_objective(["val.denoising_mse"], metrics, terms, {"space.kind"})


# Lesions by size


def test_counts_are_those_of_the_mask_that_is_shown(shared_cache):
    edges = (0.0, 10.0, 20.0)
    assert size_counts([0.0, 9.9, 10.0, 35.0, 35.0], edges).tolist() == [2, 1, 2]
    mask = torch.zeros(1, 32, 32)
    mask[0, 2:4, 2:4] = 1.0  # some 2 mm
    mask[0, 10:26, 20:22] = 1.0  # some 16 mm
    sample = {"mask": mask, "spacing": torch.ones(2)}
    counted = WithCounts([sample], edges, least=1)[0]["counts"]
    assert counted.tolist() == [1, 1, 0] and counted.dtype == torch.int64
    assert WithCounts([sample], edges, least=5)[0]["counts"].tolist() == [0, 1, 0]


# Conditions


@pytest.mark.parametrize(
    ("changes", "channels", "extra"),
    [
        ({"condition.mask.enabled": True}, 2, 0),
        ({"data.group": "dual", "condition.mask.enabled": True}, 3, 0),
        ({"data.group": "seg"}, 1, 0),
        ({"data.group": "seg", "condition.sizes.enabled": True}, 1, 1),
        (
            {
                "data.group": "seg",
                "condition.sizes.enabled": True,
                "condition.sizes.enters": "maps",
            },
            8,
            1,
        ),
        (
            {
                "data.group": "multi_modality",
                "condition.mode.enabled": True,
                "condition.mask.enabled": True,
            },
            2,
            1,
        ),
        ({"condition.mask.enabled": True, "space.kind": "space_to_depth"}, 8, 0),
    ],
    ids=["bravo", "dual", "seg", "seg_conditioned", "seg_conditioned_input", "multi", "depth"],
)
def test_modes_have_their_channels_and_the_condition_is_heard(
    shared_cache, changes, channels, extra
):
    settings = replace(small(), changes)
    prepared = SYSTEM.prepare(settings, shared_cache)
    loaders = SYSTEM.loaders(settings, prepared)
    torch.manual_seed(0)
    modules = SYSTEM.build(settings, prepared).modules
    assert modules["network"].in_channels == channels
    assert ("conditions" in modules) == bool(extra)
    for parameter in modules["network"].parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # the last layers begin with zeros
    if extra:
        for parameter in modules["conditions"].parameters():
            torch.nn.init.normal_(parameter)
    for module in modules.values():
        module.eval()
    phase = SYSTEM.phases(settings, prepared)[0]
    batch = batch_of(loaders, "validation", [0, 2, 6])
    heard = {"mask", "counts", "modality"} if changes != {"data.group": "seg"} else set()
    with torch.no_grad():
        before = phase.forward(modules, batch, settings)["prediction"]
        assert before.shape[0] == 3
        others = {}
        for key in heard & batch.keys():
            value = 1 - batch[key] if key == "mask" else (batch[key] + 1) % 4
            others[key] = phase.forward(modules, {**batch, key: value}, settings)["prediction"]
    reads = {
        "mask": settings.condition.mask.enabled,
        "counts": settings.condition.sizes.enabled,
        "modality": settings.condition.mode.enabled,
    }
    for key, after in others.items():
        assert torch.equal(before, after) != reads[key], key


def test_a_mask_that_is_not_given_is_no_empty_mask(shared_cache):
    settings, prepared, loaders = made(
        shared_cache, condition__mask__enabled=True, condition__mask__dropout=1.0
    )
    modules = SYSTEM.build(settings, prepared).modules
    for parameter in modules["network"].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    phase = SYSTEM.phases(settings, prepared)[0]
    batch = batch_of(loaders, "train", [(0, 1), (1, 2)])
    masks = [torch.zeros_like(batch["mask"]), torch.ones_like(batch["mask"])]
    predicted = {}
    for training in (True, False):
        modules["network"].train(training)
        with torch.no_grad():
            predicted[training] = [
                phase.forward(modules, {**batch, "mask": mask}, settings)["prediction"]
                for mask in masks
            ]
    assert torch.equal(*predicted[True]), "none is given in training"
    assert not torch.equal(*predicted[False])
    assert not torch.equal(predicted[True][0], predicted[False][0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__group": "seg", "condition__mask__enabled": True}, "masks themselves"),
        ({"data__group": "multi_modality"}, "condition.mode.enabled"),
        ({"condition__sizes__enabled": True}, "data.group=bravo has images"),
        ({"condition__mode__enabled": True}, "which modality"),
        (
            {
                "condition__mask__enabled": True,
                "data__source": "folder",
                "data__root": "patients",
            },
            "data.require_seg=true",
        ),
        ({"sampling__guidance__start": 2.0}, "dropout"),
        (
            {
                "condition__mask__enabled": True,
                "sampling__guidance__start": 2.0,
            },
            "dropout is 0",
        ),
        ({"data__image_size": 17}, "multiples"),
        ({"data__image_size": 15, "space__kind": "wavelet"}, "multiples"),
        ({"model__kind": "dit", "model__dit__conditioning": "cross_attn"}, "cross_attn"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, words):
    with pytest.raises(SettingsError, match=words):
        small(**changes)


def test_guidance_is_allowed_where_the_condition_was_left_out_at_times():
    settings = small(
        condition__mask__enabled=True, condition__mask__dropout=0.1, sampling__guidance__start=2.0
    )
    assert settings.condition.dropout == 0.1
    assert np.isclose(settings.sampling.guidance.start, 2.0)
