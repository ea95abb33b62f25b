"""The autoencoders of medical images through the one loop, in sizes of seconds: each kind learns,
in 2-D and 3-D; the critic works on what the autoencoder has just made; what TensorBoard shows.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import default_collate

from data.mri.dataset import open_split
from models.autoencoders.settings import PURE_WEIGHTS
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.compression.system import Compression
from trainables.compression.tags import figure_tags, tags
from trainables.contract.examined import SHORT
from trainables.loop import Training, fit
from trainables.optimizing.optimizer import OptimizerSettings, make_optimizer
from trainables.run import LocalRun

SYSTEM = Compression()
PLAIN = {
    **Compression.small,
    **SHORT,
    "discriminator.enabled": False,
    "loss.adversarial.enabled": False,
    "model.vqvae.widths": (8, 16),
    "model.vqvae.codes": 64,
    "model.dcae.widths": (8, 16, 32),
    "model.dcae.layers": (0, 1, 1),
    "model.dcae.decoder_layers": (0, 1, 1),
    "model.dcae.depth_factors": (2, 1),
    "data.volume_size": (8, 16, 16),
    "augment.kind": "none",
    "optimizer.schedule": "constant",
    "optimizer.warmup": 0.0,
}
GAN = {"discriminator.enabled": True, "loss.adversarial.enabled": True}
LONGER = {"train__steps": 160, "optimizer__lr": 1e-2, "optimizer__schedule": "cosine"}
MASKS = {"model.seg_mode": True, "data.group": "seg"}
TWELVE = {"data.volume_size": (12, 16, 16)}
"""Volumes of as many slices as the patients have that are prepared for slices."""

SORTS = [
    pytest.param(
        *(kind, dims),
        id=f"{kind}_{dims}d",
        # the import of diffusers takes seconds, and so does the VAE of volumes
        marks=[pytest.mark.slow] if (kind, dims) in (("dcae", 2), ("vae", 3)) else [],
    )
    for kind in ("vae", "vqvae", "dcae")
    for dims in (2, 3)
]


def tree(kind="vae", dims=2, **changes):
    own = {"model.kind": kind, "model.spatial_dims": dims}
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(SYSTEM.Settings(), {**PLAIN, **own, **named})


@pytest.fixture
def begin(shared_cache, tmp_path, one_thread):
    """(training, a batch of the fullest images) of settings, before the first step."""

    def make(settings):
        prepared = SYSTEM.prepare(settings, shared_cache)
        training = Training(SYSTEM, settings, LocalRun(tmp_path), prepared)
        train = training.loaders.train
        samples = [train[(index, 0)] for index in range(len(train))]
        samples.sort(key=lambda sample: float(sample["image"].sum()), reverse=True)
        return training, default_collate(samples[: settings.train.batch_size])

    return make


def totals_on(training, batch, steps):
    """The first phase's total at each of so many steps on one batch."""
    found = []
    for _ in range(steps):
        training.one_step([batch])
        found.append(training.updates[0].interval.report(training.step)["train.loss.total"])
    return found


@torch.no_grad()
def reconstruction(training, batch):
    model = training.modules["autoencoder"].eval()
    found = model(batch["image"])["reconstruction"]
    model.train()
    return found


every_sort = pytest.mark.parametrize(("kind", "dims"), SORTS)
every_sort_of_masks = pytest.mark.parametrize(
    ("kind", "dims"), [sort for sort in SORTS if sort.values[0] != "vae"]
)


@pytest.mark.slow
@every_sort
def test_each_kind_improves_over_ten_steps(begin, kind, dims):
    training, batch = begin(tree(kind, dims))
    totals = totals_on(training, batch, 10)
    assert sum(totals[-3:]) < sum(totals[:3])


@pytest.mark.slow
@every_sort
def test_each_kind_learns_one_batch(begin, kind, dims):
    """What is left is a part of the variance, which the best constant image leaves; as much as
    160 steps allow.
    """
    settings = tree(kind, dims, loss__perceptual__enabled=False, **LONGER)
    training, batch = begin(settings)
    totals_on(training, batch, settings.train.steps)
    image = batch["image"]
    error = (reconstruction(training, batch) - image).square().mean()
    assert error < 0.6 * image.var()


