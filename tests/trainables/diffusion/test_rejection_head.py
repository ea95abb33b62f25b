"""The head of rejection sampling: its size, its data, its training, and what it is used for."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from losses.diffusion_rejection import cross_entropies
from metrics.diffusion import LEVELS
from metrics.diffusion_rejection import BINS, rejection_metrics
from models.diffusion.rejection_head import HeadSettings, RejectionHead, Tapped
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.contract.check import check
from trainables.contract.examined import Examined
from trainables.diffusion.rejection import RejectionNode, open_head
from trainables.diffusion.system import Diffusion
from trainables.diffusion.use import GenerateSettings
from trainables.diffusion_rejection.references import newton
from trainables.diffusion_rejection.samples import seeds_of
from trainables.loop import fit
from trainables.reporting.references import measure_references
from trainables.request import Request
from trainables.run import LocalRun
from trainables.system import load_system

NAME = "trainables.diffusion_rejection:DiffusionRejection"
QUIET = {"train.tensorboard": False, "train.figures": False, "train.test": False}


def head_settings(base, **changes):
    system = load_system(NAME)
    named = {key.replace("__", "."): value for key, value in changes.items()}
    own = {"diffusion.checkpoint": str(base), "train.steps": 4, "train.report_every": 2}
    return system, replace(system.Settings(), {**system.small, **QUIET, **own, **named})


def train(made, cache, folder, **run):
    system, settings = made
    prepared, local = system.prepare(settings, cache), LocalRun(folder, **run)
    report = fit(system, settings, local, prepared)
    newest = checkpoint.available(folder / "checkpoints")[-1]
    return SimpleNamespace(
        system=system, settings=settings, prepared=prepared, report=report, path=newest
    )


@pytest.fixture(scope="module")
def base(shared_cache, tmp_path_factory):
    """`base(**changes)`: the folder of a training of diffusion of two steps."""
    folder, made = tmp_path_factory.mktemp("bases"), {}

    def of(**changes):
        key = json.dumps(changes, sort_keys=True)
        if key not in made:
            system, place = Diffusion(), folder / str(len(made))
            named = {name.replace("__", "."): value for name, value in changes.items()}
            short = {**system.small, **QUIET, "train.steps": 2, "train.report_every": 2}
            settings = replace(system.Settings(), {**short, **named})
            fit(system, settings, LocalRun(place), system.prepare(settings, shared_cache))
            made[key] = place
        return made[key]

    return of


@pytest.fixture(scope="module")
def trained(base, shared_cache, tmp_path_factory):
    return train(head_settings(base()), shared_cache, tmp_path_factory.mktemp("head"))


# The head


@pytest.mark.parametrize(
    "channels, dimensions, millions", [(256, 2, 0.3), (256, 3, 0.9), (512, 3, 1.0)]
)
def test_it_has_the_parameters_of_its_layers(channels, dimensions, millions):
    """001-M11: 0.3 M in slices and 0.9 M in volumes, by a 1 x 1 and two 3 x 3 convolutions."""
    with torch.device("meta"):
        head = RejectionHead(HeadSettings(statistics=False), channels, dimensions)
        more = RejectionHead(HeadSettings(), channels, dimensions)
    found = sum(parameter.numel() for parameter in head.parameters())
    width, norm = 128, 2 * 128
    first, others = channels * width + width, width * width * 3**dimensions + width
    assert found == first + 2 * others + 3 * norm + width + 1
    assert round(found / 1e6, 1) == pytest.approx(millions)
    assert sum(parameter.numel() for parameter in more.parameters()) == found + 2 * channels


def test_it_begins_at_no_knowledge_and_reads_features_of_both_dimensions():
    for dimensions in (2, 3):
        head = RejectionHead(HeadSettings(width=8, norm_groups=4), 6, dimensions)
        features = torch.randn(3, 6, *(4,) * dimensions)
        assert head(features).tolist() == [0.0, 0.0, 0.0]
        torch.nn.init.ones_(head.out.weight)
        assert head(features).unique().numel() == 3


def test_mean_and_deviation_of_the_features_are_seen_beside_the_convolutions():
    """Of two images that differ in nothing else, GroupNorm leaves nothing of the scale."""
    plain = 3.0 * torch.randn(1, 6, 4, 4, dtype=torch.float64)
    scaled = torch.cat([plain, 100.0 * plain])
    gaps = {}
    for statistics in (False, True):
        torch.manual_seed(0)
        settings = HeadSettings(width=8, norm_groups=4, statistics=statistics)
        head = RejectionHead(settings, 6, 2).double()
        head.layers[0].bias.data.zero_()
        torch.nn.init.ones_(head.out.weight)
        gaps[statistics] = float(head(scaled).detach().diff().abs())
    assert gaps[False] < 1e-3
    # the sum of log 100 over six channels, and 99 times the sum of six means
    expected = 6 * math.log(100.0) + 99.0 * float(plain.mean(dim=(2, 3)).sum())
    assert gaps[True] == pytest.approx(abs(expected), rel=1e-3)


def test_a_tapped_network_predicts_as_before_and_keeps_its_middle():
    system = Diffusion()
    settings = replace(system.Settings(), system.small)
    network = system.build(settings, None).modules["network"].eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tapped, x, t = Tapped(network), torch.randn(2, 1, 16, 16), torch.tensor([0.1, 0.9])
    seen = []
    network.middle_block.register_forward_hook(lambda block, given, output: seen.append(output))
    assert torch.equal(tapped(x, t), network(x, t))
    assert torch.equal(tapped.features, seen[0]) and seen[0].shape == (2, 8, 8, 8)


# Measures


def pairs_of(count=400):
    rng = np.random.default_rng(0)
    label, level = rng.integers(0, 2, count), rng.integers(0, len(LEVELS), count)
    logit = rng.normal(size=count) * 2.0 + label
    batch = {"label": torch.tensor(label).float(), "level": torch.tensor(level)}
    return {"logit": torch.tensor(logit).float()}, batch, label, level, logit


def test_measures_are_those_of_the_libraries_over_all_and_at_each_log_snr():
    prediction, batch, label, level, logit = pairs_of()
    parts = [{k: v[at] for k, v in batch.items()} | {"logit": prediction["logit"][at]}
             for at in (slice(0, 150), slice(150, None))]  # fmt: skip
    values = {}
    for metric in rejection_metrics():
        measured = [metric.measure(part, part, None) for part in parts]
        sums, count = (sum(each) for each in zip(*measured, strict=True))
        values[metric.name] = metric.finish(sums, float(count))
    for end, rows in [("", level >= 0), ("_log_snr_m6", level == 0), ("_log_snr_3", level == 3)]:
        y, z = label[rows], logit[rows]
        p = 1.0 / (1.0 + np.exp(-z))
        bce = -np.mean(y * np.log(p) + (1 - y) * np.log(1.0 - p))
        assert values[f"bce{end}"] == pytest.approx(bce, rel=1e-5)
        assert values[f"accuracy{end}"] == pytest.approx(np.mean((z > 0) == y))
        auc = mannwhitneyu(z[y == 1], z[y == 0]).statistic / (y.sum() * (1 - y).sum())
        assert values[f"auc{end}"] == pytest.approx(auc, abs=3e-3)
        bins = np.minimum((p * BINS).astype(int), BINS - 1)
        off = [abs(np.mean(p[bins == b]) - np.mean(y[bins == b])) * np.mean(bins == b)
               for b in np.unique(bins)]  # fmt: skip
        assert values[f"ece{end}"] == pytest.approx(sum(off), rel=1e-5)
        assert values[f"reliability{end}_b4"] == pytest.approx(np.mean(y[bins == 4]))


def test_the_regression_is_that_of_a_general_minimiser():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(300, 2)), np.ones((300, 1))], axis=1)
    y = (rng.uniform(size=300) < 1.0 / (1.0 + np.exp(-x @ [1.0, -2.0, 0.5]))).astype(float)

    def loss(theta):
        z = x @ theta
        return np.sum(np.logaddexp(0.0, z) - y * z) + 0.5 * 1e-3 * 300 * np.sum(theta**2)

    expected = minimize(loss, np.zeros(3), tol=1e-10).x
    np.testing.assert_allclose(newton(torch.tensor(x), torch.tensor(y)), expected, atol=1e-4)


# The training


def test_seeds_of_splits_and_draws_have_none_in_common():
    drawn = [
        set(seeds_of(seed, split, 500).tolist())
        for seed in (0, 1)
        for split in ("train", "validation", "test")
    ]
    assert len(set().union(*drawn)) == 6 * 500


@pytest.mark.slow
def test_generated_and_real_are_equally_many_and_a_real_one_is_of_its_split(trained):
    loaders = trained.system.loaders(trained.settings, trained.prepared)
    labels = [float(loaders.train[(i, 3)]["label"]) for i in range(len(loaders.train))]
    assert np.mean(labels) == 0.5 and len(labels) >= 2 * 8
    for split in ("validation", "test"):
        samples = getattr(loaders, split)
        rows = [samples[i] for i in range(len(samples))]
        assert len(rows) == 2 * 4 * len(LEVELS) == len(loaders.units[split])
        for level in range(len(LEVELS)):
            assert sum(float(r["label"]) for r in rows if r["level"] == level) == 4
        stored = {loaders.train.real.at(i)["image"].numpy().tobytes()
                  for i in range(len(loaders.train.real))}  # fmt: skip
        given = [r["image"].numpy().tobytes() for r in rows]
        assert not stored & set(given)


@pytest.mark.slow
def test_it_keeps_the_contract(base, shared_cache):
    examined = Examined(load_system(NAME), shared_cache, {"diffusion.checkpoint": str(base())})
    assert not [str(fault) for fault in check(examined)]


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(base, trained, shared_cache, tmp_path):
    made = head_settings(base())
    train(made, shared_cache, tmp_path, stop_step=2)
    again = train(made, shared_cache, tmp_path, resume=True)
    one, two = (checkpoint.load(run.path, NAME) for run in (trained, again))
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(value, two.tensors[key]) for key, value in one.tensors.items())
    assert any("head" in key for key in one.tensors)


@pytest.mark.slow
def test_the_network_stays_as_it_is_and_in_no_checkpoint(base, trained):
    theirs = open_checkpoint(checkpoint.find(base())).modules["network"].state_dict()
    ours = open_checkpoint(trained.path).modules["diffusion"].parts["network"].state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items())
    stored = (trained.path / "modules.safetensors").read_bytes()
    header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
    assert not [key for key in header if "parts.network" in key]


@pytest.mark.slow
def test_the_reference_without_knowledge_has_ln_2_and_the_head_beats_it(
    base, shared_cache, tmp_path
):
    """A network of two steps makes noise, which any head can tell from images."""
    longer = {"train__steps": 40, "train__report_every": 40, "optimizer__lr": 1e-2}
    run = train(head_settings(base(), **longer), shared_cache, tmp_path)
    rows = measure_references(run.system, run.settings, run.prepared, "validation")
    assert rows["prior"]["val.bce"] == pytest.approx(np.log(2.0))
    assert run.report["val.bce"] < 0.99 * np.log(2.0)
    assert run.report["val.auc_log_snr_6"] > 0.9


@pytest.mark.slow
def test_the_regression_knows_more_than_nothing_of_what_it_is_fitted_to(trained):
    """What it is worth on other images depends on how alike the few patients are."""
    settings = replace(trained.settings, trained.system.originals)
    regression = trained.system.references(settings, trained.prepared)["logistic"]
    pairs = trained.system.loaders(settings, trained.prepared).train
    rows = [pairs[(index, index)] for index in range(len(pairs))]
    for level in range(len(LEVELS)):
        batch = {
            "image": torch.stack([row["image"] for row in rows]),
            "label": torch.stack([row["label"] for row in rows]),
            "seed": torch.arange(len(rows)),
            "level": torch.full((len(rows),), level),
            "bin": torch.full((len(rows),), -1),
        }
        logit = regression.predict(batch)["logit"]
        assert float(cross_entropies({"logit": logit}, batch).mean()) < np.log(2.0)


# The use


def generate(base, target, options, **request):
    opened = open_checkpoint(checkpoint.find(base))
    target.mkdir()
    chosen = replace(GenerateSettings(), {"sampling.steps": 3, **options})
    with torch.no_grad():
        asked = Request(target=target, options=chosen, **request)
        measures = opened.system.generate(opened.settings, opened.modules, asked)
    files = sorted(target.glob("*.nii.gz"))
    return measures, {file.name: np.asarray(nibabel.load(file).dataobj) for file in files}


@pytest.fixture(scope="module")
def sharp(base, shared_cache, tmp_path_factory):
    """A head that rejects: of a longer training."""
    longer = {"train__steps": 40, "train__report_every": 40, "optimizer__lr": 1e-2}
    return train(head_settings(base(), **longer), shared_cache, tmp_path_factory.mktemp("sharp"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_sample_does_not_depend_on_its_batch_nor_on_who_makes_it(base, sharp, tmp_path, workers):
    options = {"rejection.checkpoint": str(sharp.path.parent.parent), "rejection.percentile": 1.0,
               "rejection.cap": 20}  # fmt: skip
    measures, alone = generate(base(), tmp_path / "1", options, count=8, batch_size=1)
    files, rejections = {}, 0.0
    for rank in range(workers):
        found, made = generate(base(), tmp_path / f"8_{rank}", options, count=8,
                               batch_size=8 // workers, rank=rank, world=workers)  # fmt: skip
        files |= made
        rejections += found["rejections"]
    assert measures["rejections"] == rejections > 0
    assert measures["evaluations"] >= 8 * 4 + measures["rejections"]
    assert alone.keys() == files.keys() and len(alone) == 8
    for name, image in alone.items():
        np.testing.assert_allclose(image, files[name], atol=1e-5)


@pytest.mark.slow
def test_a_head_is_of_one_network_and_a_node_without_a_head_is_refused(base, trained, tmp_path):
    other = open_checkpoint(checkpoint.find(base(train__seed=1))).modules
    with pytest.raises(SettingsError, match="judges the images of another network"):
        open_head(str(trained.path), other)
    with pytest.raises(SettingsError, match="has no head"):
        open_head(str(base()), other)
    with pytest.raises(SettingsError, match=r"rejection\.back_steps is of"):
        replace(RejectionNode(), {"back_steps": 2})
    plain, _ = generate(base(), tmp_path / "plain", {})
    assert "rejections" not in plain


@pytest.mark.slow
def test_a_diffusion_that_cannot_be_judged_is_refused(base, shared_cache):
    system, settings = head_settings(base(model__kind="dit", model__dit__patch_size=4))
    with pytest.raises(SettingsError, match="reads the middle of a UNet"):
        system.prepare(settings, shared_cache)


@pytest.mark.slow
def test_volumes_are_judged_too(base, shared_cache, tmp_path):
    volumes = {
        "model__spatial_dims": 3,
        "data__volume_size": (8, 16, 16),
        "metric__ms_ssim": False,
    }
    run = train(head_settings(base(**volumes)), shared_cache, tmp_path)
    head = open_checkpoint(run.path).modules["head"]
    assert head.layers[0].weight.ndim == 5
    assert np.isfinite(run.report["val.bce"])


@pytest.mark.slow
def test_images_under_masks_are_judged_under_them(base, shared_cache, tmp_path):
    made = head_settings(base(condition__mask__enabled=True), augment__kind="none")
    run = train(made, shared_cache, tmp_path)
    moved = replace(run.settings, {"augment.kind": "diffusion"})
    (finding,) = run.system.preflight(moved, run.prepared)
    assert finding.hopeless and "Set augment.kind=none" in finding.text
    assert not run.system.preflight(run.settings, run.prepared)
    loaders = run.system.loaders(run.settings, run.prepared)
    generated, real = loaders.train[(0, 1)], loaders.train[(1, 1)]
    assert torch.equal(generated["mask"], real["mask"])
    assert not torch.equal(generated["image"], real["image"])


def test_no_diffusion_is_named():
    system = load_system(NAME)
    with pytest.raises(SettingsError, match="names the training of diffusion"):
        system.prepare(system.Settings(), None)
