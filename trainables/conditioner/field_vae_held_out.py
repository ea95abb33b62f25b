"""Whether a VAE that was trained elsewhere has seen the fields that it is to be measured on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data.cache import cache_key, cached_folder, file_states
from data.fields.seen import hashes_of, unpacked
from data.fields.vae_dataset import open_fields
from settings.schema import SettingsError
from trainables.conditioner.field_vae_file import source_files, trained_on

_REMEDY = (
    "Train that VAE on this data with the same data.split_seed, data.validation_share and "
    "data.test_share (of generated fields also data.seed and data.count), or leave vae.checkpoint "
    "empty to train one on the training fields."
)


def check_held_out(
    path: Path,
    fields_path: Path,
    train: np.ndarray,
    held_out: Mapping[str, np.ndarray],
    folder: Path,
) -> tuple[str, ...]:
    """Refuses a VAE that was trained on fields that are held out; looked up once, and kept below
    `folder`. A field that also is among those to train on is not counted.

    Args:
        path: a file of `write_module`, or the folder of a training of field_vae.
        train: indices of the training samples.
        held_out: split -> indices.

    Returns:
        What cannot be known, in words: an earlier version wrote no hashes, and a training that
        began from another one's weights has only its own.

    Raises:
        SettingsError: it was trained on some of them.
    """

    def make(scratch: Path) -> bool:
        text, is_whole = trained_on(path)
        fields, known = open_fields(fields_path), unpacked(text)
        seen = {name: np.isin(hashes_of(fields, at), known) for name, at in held_out.items()}
        if any(flags.any() for flags in seen.values()):
            own = hashes_of(fields, train)
            seen = {
                name: flags & ~np.isin(hashes_of(fields, held_out[name]), own)
                for name, flags in seen.items()
            }
        counts = [
            f"{flags.sum()} of the {len(flags)} {name} fields"
            for name, flags in seen.items()
            if flags.any()
        ]
        if counts:
            raise SettingsError(
                f"vae.checkpoint={path} was trained on {' and '.join(counts)} of this data: an "
                f"error on them would be one of fields that it has seen. {_REMEDY}"
            )
        return is_whole

    if cached_folder(folder / cache_key(file_states(source_files(path))), make):
        return ()
    return (
        f"vae.checkpoint={path} does not say which fields all of its weights were trained on, so "
        "it may have seen those of the validation and the test: an earlier version wrote it, or "
        f"train.init_from began it. {_REMEDY}",
    )
