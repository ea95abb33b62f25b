"""The training of the simulation VAE that a system's `prepare` needs: once, however many processes
ask for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.fields.vae_dataset import split_fields
from losses.field_vae import LossSettings
from losses.terms import TermSettings
from models.fields.field_vae import FieldVaeModel, ModelSettings
from settings.atomic_file import atomic_file
from settings.flat import flatten, replace
from settings.schema import SettingsError, setting
from trainables.conditioner.field_vae import FieldVae, FieldVaeSettings
from trainables.conditioner.field_vae_file import load_vae, trained_on, write_module
from trainables.nested.training import refuse_group, say, train_within
from trainables.optimizing.optimizer import OptimizerSettings

VAE_FILE, REQUEST_FILE = "vae.safetensors", "request.json"

_NAME = "simulation VAE"


@dataclass(frozen=True, kw_only=True)
class VaeSettings(ModelSettings):
    """All that a system's `prepare` reads of its simulation VAE: the network and its training."""

    steps: int = setting(
        0, "of its training; 0 leaves it at the principal components (vae.linear)", low=0
    )
    batch_size: int = setting(32, "fields per step of its training", low=1, high=65536)
    lr: float = setting(3e-4, "peak learning rate of its training", low=1e-9, high=1.0)
    beta: float = setting(
        1e-6, "weight of its divergence, where that of the reconstruction is 1", low=0.0, high=1.0
    )
    seed: int = setting(0, "of its training", low=0)
    checkpoint: str = setting(
        "",
        "take this VAE instead of training one: a vae.safetensors, or the folder of a training or "
        "checkpoint of field_vae",
    )

    def check(self) -> None:
        super().check()
        if not (self.steps or self.linear or self.checkpoint):
            raise SettingsError(
                "vae.linear=false leaves a VAE that knows nothing before its training, and "
                "vae.steps is 0. Set vae.steps, or vae.linear=true."
            )

    @property
    def network(self) -> ModelSettings:
        """The part that the modules are built from."""
        return ModelSettings(**{f.name: getattr(self, f.name) for f in fields(ModelSettings)})


def train_or_load(
    vae: VaeSettings, fields_path: Path, train_indices: np.ndarray, folder: Path
) -> Path:
    """The file of a VAE of these fields: `vae.checkpoint`, or one that is trained in `folder`.

    It is trained once: an interrupted training goes on from its last checkpoint, and of two
    processes on one machine the second waits. A `folder` belongs to one request.

    Raises:
        SettingsError: the VAE of `vae.checkpoint` is another network, or for other fields.
        ValueError: `folder` holds a VAE of other settings, fields or training samples.
    """
    split = split_fields(fields_path, train_indices)
    if vae.checkpoint:
        path = Path(vae.checkpoint).expanduser()
        _check_shapes(vae, path, load_vae(path), split.shape)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / VAE_FILE
    request = {
        "vae": asdict(vae),
        "fields": list(split.shape),
        "train": hash_of_indices(np.array(split.train)),
    }
    with _only_one(folder):
        _claim(folder, request)
        if not file.is_file():
            refuse_group(_NAME)
            _train(vae, fields_path, np.array(split.train), folder)
        shutil.rmtree(folder / "training", ignore_errors=True)
    return file


def hash_of_indices(indices: np.ndarray) -> str:
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()


def _train(vae: VaeSettings, fields_path: Path, train: np.ndarray, folder: Path) -> None:
    indices = folder / "train.npy"
    np.save(indices, train)
    tree = _tree(vae, fields_path, indices)
    system: Any = FieldVae()
    prepared = system.prepare(tree, folder)
    if not vae.steps:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(vae.seed)
            built = system.build(tree, prepared)
        write_module(folder / VAE_FILE, built.modules["vae"], built.meta["trained_on"])
        return
    newest = train_within(
        system,
        tree,
        prepared,
        folder / "training",
        name=_NAME,
        column="val.reconstruction_error",
        shown="error {:.2%}",
        resume=True,
    )
    write_module(folder / VAE_FILE, load_vae(newest), trained_on(newest)[0])


def _tree(vae: VaeSettings, fields_path: Path, indices: Path) -> FieldVaeSettings:
    loss = LossSettings()
    kl = TermSettings(weight=vae.beta, schedule=loss.kl.schedule)
    base = FieldVaeSettings(
        model=vae.network,
        loss=LossSettings(reconstruction=loss.reconstruction, kl=kl),
        optimizer=OptimizerSettings(lr=vae.lr, warmup=0.05),
    )
    return replace(
        base,
        {
            "data.fields": str(fields_path.absolute()),
            "data.train_indices": str(indices.absolute()),
            "train.steps": max(1, vae.steps),
            "train.batch_size": vae.batch_size,
            "train.report_every": max(1, vae.steps // 4),
            "train.seed": vae.seed,
            "train.tensorboard": False,
        },
    )


def _check_shapes(
    vae: VaeSettings, path: Path, model: FieldVaeModel, shape: tuple[int, int, int]
) -> None:
    if (model.length, model.nodes) != shape[1:]:
        raise SettingsError(
            f"vae.checkpoint={path} decodes fields of {model.length} time steps x {model.nodes} "
            f"nodes, and the data has {shape[1]} x {shape[2]}. Give the VAE of this data, or "
            "leave vae.checkpoint empty to train one."
        )
    network, wanted = flatten(model.settings), flatten(vae.network)
    other = [f"vae.{key}={network[key]}" for key in wanted if network[key] != wanted[key]]
    if other:
        raise SettingsError(
            f"vae.checkpoint={path} is another network than the settings say. Set "
            f"{' '.join(other)}, or leave vae.checkpoint empty to train one."
        )


def _claim(folder: Path, request: Mapping[str, Any]) -> None:
    """Claims the folder for this request, or refuses."""
    path, claim = folder / REQUEST_FILE, json.loads(json.dumps(request))
    if not path.exists():
        with atomic_file(path, on_disk=True) as scratch:
            scratch.write_text(json.dumps(claim, indent=1))
        return
    stored = json.loads(path.read_text())
    if stored != claim:
        other = [key for key in claim if stored.get(key) != claim[key]]
        raise ValueError(
            f"{folder} holds a simulation VAE of other {' and '.join(other)}. Name another folder."
        )


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Lets one process in at a time; the lock goes with the process that holds it, however it
    ends.
    """
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"waiting for another process that trains a simulation VAE in {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
