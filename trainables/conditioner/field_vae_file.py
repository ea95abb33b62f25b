"""Files of the simulation VAE and of its frozen decoder: tensors with what the modules are built
from, in one file that runs no code when it is read.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.fields.field_vae import FieldVaeModel, FrozenDecoder, ModelSettings
from settings.atomic_file import atomic_file
from settings.flat import flatten, replace
from settings.paths import TrainingPaths
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import fill, open_checkpoint
from trainables.conditioner.field_vae import FieldVae

_KEY = "weighbridge"


def write_module(
    path: Path, module: FieldVaeModel | FrozenDecoder, trained_on: str = ""
) -> None:
    """Writes the module's file whole or not at all.

    Args:
        trained_on: the hashes of its training fields (`data.fields.seen.packed`).
    """
    kind = {
        "network": flatten(module.settings),
        "length": module.length,
        "nodes": module.nodes,
        "trained_on": trained_on,
    }
    tensors = {key: value.cpu().contiguous() for key, value in module.state_dict().items()}
    described = {_KEY: json.dumps(kind)}
    with atomic_file(path, on_disk=True) as scratch:
        save_file(tensors, scratch, metadata=described)


def load_vae(path: Path) -> FieldVaeModel:
    """The VAE of a file, or of the newest checkpoint of a training's folder; on the CPU, in eval
    mode.

    Raises:
        CheckpointError: it is no VAE, or it is damaged.
    """
    if not path.is_dir():
        settings, length, nodes, tensors, _ = _read(path)
        vae = FieldVaeModel(settings, length, nodes)
        fill(vae, tensors, str(path))
        return vae.eval()
    newest = _newest(path)
    name = checkpoint.read_meta(newest)["system"]
    if name != FieldVae.name:
        raise checkpoint.CheckpointError(
            f"{path} is a checkpoint of {name}, not of {FieldVae.name}."
        )
    return open_checkpoint(newest).modules["vae"]  # type: ignore[return-value]


def trained_on(path: Path) -> tuple[str, bool]:
    """The hashes of the fields that `load_vae(path)` was trained on (`data.fields.seen.unpacked`),
    and whether these are all: not in what an earlier version wrote, and not where
    `train.init_from` brought weights of another training.
    """
    if not path.is_dir():
        text = _read(path)[-1]
        return text, bool(text)
    meta = checkpoint.read_meta(_newest(path))
    text = meta.get("built", {}).get("trained_on", "")
    return text, bool(text) and not meta.get("init_from")


def source_files(path: Path) -> list[Path]:
    """The files that `load_vae(path)` reads now; after more training they are others."""
    return [_newest(path) / "modules.safetensors"] if path.is_dir() else [path]


def _newest(path: Path) -> Path:
    """The newest checkpoint in a training's folder, or the folder itself, which should then be
    one.
    """
    folder = TrainingPaths(path).checkpoints
    steps = checkpoint.available(folder) if folder.is_dir() else []
    return steps[-1] if steps else path


def load_decoder(path: Path) -> FrozenDecoder:
    """The frozen decoder of a file, on the CPU.

    Raises:
        CheckpointError: it is no decoder, or it is damaged.
    """
    settings, length, nodes, tensors, _ = _read(path)
    decoder = FrozenDecoder(settings, length, nodes)
    fill(decoder, tensors, str(path))
    return decoder.eval()


def _read(path: Path) -> tuple[ModelSettings, int, int, dict[str, Tensor], str]:
    """Network, T, N, tensors and the hashes of the training fields ("" where there are none)."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            kind = json.loads((file.metadata() or {})[_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        network = replace(ModelSettings(), kind["network"])
        seen = kind.get("trained_on", "")
        return network, kind["length"], kind["nodes"], tensors, seen
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise checkpoint.CheckpointError(
            f"{path} cannot be read as a simulation VAE ({type(error).__name__}: {error}). Give a "
            "vae.safetensors, or the folder of a training."
        ) from error