@every_sort_of_masks
def test_masks_have_terms_of_their_own_that_improve(begin, kind, dims):
    training, batch = begin(replace(tree(kind, dims), {**MASKS, **TWELVE}))
    expected = ["bce", "dice", "boundary", *(["vq"] if kind == "vqvae" else [])]
    assert list(training.phases[0].composite.terms) == expected
    totals = totals_on(training, batch, 10)
    assert sum(totals[-3:]) < sum(totals[:3])


@pytest.mark.slow
@every_sort_of_masks
def test_masks_are_learnt(begin, kind, dims):
    """A single mask, to the pixel: few of them are lesion."""
    training, batch = begin(replace(tree(kind, dims, train__batch_size=1, **LONGER), MASKS))
    totals_on(training, batch, training.train.steps)
    found, mask = reconstruction(training, batch) > 0.5, batch["image"] > 0.5
    dice = float(2.0 * (found & mask).sum() / (found.sum() + mask.sum()))
    assert mask.any()
    assert dice > 0.9


# The critic


def test_the_critic_sees_the_reconstruction_of_the_step_without_a_second_forward(begin):
    training, batch = begin(replace(tree(), GAN))
    seen = {"autoencoder": [], "discriminator": []}
    made = []
    for name, calls in seen.items():
        training.modules[name].register_forward_pre_hook(
            lambda _, inputs, calls=calls: calls.append(inputs[0].detach().clone())
        )
    training.modules["autoencoder"].register_forward_hook(
        lambda _, __, found: made.append(found["reconstruction"].detach().clone())
    )
    training.one_step([batch])
    assert len(seen["autoencoder"]) == 1
    judged, both = seen["discriminator"]
    assert torch.equal(judged, made[0])
    assert torch.equal(both, torch.cat([batch["image"], made[0]]))


