"""The use of a trained student: texts that it goes on with, and a folder that holds all of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from data.files import DataError
from data.text.sources import find_files
from data.text.tokens import Tokenizer, open_tokenizer
from models.npt.continuation import continued
from models.npt.layers import with_rules
from trainables.api import (
    Generates,
    Measures,
    Modules,
    Request,
    Settings,
    SettingsError,
    setting,
)
from trainables.npt.export import save
from trainables.npt.forward import of
from trainables.npt.settings import NptSettings

NETWORKS = ("student", "teacher")


@dataclass(frozen=True, kw_only=True)
class TextSettings(Settings):
    length: int = setting(64, "new tokens of a text at most", low=1, high=1 << 20)
    temperature: float = setting(
        0.0,
        "T, by which logits are divided before a token is drawn; 0 takes the likeliest",
        low=0.0,
        high=100.0,
    )
    network: str = setting(
        "student", "what goes on: the student, or its teacher", choices=NETWORKS
    )
    export: str = setting(
        "",
        "an empty or new folder for all that the student is: trainables.npt.export.load opens it",
    )


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Settings):
    """What `generate` is asked for."""

    generate: TextSettings = field(default_factory=TextSettings)


GENERATES = Generates(
    "a text file, or a folder of some",
    needs_inputs=False,
    draws=True,
    batch_size=8,
    options=GenerateSettings,
    prompts="a text",
)


@dataclass(frozen=True)
class _Prompt:
    """Tokens of a text behind the separator, as many of the last as the network has room for.

    Attributes:
        left_out: tokens before those.
    """

    text: list[int]
    left_out: int

    @property
    def tokens(self) -> list[int]:
        return self.text[self.left_out :]


def generate(settings: NptSettings, modules: Modules, request: Request) -> Measures:
    """Writes `<index>.txt` for every sample: the prompt, or the text of an input, and what the
    network goes on with; from the beginning of a document where there is neither. Of a text that
    is too long, its end is read, and what is left out is counted.

    Raises:
        SettingsError: no room for so many tokens, more than one sample of what is not drawn, or a
            folder for the export that holds files.
        DataError: there is no text, or the tokenizer is gone.
    """
    options: TextSettings = request.options.generate
    teacher: Any = modules["teacher"]
    room = int(teacher.config.max_position_embeddings)
    _check(request, options, room)
    if options.export and request.rank == 0:
        save(Path(options.export).expanduser(), settings, modules)
    tokenizer = open_tokenizer(settings.data.tokenizer)
    prompts = [_prompt(text, tokenizer, room - options.length) for text in _texts(request)]
    network: nn.Module = teacher
    if options.network == "student":
        network = with_rules(teacher, dict(of(modules).rules()))
    samples = tokens = 0
    began = time.perf_counter()
    for indices, seeds in request.batches(len(prompts)):
        asked = [prompts[index // request.count] for index in indices]
        endings = continued(
            network,
            [prompt.tokens for prompt in asked],
            options.length,
            tokenizer.separator,
            options.temperature,
            seeds,
        )
        for index, prompt, ending in zip(indices, asked, endings, strict=True):
            text = tokenizer.decode([*prompt.text, *ending])
            (request.target / f"{index:06d}.txt").write_text(text, encoding="utf-8")
            samples, tokens = samples + 1, tokens + len(ending)
    counts: dict[str, float] = {"samples": samples, "tokens": tokens}
    if request.rank == 0:
        counts["prompt_tokens_left_out"] = sum(prompt.left_out for prompt in prompts)
    return {**counts, "tokens_per_second": (tokens, time.perf_counter() - began)}


def _check(request: Request, options: TextSettings, room: int) -> None:
    if options.length >= room:
        raise SettingsError(
            f"generate.length must lie below {room}, the places that this teacher knows, not "
            f"{options.length}: the prompt needs one at least. Lower it."
        )
    if request.count > 1 and not options.temperature:
        raise SettingsError(
            f"--count {request.count}: at generate.temperature=0 nothing is drawn, and all "
            "samples of a text are one. Set generate.temperature=1, say, or leave out --count."
        )


def _texts(request: Request) -> list[str]:
    if request.source is None:
        return [request.prompt or ""]
    paths = find_files(request.source)
    if not paths:
        raise DataError(f"{request.source}: expected text files, found none. Put some there.")
    try:
        return [path.read_text(encoding="utf-8") for path in paths]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{request.source}: expected text in UTF-8, found bytes that are none ({error}). "
            "Write it anew."
        ) from error


def _prompt(text: str, tokenizer: Tokenizer, room: int) -> _Prompt:
    tokens = [tokenizer.separator, *(int(token) for token in tokenizer.encode(text))]
    return _Prompt(tokens, max(0, len(tokens) - room))
