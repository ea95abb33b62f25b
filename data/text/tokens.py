"""Text as whole numbers and back: by bytes, or by a tokenizer on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.files import DataError

Tokens = NDArray[np.int64]

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"

_SEPARATORS = ("bos_token", "eos_token")
"""Entries of a tokenizer's configuration that may name what stands between documents."""


class Tokenizer(Protocol):
    """Attributes:
    size: of the vocabulary; every token lies below it.
    separator: the token before the first and after the last of a document, and between two.
    """

    size: int
    separator: int

    def encode(self, text: str) -> Tokens:
        """Of a text alone, without the separator."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; separators are left out."""


class ByteTokenizer:
    """The bytes of UTF-8, and the separator as the 257th token."""

    size = 257
    separator = 256

    def encode(self, text: str) -> Tokens:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        """A character that was cut is U+FFFD."""
        return bytes(t for t in tokens if t < 256).decode("utf-8", errors="replace")


class FolderTokenizer:
    """A Hugging Face tokenizer (tokenizer.json) in a folder; nothing is downloaded."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Library

        if not (folder / FILE).is_file():
            raise DataError(
                f"{folder}: expected the {FILE} of a Hugging Face tokenizer, found none. Save one "
                "there (tokenizer.save_pretrained), or leave data.tokenizer empty for bytes."
            )
        self._library = Library.from_file(str(folder / FILE))
        numbers = self._library.get_vocab(with_added_tokens=True).values()
        self.size = 1 + max(numbers)  # some leave numbers out
        self.separator = self._separator(folder)

    def _separator(self, folder: Path) -> int:
        named = {}
        if (folder / CONFIG).is_file():
            named = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        for entry in _SEPARATORS:
            value = named.get(entry)
            text = value.get("content") if isinstance(value, dict) else value
            token = self._library.token_to_id(text) if text else None
            if token is not None:
                return token
        raise DataError(
            f"{folder}: expected a token that begins or ends a document "
            f"({' or '.join(_SEPARATORS)} in {CONFIG}), found none. Name one there that {FILE} "
            "has."
        )

    def encode(self, text: str) -> Tokens:
        return np.array(self._library.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._library.decode([int(t) for t in tokens if t != self.separator])


def open_tokenizer(folder: str) -> Tokenizer:
    """That of the folder; of bytes where it is empty.

    Raises:
        DataError: the folder has no tokenizer, or one without a separator.
    """
    return FolderTokenizer(Path(folder).expanduser()) if folder else ByteTokenizer()
