"""System `conditioner`: from the image of a design to the latents of its simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data.cache import cache_key, file_states
from data.fields.augment import AugmentSettings
from data.fields.dataset import Arrays, DataSettings, prepare_arrays
from data.fields.samples import SPLITS, ConditionerData, collate
from data.image_folder import ImageRules, find_images, write_images
from losses.conditioner import NEED_DECODER, TERMS, LossSettings
from metrics.conditioner import MetricSettings, conditioner_metrics
from models.fields.field_vae import FrozenDecoder
from models.fields.network import ConditionerModel, ModelSettings, plain_model, shared_parameters
from models.fields.range_scaler import RangeScaler
from settings.flat import flatten
from trainables.api import (
    Built,
    Composite,
    Finding,
    Generates,
    HealthSettings,
    Loaders,
    Measures,
    Metric,
    Modules,
    OptimizerSettings,
    Phase,
    Reference,
    Request,
    SettingsError,
    SystemBase,
    SystemSettings,
    Tensors,
    TrainSettings,
)
from trainables.conditioner.field_latents import (
    SCALERS_FILE,
    Latents,
    VaeSettings,
    encode_all,
    load_decoder,
    scale_given,
    train_or_load,
)
from trainables.conditioner.field_vae_held_out import check_held_out
from trainables.conditioner.findings import contradictions, narrow_heads
from trainables.conditioner.references import references
from trainables.drawing import rows, scaled


@dataclass(frozen=True, kw_only=True)
class ConditionerSettings(SystemSettings):
    """The defaults are the demo: CPU-sized. `--preset paper` has the document's sizes."""

    model: ModelSettings = field(
        default_factory=lambda: ModelSettings(
            filters=(8, 16, 32, 64), norm_groups=4, pool_size=4, trunk_width=128, head_width=128
        )
    )
    vae: VaeSettings = field(default_factory=VaeSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            lr=3e-3, weight_decay=1e-5, warmup=0.05, warmup_first=0.01, final=1e-3
        )
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=500,
            batch_size=32,
            report_every=50,
            validation_batch_size=80,
            clip_norm=10.0,
            overfit_ratio=1000.0,
        )
    )

    def check(self) -> None:
        if self.data.kind == "latents" and self.loss.decoded.is_on:
            raise SettingsError(
                "loss.decoded needs a decoder, and with data.kind=latents there is none. Give "
                "fields (data.kind=fields), or set loss.decoded.enabled=false."
            )
        consistency = self.loss.consistency
        if consistency.is_on and consistency.teacher == "ema" and not self.train.ema_decay:
            raise SettingsError(
                "loss.consistency.teacher=ema needs a moving average, and train.ema_decay is 0. "
                "Set train.ema_decay=0.99, or loss.consistency.teacher=same."
            )
        if self.data.image_size < self.model.smallest_side:
            raise SettingsError(
                f"data.image_size must be at least {self.model.smallest_side} for "
                f"{len(self.model.filters)} stages (model.filters), not {self.data.image_size}."
            )


@dataclass(frozen=True)
class Prepared:
    """The data and latents that all trials share; small and picklable.

    Attributes:
        latents: a folder with main.npy [P, M] and hier.npy [P, K, h], scaled on training samples.
        meta: the shapes that the modules take (`Built.meta`).
        decoded: where the frozen decoder is, None for latents that were given.
        warnings: of the VAE, in words.
    """

    arrays: Arrays
    latents: Path
    meta: Mapping[str, Any]
    notes: Mapping[str, float]
    decoded: Latents | None
    warnings: Sequence[str] = ()


