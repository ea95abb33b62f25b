"""What the trials of `style_flow` share: latents of a folder, of fields or of images, the codec of
images, and the classifier of styles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.cache import cached_by
from data.style.dataset import Prepared, prepare
from data.style.sets import SPLITS
from settings.flat import flatten
from trainables.api import External
from trainables.style_flow.classifier import (
    ClassifierSettings,
    Judge,
    accuracy,
    refusal,
    train_classifier,
    write_classifier,
)
from trainables.style_flow.images import encode_images
from trainables.style_flow.settings import StyleFlowSettings

_FORMAT = 1
_FILE = "classifier.safetensors"


@dataclass(frozen=True)
class Styles(Prepared):
    """Latents, and what goes with them; small and picklable.

    Attributes:
        codec: the weights of the codec of images; None of latents.
        codec_meta: from which it is made again.
        judge: which style a latent has; None where nobody knows.
        notes: of the codec and the classifier.
        warnings: why there is no judge, in words.
    """

    codec: External | None = None
    codec_meta: Mapping[str, Any] = field(default_factory=dict)
    judge: Judge | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def prepare_styles(settings: StyleFlowSettings, cache: Path) -> Styles:
    """The latents of the settings, encoded where they are images, and the classifier.

    Raises:
        DataError: what `data.style.dataset.prepare` refuses.
        SettingsError: what `encode_images` and `train_classifier` refuse.
    """
    data = prepare(settings.data, cache)
    grey: Mapping[str, str] = {}
    known: dict[str, Any] = {"notes": {}}
    if data.are_images:
        encoded = encode_images(data, settings.vae, settings.data, cache)
        data, grey = encoded.data, encoded.grey
        known = {"codec": encoded.codec, "codec_meta": encoded.meta, "notes": encoded.notes}
    if settings.classifier.steps:
        judge, notes, warnings = _judge(data, grey, settings.classifier, cache)
        known |= {"judge": judge, "warnings": warnings, "notes": {**known["notes"], **notes}}
    return Styles(**vars(data), **known)


def _judge(
    data: Prepared, grey: Mapping[str, str], settings: ClassifierSettings, cache: Path
) -> tuple[Judge | None, dict[str, float], tuple[str, ...]]:
    """The classifier, what share it knows, and why it is refused. It is trained on images with
    and without colour, or it would tell styles by colour alone; and measured on those of
    validation and test.
    """
    paths = {split: str(Path(data.folder) / f"{split}.npy") for split in SPLITS}
    kinds = {"real": paths, **({"grey": grey} if grey else {})}

    def make(scratch: Path) -> dict[str, float]:
        latents, styles = _joined(list(kinds.values()), data.styles, SPLITS[:1])
        model = train_classifier(latents, styles, len(data.names), settings)
        write_classifier(scratch / _FILE, model)
        held_out = {name: _joined([of], data.styles, SPLITS[1:]) for name, of in kinds.items()}
        return {name: accuracy(model, *pair) for name, pair in held_out.items()}

    key = _FORMAT, data.folder, sorted(kinds), flatten(settings)
    folder, known = cached_by(cache, "style-classifier", key, make)
    shares = {name: float(share) for name, share in known.items()}
    notes = {f"styles known of held-out {name} latents": of for name, of in shares.items()}
    refused = refusal(shares["real"], data.names)
    if refused:
        return None, notes, (refused,)
    shape = int(data.shape[0]), len(data.names), settings.width
    return Judge(folder / _FILE, *shape), notes, ()


def _joined(
    kinds: Sequence[Mapping[str, str]],
    styles: Mapping[str, Sequence[int]],
    splits: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """Latents of all kinds and splits, and their styles."""
    pairs = [(of[split], styles[split]) for of in kinds for split in splits]
    latents = torch.cat([torch.from_numpy(np.load(path)) for path, _ in pairs])
    return latents, torch.tensor([style for _, of in pairs for style in of])
