"""The points of hdr_patch that bear the document's name, against its own figures, and that points
which are compared differ in what they are compared for.
"""

from __future__ import annotations

import sys

import pytest

from losses.hdr_patch import idle_terms
from losses.schedules import last_change_step
from models.perceptual import frozen_features
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from settings.flat import flatten
from settings.resolve import resolve
from settings.schema import SettingsError
from trainables.hdr_patch.system import HdrPatch

SYSTEM = HdrPatch()
STEPS = 60_000
"""The document's training, in which it names the steps of its schedule."""

LOG_WEIGHT = {
    "before": 1.0,
    "double_tanh": 1.0,
    "document": 2.0,
    "document_vgg": 2.0,
    "learnable": 2.0,
    "mode_b": 2.0,
}


def settings_of(name):
    return resolve(SYSTEM.Settings, SYSTEM.name, preset=name).settings


def composite_of(name):
    (phase,) = SYSTEM.phases(settings_of(name), None)
    return phase.composite


def on_at(composite, step):
    return {k: v for k, v in composite.weights(step, STEPS).items() if v}


@pytest.mark.parametrize("name", LOG_WEIGHT)
def test_the_documents_weights_begin_where_its_schedule_says(name):
    composite = composite_of(name)
    expected = {"log": LOG_WEIGHT[name], "l1": 1.0, "hole": 1.0}
    later = {
        0: {},
        2_000: {"edge": 6.0},
        3_000: {"boundary": 8.0, "context": 10.0},
        8_000: {"perceptual": 5.0},
        12_000: {"hole": 20.0},
    }
    for step, changes in later.items():
        if 0 < step < 12_000:
            assert on_at(composite, step - 1) == pytest.approx(expected), step
        expected |= changes
        assert on_at(composite, step) == pytest.approx(expected), step
    assert on_at(composite, 10_000)["hole"] == pytest.approx(10.5)
    assert on_at(composite, STEPS) == pytest.approx(expected)


@pytest.mark.parametrize("name", LOG_WEIGHT)
def test_the_documents_means_range_and_dither(name):
    settings = settings_of(name)
    loss = settings.loss
    assert (loss.hole.over, loss.boundary.over, loss.context.over) == ("image",) * 3
    assert loss.log.masked
    five = (1.5, 1.5, 2.0, 2.0, 1.5)
    assert loss.perceptual.layer_weights == (five if name == "document_vgg" else five[:4])
    assert (loss.perceptual.beta, loss.mu, loss.exposure) == (1e-3, 300.0, 0.8)
    assert (settings.hdr.range, settings.hdr.dither, settings.hdr.prefill) == (
        "min_max",
        True,
        "zero",
    )
    clamp = settings.hdr.clamp
    assert clamp.enabled == (name in ("document", "document_vgg", "mode_b"))
    assert not clamp.enabled or (clamp.kind, clamp.max) == ("hard", 8.0)


CAP = {"hdr.cap.log_delta_max", "hdr.cap.alpha"}
CLAMP = {"hdr.clamp.enabled", "hdr.clamp.kind"}
VGG = {"loss.perceptual.backbone", "loss.perceptual.layer_weights"}


@pytest.mark.parametrize(
    ("one", "other", "keys"),
    [
        ("before", "document", {*CAP, *CLAMP, "loss.log.weight", "loss.log.kind"}),
        ("before", "double_tanh", {"hdr.cap.squash"}),
        ("document", "document_vgg", VGG),
        ("document", "learnable", {*CLAMP, "hdr.cap.mode"}),
        ("document", "mode_b", {"hdr.cap.mode"}),
        ("prefill", "prefill_cap_19", CAP),
        ("prefill", "prefill_learnable", {"hdr.cap.mode"}),
        ("prefill", "sorted_l1", {"loss.wasserstein.enabled"}),
    ],
)
def test_two_points_differ_in_this_alone(one, other, keys):
    first, second = (flatten(settings_of(name)) for name in (one, other))
    assert {key for key in first if first[key] != second[key]} == keys


def test_no_rung_lies_before_the_documents_schedule_is_over():
    setup = new_setup(SweepOptions(system="hdr_patch"))
    assert setup.plan.last_change == 0.2 * SYSTEM.Settings().train.steps
    hole = composite_of("before").settings.hole.schedule
    assert last_change_step(hole, STEPS) == 12_000


def test_what_vgg_needs_is_said_before_a_training(monkeypatch):
    with pytest.raises(SettingsError, match=r"5 layers of vgg16.*not 4"):
        resolve(
            SYSTEM.Settings,
            SYSTEM.name,
            preset="document",
            overrides=["loss.perceptual.backbone=vgg16"],
        )
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    frozen_features.cache_clear()
    context, perceptual = idle_terms(settings_of("document_vgg"))
    assert context.startswith("loss.context has no gradient")
    assert perceptual.startswith("loss.perceptual cannot be measured: VGG-16 features need")
    assert "weighbridge[vgg]" in perceptual
    assert idle_terms(settings_of("document")) == [context]