class Conditioner(SystemBase[ConditionerSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "conditioner"
    Settings = ConditionerSettings
    prepare_reads = ("data.*", "vae.*")
    changeable = ("augment.*",)
    generates = Generates("a folder of images")
    small: Mapping[str, Any] = {
        "model.filters": (4, 8),
        "model.trunk_width": 8,
        "model.head_width": 8,
        "data.count": 24,
        "data.test_count": 6,
        "data.image_size": 16,
        "data.times": 8,
        "data.probes_per_side": 3,
        "vae.filters": (8, 6),
        "vae.main_size": 4,
        "vae.hier_size": 4,
        "vae.steps": 3,
        "vae.batch_size": 4,
        "train.batch_size": 4,
        "train.validation_batch_size": 4,
    }
    # Every sample has a second view.
    audit: Mapping[str, Any] = {"augment.outer_probability": 1.0, "augment.inner_probability": 1.0}
    originals: Mapping[str, Any] = {
        "augment.outer_probability": 0.0,
        "augment.mixup_probability": 0.0,
        "augment.noise_probability": 0.0,
    }

    def prepare(self, settings: ConditionerSettings, cache: Path) -> Prepared:
        """Converts the data, trains or loads the VAE, and scales the latents of all samples."""
        arrays = prepare_arrays(settings.data, cache)
        train, validation = arrays.indices("train"), arrays.indices("validation")
        if not arrays.fields:
            given = scale_given(Path(arrays.latents), train, validation, settings.vae.reach)
            return Prepared(arrays, Path(given.folder), given.meta, given.notes, None)
        fields = file_states([Path(arrays.fields)])
        key = cache_key(arrays.folder, flatten(settings.vae), fields)
        folder = cache / f"conditioner-vae-{key}"
        vae = train_or_load(settings.vae, Path(arrays.fields), train, folder / "vae")
        warnings: tuple[str, ...] = ()
        if settings.vae.checkpoint:
            held_out = {split: arrays.indices(split) for split in SPLITS[1:]}
            unseen = folder / "unseen"
            warnings = check_held_out(vae, Path(arrays.fields), train, held_out, unseen)
        latents = encode_all(vae, Path(arrays.fields), train, validation, folder / "latents")
        meta = {
            "main_size": settings.vae.main_size,
            "hier_shape": list(settings.vae.hier_shape),
            "length": latents.length,
            "nodes": latents.nodes,
        }
        return Prepared(arrays, Path(latents.folder), meta, latents.notes, latents, warnings)

    def build(self, settings: ConditionerSettings, prepared: Prepared) -> Built:
        built = self.rebuild(settings, prepared.meta)
        if prepared.decoded is not None:
            built.modules["decoder"] = load_decoder(prepared.decoded)
            built.external = {"decoder": prepared.decoded.decoder}
        else:
            built.modules["scalers"].load_state_dict(load_file(prepared.latents / SCALERS_FILE))
        return built

    def rebuild(self, settings: ConditionerSettings, meta: Mapping[str, Any]) -> Built:
        main, hier = meta["main_size"], tuple(meta["hier_shape"])
        bound = settings.model.bound(settings.vae.reach)
        network = ConditionerModel(settings.model, main, hier, bound)
        modules: dict[str, nn.Module] = {"model": network}
        if "length" in meta:
            vae = settings.vae.network
            modules["decoder"] = FrozenDecoder(vae, meta["length"], meta["nodes"])
        else:
            reach = settings.vae.reach
            scalers = {"main": RangeScaler((main,), reach), "hier": RangeScaler(hier, reach)}
            modules["scalers"] = nn.ModuleDict(scalers)
        return Built(modules=modules, meta=dict(meta))

    def loaders(self, settings: ConditionerSettings, prepared: Prepared) -> Loaders:
        arrays = prepared.arrays
        device = settings.data.on_device if settings.train.loader_workers == 0 else "never"
        train, validation, test = (
            ConditionerData(arrays, prepared.latents, split, settings.augment, device)
            for split in SPLITS
        )
        return Loaders(
            train,
            validation,
            collate,
            notes={**arrays.notes, **prepared.notes},
            warnings=arrays.warnings,
            test=test if len(test) else None,
            units={
                split: [str(index) for index in arrays.indices(split)] for split in SPLITS[1:]
            },
        )

    def phases(self, settings: ConditionerSettings, prepared: Prepared | None) -> Sequence[Phase]:
        fields = settings.data.kind == "fields"
        terms = {k: v for k, v in TERMS.items() if fields or k not in NEED_DECODER}
        composite = Composite(terms, settings.loss)
        return [Phase("model", ("model",), condition, composite, shared=last_stage)]

    def metrics(
        self, settings: ConditionerSettings, prepared: Prepared | None
    ) -> Sequence[Metric]:
        return conditioner_metrics(settings.metric, decoder=settings.data.kind == "fields")

    def unit_key(self, settings: ConditionerSettings) -> str:
        return "data.seed" if settings.data.source == "generated" else "data.split_seed"

    def references(
        self, settings: ConditionerSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        decoder = {"decoder": load_decoder(prepared.decoded)} if prepared.decoded else {}
        return references(self.loaders(settings, prepared), decoder)

    def tensorboard_names(self, settings: ConditionerSettings) -> Mapping[str, str]:
        """The source's names, its components numbered in the order of our terms."""
        weights = {
            f"train.loss.{name}.weight": f"Adaptive_Weights/component_{index}"
            for index, name in enumerate(TERMS)
        }
        return {"train.loss.*": "Enhanced_Loss/*", **weights}

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        """Rows of the true fields [T, N], of the predicted ones and of 4 times their difference,
        from the least to the greatest true value of each; of the latents [K, h] where there is no
        decoder.
        """
        true, predicted = batch["hier"], prediction["hier"]
        if "field" in prediction:
            true, predicted = prediction["target_field"], prediction["field"]
        shown = scaled(true.float(), true.float()), scaled(predicted.float(), true.float())
        true, predicted = (values[:, None] for values in shown)
        return rows(true, predicted, 4.0 * (true - predicted).abs())

    def preflight(self, settings: ConditionerSettings, prepared: Prepared) -> Sequence[Finding]:
        train = prepared.arrays.indices("train")
        narrow = narrow_heads(settings.model, prepared.latents, train)
        contradicted = contradictions(settings.augment, settings.loss, settings.data)
        return [Finding(text) for text in (*contradicted, *narrow, *prepared.warnings)]

    def generate(
        self, settings: ConditionerSettings, modules: Modules, request: Request
    ) -> Measures:
        """Predicts from a folder of images, in natural order: writes names.txt, main.npy [P, M]
        and hier.npy [P, K, h], and field.npy [P, T, N] where there is a decoder. Fields, and
        latents that were given, are in their own units; a VAE's latents are scaled.
        """
        data, target = settings.data, request.target
        images, other_files = find_images(request.given)
        kept = (data.image_size, data.fit, data.invert, data.binarize_at)
        rules = ImageRules(*kept, trained=True)
        write_images(images, rules, target / "images.npy")
        (target / "names.txt").write_text("".join(f"{path.name}\n" for path in images))
        pixels = np.load(target / "images.npy", mmap_mode="r", allow_pickle=False)
        parts = [_predict(modules, pixels[rows]) for rows, _ in request.batches(len(pixels))]
        for name in parts[0]:
            np.save(target / f"{name}.npy", np.concatenate([part[name] for part in parts]))
        return {"images": len(images), "other_files": other_files}


def last_stage(modules: Modules) -> Sequence[nn.Parameter]:
    """The parameters at which a balancer compares gradients: the last that both heads depend on.
    """
    return shared_parameters(modules["model"])


def condition(
    modules: Modules, batch: Tensors, settings: ConditionerSettings
) -> dict[str, Tensor]:
    """The prediction on a batch; in training it leaves out what only terms that are off read."""
    model, loss = modules["model"], settings.loss
    measuring = not model.training
    prediction = model(batch["image"], collect=measuring or loss.spectral.is_on)
    if measuring or loss.consistency.is_on:
        prediction |= _other_view(modules, batch, loss.consistency.teacher)
    if "decoder" in modules and (measuring or loss.decoded.is_on):
        decoder = modules["decoder"]
        prediction["field"] = decoder(prediction["main"], prediction["hier"])
        with torch.no_grad():
            prediction["target_field"] = decoder(batch["main"], batch["hier"])
    return prediction


@torch.no_grad()
def _other_view(
    modules: Modules, batch: Tensors, teacher: str
) -> dict[str, Tensor]:
    """The prediction on `paired`, from the network itself or its moving average, in eval mode:
    there is no dropout, and spectral normalisation does not advance.
    """
    model = plain_model(modules["model"])
    judge = plain_model(modules["ema.model"]) if teacher == "ema" else model
    training = judge.training
    judge.eval()
    prediction = judge(batch["paired"])
    judge.train(training)
    return {f"paired_{kind}": prediction[kind] for kind in ("main", "hier")}


@torch.no_grad()
def _predict(modules: Modules, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The prediction from pixels, [B, 1, S, S] of bytes; latents that were given, in their own
    units.
    """
    device = next(modules["model"].parameters()).device
    image = torch.from_numpy(np.array(pixels)).to(device).float() / 255.0
    prediction = modules["model"](image)
    if "decoder" in modules:
        prediction["field"] = modules["decoder"](prediction["main"], prediction["hier"])
    else:
        scalers: Any = modules["scalers"]
        prediction = {name: scalers[name].inverse(value) for name, value in prediction.items()}
    return {name: value.cpu().numpy() for name, value in prediction.items()}
