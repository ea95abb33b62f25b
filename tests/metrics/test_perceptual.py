"""Perceptual distances: what works offline, and what is said where something is missing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from metrics import perceptual
from metrics.compression import MetricSettings
from metrics.perceptual import (
    NETWORKS,
    LpipsSettings,
    MedicalNetSettings,
    RadImageNetSettings,
    efficientnet_distance,
    enabled,
    extra_distance,
    networks,
    refuse_missing,
)
from models.autoencoders.settings import ModelSettings
from models.efficientnet import FeatureWeightsError
from ray_jobs.engine.preflight import Preflight
from settings.flat import replace
from settings.schema import Settings, SettingsError
from trainables.compression.system import Compression
from trainables.configured import Configured


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    model: ModelSettings = field(default_factory=ModelSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)


def tree(dims=2, **own):
    return Tree(model=ModelSettings(spatial_dims=dims), metric=MetricSettings(**own))


LPIPS = LpipsSettings(enabled=True)
MEDICALNET = MedicalNetSettings(enabled=True)


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_distance_grows_with_the_noise():
    target, noise = images(2, 2, 32, 40), images(2, 2, 32, 40, seed=1) - 0.5
    found = [efficientnet_distance(target + s * noise, target) for s in (0.0, 0.1, 0.5)]
    assert all(x.shape == (2,) and x.dtype == torch.float64 for x in found)
    assert found[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert (found[0] < found[1]).all() and (found[1] < found[2]).all()


def test_several_channels_are_images_of_their_own():
    target, prediction = images(2, 2, 32, 32), images(2, 2, 32, 32, seed=1)
    whole = efficientnet_distance(prediction, target)
    each = [efficientnet_distance(prediction[:, c : c + 1], target[:, c : c + 1]) for c in (0, 1)]
    assert whole.tolist() == pytest.approx(torch.stack(each).mean(dim=0).tolist(), rel=1e-5)


def test_by_default_nothing_is_downloaded():
    assert enabled(tree()) == enabled(tree(3)) == ()
    refuse_missing(tree())


@pytest.mark.parametrize(
    ("dims", "own", "word"),
    [
        (3, {"lpips": LPIPS}, "metric.lpips.enabled=true needs model.spatial_dims=2, not 3"),
        (3, {"radimagenet": RadImageNetSettings(enabled=True)}, "metric.radimagenet"),
        (2, {"medicalnet": MEDICALNET}, "metric.medicalnet.enabled=true needs .*=3, not 2"),
    ],
)
def test_a_network_that_cannot_see_the_images_is_refused(dims, own, word):
    with pytest.raises(SettingsError, match=word):
        enabled(tree(dims, **own))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Nothing listens on port 9 of this machine, no weights lie in an empty folder, and the
    packages that bring their own are not installed.
    """
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for package in ("lpips", "torchvision"):
        monkeypatch.setitem(sys.modules, package, None)  # what Python takes for not installed
    folder = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    perceptual._monai_network.cache_clear()
    yield tmp_path
    torch.hub.set_dir(folder)


def test_a_missing_package_is_named_before_the_training_and_in_it(offline):
    with pytest.raises(SettingsError, match=r"metric.lpips.enabled=true: alex cannot be loaded"):
        refuse_missing(tree(lpips=LPIPS))
    with pytest.raises(FeatureWeightsError, match=r"metric.lpips.enabled.*cannot be loaded"):
        extra_distance("lpips", "alex", images(1, 1, 32, 32), images(1, 1, 32, 32))


@pytest.mark.parametrize(("name", "shape"), [("radimagenet", (32, 32)), ("medicalnet", (16,) * 3)])
def test_without_a_connection_the_error_names_the_way_out(name, shape, offline):
    """Before a training, and in one whose check was made elsewhere."""
    with pytest.raises(FeatureWeightsError, match=rf"metric.{name}.enabled=false") as caught:
        extra_distance(name, NETWORKS[name], images(1, 1, *shape), images(1, 1, *shape))
    assert str(offline) in str(caught.value)
    switched_on = {"radimagenet": RadImageNetSettings, "medicalnet": MedicalNetSettings}[name]
    settings = tree(len(shape), **{name: switched_on(enabled=True)})
    with pytest.raises(SettingsError, match=rf"metric.{name}.enabled=false") as refused:
        refuse_missing(settings)
    assert str(refused.value) == str(caught.value)


def test_everything_that_is_missing_is_said_at_once(offline):
    settings = tree(lpips=LPIPS, radimagenet=RadImageNetSettings(enabled=True))
    assert networks(settings) == {"lpips": "alex", "radimagenet": NETWORKS["radimagenet"]}
    with pytest.raises(SettingsError, match=r"metric\.lpips.*metric\.radimagenet"):
        refuse_missing(settings)


def test_a_training_and_a_sweep_are_refused_before_they_begin(offline):
    """By the check that both make; the sweep's asks once for draws that differ in nothing of
    that.
    """
    settings = replace(Compression.Settings(), {"metric.lpips.enabled": True})
    with pytest.raises(SettingsError, match=r"metric\.lpips\.enabled=false"):
        Compression().preflight(settings, None)
    check = Preflight(Configured(Compression(), settings), None)
    for rate in (1e-3, 1e-2):
        with pytest.raises(SettingsError, match=r"metric\.lpips\.enabled=false"):
            check({"optimizer.lr": rate})


class SquaredDifference(nn.Module):
    """Stands for a network that cannot be had offline; a mean over all that it is given."""

    def forward(self, first, second):
        return (first - second).square().mean()


@pytest.mark.parametrize("name", ["lpips", "radimagenet"])
def test_each_image_has_its_own_value(name, monkeypatch):
    """LPIPS takes images in [-1, 1], twice as far apart."""
    monkeypatch.setattr(perceptual, "_monai_network", lambda *_: SquaredDifference())
    target, prediction = images(3, 2, 8, 8), images(3, 2, 8, 8, seed=1)
    expected = (prediction - target).square().flatten(1).mean(dim=1)
    found = extra_distance(name, "any", prediction, target)
    assert found.dtype == torch.float64
    factor = 4.0 if name == "lpips" else 1.0
    assert found.tolist() == pytest.approx((factor * expected).tolist(), rel=1e-5)
    assert extra_distance(name, "any", prediction[:0], target[:0]).shape == (0,)
