"""Llama (arXiv 2302.13971) of the transformers library, imported where one is made: that takes
seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from models.npt.settings import LlamaSettings

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

Config = Mapping[str, Any]
"""What `config.json` of a Llama holds, or a part of it; the rest is the library's default."""


class TeacherError(ValueError):
    """A folder that is no Llama: which one, what was expected, what was found."""


def config_of(settings: LlamaSettings, vocabulary: int, separator: int, positions: int) -> Config:
    """Of a Llama of that size with tied embeddings, as Llama 3.2 1B has them. Weights begin with a
    deviation of 1 / sqrt(d), which at its width is the library's own 0.02.

    Args:
        vocabulary: its size.
        separator: the token before and after a document.
        positions: the longest text that it is trained on, in tokens.
    """
    return {
        "vocab_size": vocabulary,
        "hidden_size": settings.width,
        "intermediate_size": settings.hidden,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.key_heads,
        "max_position_embeddings": positions,
        "bos_token_id": separator,
        "eos_token_id": separator,
        "tie_word_embeddings": True,
        "initializer_range": settings.width**-0.5,
    }


def read_config(folder: Path) -> Config:
    """`config.json` of a Llama on this machine.

    Raises:
        TeacherError: there is none, or it is of another architecture.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise TeacherError(
            f"{folder}: expected the folder of a Llama (config.json, *.safetensors), found no "
            "config.json. Save one there (model.save_pretrained)."
        )
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind != "llama":
        raise TeacherError(
            f"{folder}: expected a Llama, whose MLP has a gate, found model_type={kind}. Give a "
            "Llama."
        )
    return config


def make_llama(config: Config) -> LlamaForCausalLM:
    """Freshly initialised from the current random state."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig.from_dict(dict(config)))


def open_llama(folder: Path) -> LlamaForCausalLM:
    """The Llama of a folder on this machine; nothing is downloaded.

    Raises:
        TeacherError: it is none.
    """
    from transformers import LlamaForCausalLM

    read_config(folder)
    try:
        with _without_bars():
            return LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"{folder}: expected the weights of a Llama (*.safetensors), found none that can be "
            f"read ({error}). Save the model there anew."
        ) from error


def save_llama(llama: LlamaForCausalLM, folder: Path) -> None:
    """Writes a folder that `open_llama` opens."""
    with _without_bars():
        llama.save_pretrained(folder)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the library's progress bars, of one file each."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def freeze(module: nn.Module) -> None:
    module.requires_grad_(False)


def logits_of(llama: nn.Module, tokens: Tensor) -> Tensor:
    """Of the token after each, [B, L, V]. Padding needs no mask: it stands at the end, where
    nothing before it looks.
    """
    logits: Tensor = llama(input_ids=tokens, use_cache=False).logits
    return logits
