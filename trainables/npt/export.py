"""A trained student as a folder of its own, which needs neither its training nor the data.

    config.json, model.safetensors    the teacher, as transformers opens it
    converter.safetensors, npt.json   the converters of its layers, and what they are built from
    tokenizer.json, ...               of a training with `data.tokenizer`; others have bytes

    from trainables.npt.export import load
    student = load("DIR")
    logits = student.logits(student.tokens("The import statement"))
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from data.files import DataError
from data.text.tokens import CONFIG, FILE, Tokenizer, open_tokenizer
from models.npt.layers import with_rules
from models.npt.llama import freeze, logits_of, open_llama, save_llama
from models.npt.settings import ConverterSettings
from models.npt.student import Converters
from settings.command import command
from settings.flat import replace
from trainables.api import Modules, SettingsError
from trainables.checkpoints.restore import fill
from trainables.external import read_tensors, write_tensors
from trainables.npt.forward import of
from trainables.npt.settings import NptSettings

FORMAT = 1
"""Version of the folder."""

_ABOUT, _WEIGHTS = "npt.json", "converter.safetensors"


@dataclass(frozen=True)
class Exported:
    """A student and its teacher, on the same weights, in eval mode on the CPU.

    Attributes:
        teacher: the frozen Llama.
        student: the same, called as it, with converted layers.
    """

    teacher: nn.Module
    student: nn.Module
    tokenizer: Tokenizer

    def tokens(self, text: str) -> Tensor:
        """The tokens of a text that begins a document, int64 [1, L]."""
        given = [self.tokenizer.separator, *self.tokenizer.encode(text).tolist()]
        return torch.tensor([given])

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """The student's, of the token after each: [B, L] -> [B, L, V]."""
        return logits_of(self.student, tokens)


def save(folder: Path, settings: NptSettings, modules: Modules) -> None:
    """Writes the folder of a trained student.

    Raises:
        SettingsError: it holds files already.
        DataError: the tokenizer of the training is gone.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise SettingsError(
            f"generate.export={folder} holds files already. Name another folder."
        )
    open_tokenizer(settings.data.tokenizer)  # or it says what is missing, before all is written
    folder.mkdir(parents=True, exist_ok=True)
    teacher: Any = modules["teacher"]
    converters = of(modules)
    save_llama(teacher, folder)
    write_tensors(folder / _WEIGHTS, converters.state_dict())
    if settings.data.tokenizer:
        _copy_tokenizer(Path(settings.data.tokenizer).expanduser(), folder)
    about = {
        "format": FORMAT,
        "layers": converters.layers,
        "directions": converters.directions.shape[-1],
        "converter": asdict(settings.model),
        "tokenizer": "folder" if settings.data.tokenizer else "bytes",
    }
    (folder / _ABOUT).write_text(json.dumps(about, indent=1))


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in (FILE, CONFIG):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def load(folder: str | Path) -> Exported:
    """Opens what `generate.export=DIR` has written; nothing is downloaded.

    Raises:
        DataError: it is no such folder, or a file of it is missing or damaged.
        TeacherError: the Llama in it cannot be read.
    """
    place = Path(folder).expanduser()
    about = _about(place)
    teacher: Any = open_llama(place)
    freeze(teacher)
    config = teacher.config
    layers: Sequence[int] = about["layers"]
    converters = Converters(
        tuple(layers),
        config.hidden_size,
        config.intermediate_size,
        replace(ConverterSettings(), about["converter"]),
        about["directions"],
    )
    try:
        weights = read_tensors(place / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{place}: expected {_WEIGHTS}, found none that can be read ({error}). Export the "
            "student anew."
        ) from error
    fill(converters, weights, str(place / _WEIGHTS))
    freeze(converters)
    teacher.eval()
    student = with_rules(teacher, dict(converters.eval().rules()))
    tokenizer = open_tokenizer(str(place) if about["tokenizer"] == "folder" else "")
    return Exported(teacher, student, tokenizer)


def _about(place: Path) -> dict[str, Any]:
    file = place / _ABOUT
    if not file.is_file():
        raise DataError(
            f"{place}: expected a student of npt ({_ABOUT}), found none. Write one: "
            f"{command('generate')} --checkpoint DIR --output OUT generate.export=FOLDER"
        )
    about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if about["format"] > FORMAT:
        raise DataError(
            f"{place}: expected format {FORMAT} or earlier, found {about['format']}. Open it with "
            "the version that wrote it, or a newer one."
        )
    return about
