"""The classifier of styles: what it learns, when it is refused, what it says of a flow."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from data.style.sets import SPLITS
from metrics.style.flow import style_accuracy
from settings.flat import replace
from settings.schema import SettingsError
from trainables.style_flow.classifier import (
    ClassifierSettings,
    Judge,
    accuracy,
    refusal,
    train_classifier,
    turned,
    write_classifier,
)
from trainables.style_flow.prepared import prepare_styles
from trainables.style_flow.system import StyleFlow

SYSTEM = StyleFlow()
QUICK = ClassifierSettings(steps=40, width=8, batch_size=32)


def textures(count, seed):
    """Noise, the same smoothed along rows, and along rows and columns, all of deviation 1."""
    rng = np.random.default_rng(seed)
    made = []
    for axes in ((), (2,), (2, 3)):
        x = rng.normal(size=(count, 2, 12, 12))
        for axis in axes:
            x = (x + np.roll(x, 1, axis)) / math.sqrt(2.0)
        made.append(x)
    latents = torch.from_numpy(np.concatenate(made)).float()
    return latents, torch.arange(3).repeat_interleave(count)


@pytest.fixture(scope="module")
def trained():
    return train_classifier(*textures(40, 0), 3, QUICK)


def test_textures_of_one_deviation_are_told_apart_on_others(trained):
    assert accuracy(trained, *textures(40, 1)) > 0.95
    latents, styles = textures(40, 1)
    wrong = (styles + 1) % 3
    assert accuracy(trained, latents, wrong) < 0.05


def test_a_training_is_the_same_again_and_leaves_the_global_generator(trained):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    again = train_classifier(*textures(40, 0), 3, QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in again.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name


def test_the_eight_symmetries_differ():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert len({tuple(turned(x, way).flatten().tolist()) for way in range(8)}) == 8
    assert turned(torch.zeros(1, 1, 2, 3), 7).shape == (1, 1, 2, 3)


def test_what_it_does_not_know_is_refused_in_words():
    assert refusal(0.95, ["a", "b"]) == ""
    text = refusal(0.9, ["a", "b"])
    assert "knows 90.0%" in text and "needs 95%" in text and "classifier.steps" in text


def test_latents_that_are_too_small_are_refused_in_words():
    with pytest.raises(SettingsError, match="needs latents of 7 x 7 or more, not 4 x 4"):
        train_classifier(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), 2, QUICK)


def test_the_metric_is_the_share_that_is_taken_for_the_target(trained, tmp_path):
    write_classifier(tmp_path / "it.safetensors", trained)
    judge = pickle.loads(pickle.dumps(Judge(tmp_path / "it.safetensors", 2, 3, 8)))  # noqa: S301
    latents, styles = textures(10, 2)
    metric = style_accuracy(judge)
    sums, count = metric.measure({"x1": latents}, {"target": styles}, None)
    with torch.no_grad():
        right = trained(latents).argmax(dim=1) == styles
    assert metric.finish(sums, float(count)) == pytest.approx(float(right.double().mean()))
    sums, count = metric.measure({"x1": latents}, {"target": (styles + 1) % 3}, None)
    assert metric.finish(sums, float(count)) < 0.1
    assert metric.mode == "max"


def fields(**changes):
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(SYSTEM.Settings(), {**SYSTEM.small, "data.crops": 32, **values})


def named(settings, prepared):
    return [metric.name for metric in SYSTEM.metrics(settings, prepared)]


def test_a_real_latent_of_the_target_is_taken_for_it_and_the_source_is_not(shared_cache):
    settings = fields()
    prepared = prepare_styles(settings, shared_cache)
    assert "style_accuracy" in named(settings, None)
    assert "style_accuracy" in named(settings, prepared)
    (metric,) = (m for m in SYSTEM.metrics(settings, prepared) if m.name == "style_accuracy")
    samples = SYSTEM.loaders(settings, prepared).validation
    batch = torch.utils.data.default_collate([samples[index] for index in range(len(samples))])
    shares = {}
    for name, x1 in (("real", batch["references"][:, 0]), ("source", batch["latent"])):
        sums, count = metric.measure({"x1": x1}, batch, settings)
        shares[name] = metric.finish(sums, float(count))
    assert shares["real"] >= 0.9
    assert shares["source"] <= 0.1
    (known,) = prepared.notes.values()
    assert known >= 0.95


def test_a_refused_classifier_leaves_no_column_and_says_why(shared_cache):
    """Two styles of one law cannot be told apart."""
    settings = fields(data__field_lengths=(0.4, 0.4), data__field_spread=1.0)
    prepared = prepare_styles(settings, shared_cache)
    assert prepared.judge is None
    assert "style_accuracy" not in named(settings, prepared)
    (warning,) = SYSTEM.loaders(settings, prepared).warnings
    assert "is not measured" in warning


def test_none_is_trained_where_none_is_asked_for(shared_cache):
    settings = fields(classifier__steps=0)
    prepared = prepare_styles(settings, shared_cache)
    assert prepared.judge is None and not prepared.warnings
    assert "style_accuracy" not in named(settings, None)


@pytest.mark.slow
def test_it_learns_images_with_and_without_colour(embedded, shared_cache):
    settings = embedded(classifier__steps=20, data__crops=32, data__held_out_crops=10)
    prepared = prepare_styles(settings, shared_cache)
    names = {"PSNR of decoded validation images, dB"}
    names |= {f"styles known of held-out {name} latents" for name in ("real", "grey")}
    assert set(prepared.notes) == names
    assert all(prepared.notes[name] > 0.5 for name in names)  # a seventh by chance
    assert set(SPLITS) == set(prepared.styles)