def test_a_critic_that_is_not_heard_yet_costs_nothing(begin):
    """Its term and its own phase begin at the third step of four: until then it is not asked, and
    the autoencoder learns as without one. From there on each step asks it twice.
    """
    late = {"kind": "step", "start": 0.5}
    terms = ("loss.adversarial", "critic.patch")
    starts = {f"{term}.schedule.{key}": value for term in terms for key, value in late.items()}
    training, batch = begin(replace(tree(), {**GAN, **starts}))
    alone, _ = begin(tree())
    alone.modules["autoencoder"].load_state_dict(training.modules["autoencoder"].state_dict())
    asked = []
    critic = training.modules["discriminator"]
    critic.register_forward_pre_hook(lambda *_: asked.append(training.step))
    for _ in range(2):
        for each in (training, alone):
            each.one_step([batch])
    both = (each.modules["autoencoder"].parameters() for each in (training, alone))
    pairs = zip(*both, strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    for _ in range(2):
        training.one_step([batch])
    assert asked == [2, 2, 3, 3]


def head_of(model):
    """Names of what the document's phase 3 trains."""
    finest = next(i for i, stage in enumerate(model.decoder.up_blocks) if len(stage))
    parts = (f"decoder.up_blocks.{finest}.", "decoder.norm_out.", "decoder.conv_out.")
    return {name for name, _ in model.named_parameters() if name.startswith(parts)}


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_the_third_phase_moves_the_decoders_head_and_the_critic_alone(begin, dims):
    training, batch = begin(replace(tree("dcae", dims, model__phase=3), GAN))
    before = {
        name: {k: v.detach().clone() for k, v in module.named_parameters()}
        for name, module in training.modules.items()
    }
    totals_on(training, batch, 3)
    moved = {
        name: {k for k, v in module.named_parameters() if not torch.equal(v, before[name][k])}
        for name, module in training.modules.items()
    }
    head = head_of(training.modules["autoencoder"])
    assert moved["autoencoder"] == head
    assert 0 < len(head) < len(before["autoencoder"]) / 2
    assert moved["discriminator"] == set(before["discriminator"])


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("vqvae", "no"), ("dcae", "no"), ("vae", "bf16")],
)
@pytest.mark.slow
def test_a_resumed_training_with_two_optimizers_is_the_whole_one(
    shared_cache, tmp_path, one_thread, kind, weights
):
    """With what the tiny VAE of the contract has not: a codebook, a structured latent, or
    parameters in bf16 beside a critic in fp32, under a moving average.
    """
    structured = {
        "model.dcae.widths": (16, 32, 64),
        "model.dcae.latent_channels": 64,
        "model.dcae.structured.enabled": True,
    }
    settings = tree(kind, train__ema_decay=0.5, model__pure_weights=weights)
    settings = replace(settings, GAN)
    settings = replace(settings, structured if kind == "dcae" else {})
    prepared, reports = SYSTEM.prepare(settings, shared_cache), {}
    for folder, stop, resume in (("whole", None, False), ("part", 2, False), ("part", None, True)):
        run = LocalRun(tmp_path / folder, resume=resume, stop_step=stop)
        fit(SYSTEM, settings, run, prepared)
        reports[folder] = {k: v for k, v in run.history[-1].items() if k != "seconds"}
    assert reports["whole"] == reports["part"]
    one, other = (
        checkpoint.load(checkpoint.available(tmp_path / name / "checkpoints")[-1], SYSTEM.name)
        for name in ("whole", "part")
    )
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)
    assert len(one.state["optimizers"]) == 2
    for mine, theirs in zip(one.state["optimizers"], other.state["optimizers"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=0.0)


def test_parameters_in_bf16_train(begin):
    training, batch = begin(tree(model__pure_weights="bf16", optimizer__lr=5e-3))
    assert {p.dtype for p in training.modules["autoencoder"].parameters()} == {torch.bfloat16}
    totals = totals_on(training, batch, 10)
    assert sum(totals[-3:]) < sum(totals[:3])


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_real_tumours_are_learnt(real_mri, shared_cache, tmp_path, one_thread, dims):
    """The VAE of the demo in smaller images, on the five cases that `make real-mri` fetches: a
    brain that it has not seen comes back as more than the best constant.
    """
    real = {"data.source": "folder", "data.root": str(real_mri), "data.group": "t1_gd"}
    length = {"train.steps": 48, "train.report_every": 24, "train.tensorboard": False}
    sizes = {"train.batch_size": 4, "data.image_size": 32, "data.volume_size": (16, 16, 16)}
    own = {"model.spatial_dims": dims, "data.max_bad_share": 0.0, "optimizer.lr": 5e-3}
    settings = replace(SYSTEM.Settings(), {**real, **length, **sizes, **own})
    prepared = SYSTEM.prepare(settings, shared_cache)
    assert [len(patients) for patients in prepared.patients.values()] == [3, 1, 1]
    run = LocalRun(tmp_path)
    fit(SYSTEM, settings, run, prepared)
    last, validation = run.history[-1], open_split(prepared, "validation")
    brain2 = torch.stack([validation[index]["image"] for index in range(len(validation))])
    assert last["val.mse"] < 0.9 * float(brain2.var()), "one grey is as near"
    for name in ("psnr_quantised_db", "rate_bpp", "tumour_l1", "lesion_l1", "boundary_sharpness"):
        assert last[f"val.{name}"] is not None, name


@pytest.mark.parametrize("eps", [1e-8, 2.9e-8])
def test_an_eps_that_fp16_rounds_to_0_is_refused(eps):
    expected = (
        rf"optimizer.eps must not be 0 .* {eps:g} is, for float16 has nothing between 0 and 6e-08"
        r".* Set optimizer.eps=1e-4"
    )
    with pytest.raises(SettingsError, match=expected):
        tree(model__pure_weights="fp16", optimizer__eps=eps)
    for legal in ({"model__pure_weights": "bf16"}, {"optimizer__kind": "sgd"}, {}):
        tree(**{"model__pure_weights": "fp16" if "optimizer__kind" in legal else "no"} | legal)


def test_settings_may_be_checked_on_the_meta_device():
    """As `profile` does."""
    with torch.device("meta"):
        tree(model__pure_weights="bf16")


def test_volumes_too_small_for_ms_ssim_are_refused_before_the_training():
    changes = {"data__volume_size": (16, 16, 8)}
    with pytest.raises(SettingsError, match=r"metric\.ms_ssim needs .*data\.volume_size"):
        tree(dims=3, **changes)
    tree(dims=3, metric__ms_ssim=False, **changes)


@pytest.mark.parametrize(
    ("dims", "key", "size"), [(2, "image_size", 8), (3, "volume_size", (8, 8, 16))]
)
def test_images_too_small_for_features_are_refused_before_the_training(dims, key, size):
    off = {"metric__ms_ssim": False, "metric__efficientnet": False}
    with pytest.raises(SettingsError, match=rf"needs 16 px .*data\.{key}"):
        tree(dims=dims, loss__perceptual__enabled=False, **off, **{f"data__{key}": size})


def test_one_wide_sort_of_slices_is_enough_for_features():
    tree(dims=3, metric__ms_ssim=False, data__volume_size=(8, 16, 16))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_scaled_gradients_of_rounded_parameters_are_refused(precision):
    changes = {"model__pure_weights": precision, "optimizer__eps": 1e-4}
    expected = rf"train\.precision=fp16 scales .* not of model\.pure_weights={precision}\. Set"
    with pytest.raises(SettingsError, match=expected):
        tree(train__precision="fp16", **changes)
    tree(train__precision="bf16", **changes)
    tree(train__precision="fp16")


@pytest.mark.parametrize(("precision", "eps"), [("fp16", 1e-8), ("bf16", 1e-16)])
def test_what_a_small_eps_does_to_parameters(precision, eps):
    """Why one is refused and the other is not: torch's own rule under a gradient whose square is
    0 in that precision.
    """
    parameter = torch.nn.Parameter(torch.ones(2, dtype=getattr(torch, PURE_WEIGHTS[precision])))
    settings = OptimizerSettings(lr=1e-3, eps=eps, weight_decay=0.0)
    optimizer = make_optimizer(settings, [{"params": [parameter], "weight_decay": 0.0}])
    for _ in range(3):
        parameter.grad = torch.tensor([1e-3, 0.0], dtype=parameter.dtype)
        optimizer.step()
    assert bool(parameter.isfinite().all()) == (precision == "bf16")


# TensorBoard


# What the document shows of a VAE with its GAN on one modality, from its tables 1 to 12.
SHOWN = {
    *("Loss/Generator_train", "Loss/L1_train", "Loss/Perceptual_train", "Loss/KL_train"),
    *("Loss/Discriminator", "Loss/Adversarial", "Loss/Generator_val", "Loss/KL_val"),
    *("Loss/L1_val", "Loss/Perceptual_val", "Validation/PSNR", "Validation/PSNR_bravo"),
    *("Validation/MS-SSIM", "regional/tumor_loss", "regional_bravo/tumor_bg_ratio"),
    *("metrics/boundary_sharpness", "training/grad_norm_g_avg", "training/grad_norm_d_max"),
    *("LR/Generator", "LR/Discriminator", "Validation/worst_batch"),
    *(f"{test}/{tag}" for test in ("test_best", "test_latest") for tag in ("L1", "PSNR_bravo")),
    *("test_best/MS-SSIM", "test_best/worst_batch", "test_latest/worst_batch"),
}


@pytest.mark.slow
def test_tensorboard_shows_the_documents_tags_and_the_worst_batch(
    shared_cache, tmp_path, one_thread, tensorboard_values
):
    drawn = tree(train__tensorboard=True, train__figures=True, train__test=True)
    settings = replace(drawn, GAN)
    prepared = SYSTEM.prepare(settings, shared_cache)
    run = LocalRun(tmp_path, objective=("val.psnr_db", "max"))
    fit(SYSTEM, settings, run, prepared)
    pairs = tensorboard_values(tmp_path)
    found = {tag: [value for _, value in own] for tag, own in pairs.items()}
    assert found.keys() >= SHOWN

    (tmp_path / "test.json").stat()
    measured = {key: value for key, value in run.history[-1].items() if value is not None}
    columns = {tag for column in measured for tag in tags(settings).get(column, ())}
    figures = {tag for each in figure_tags(settings).values() for tag in each}
    named = {tag for tag in found if "/" in tag and not tag.startswith("test_")}
    assert named == columns | {tag for tag in figures if not tag.startswith("test_")}
    for column, value in measured.items():
        for tag in tags(settings).get(column, ()):
            assert found[tag][-1].simple_value == pytest.approx(value, rel=1e-5)

    side, samples = settings.data.image_size, settings.train.validation_batch_size
    for tag in figures:
        image = found[tag][-1].image
        assert (image.height, image.width) == (3 * side, samples * side)
    assert len(found["Validation/worst_batch"]) == 2  # one a report
    folders = {path.name for path in (tmp_path / "figures").iterdir() if path.is_dir()}
    assert folders == {*figure_tags(settings), "val.samples"}
