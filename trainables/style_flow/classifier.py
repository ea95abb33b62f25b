"""The classifier of styles: trained on real latents in `prepare`, measured on others that it has
not seen, and refused where it does not know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.style_flow.classifier import StyleClassifier, statistics
from trainables.api import Settings, SettingsError, setting

LEAST = 0.95
"""Share of held-out real latents that a classifier must know, or it is no measure."""

_PENALTY = 0.03
"""Weight of half the squared weights of the linear part. Of 0.001, 0.01, 0.03 and 0.1 it was the
best beside the network, on crops through principal components.
"""

_NOISE = 0.1
"""Deviation of the noise on latents of deviation 1, in training."""

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(Settings):
    steps: int = setting(
        400,
        "of the training of the classifier of styles behind val.style_accuracy; 0 for none",
        low=0,
        high=100_000,
    )
    batch_size: int = setting(64, "latents per step of its training", low=2, high=4096)
    width: int = setting(32, "channels of its first convolutions", low=1, high=1024)
    lr: float = setting(1e-2, "peak learning rate of its network", low=1e-6, high=1.0)
    seed: int = setting(0, "of its training", low=0)


def train_classifier(
    latents: Tensor, styles: Tensor, count: int, settings: ClassifierSettings
) -> StyleClassifier:
    """On the CPU, in eval mode; the same for the same arguments.

    Args:
        latents: of the training split [N, C, H, W].
        styles: int64 [N], below `count`.

    Raises:
        SettingsError: the latents are too small for it.
    """
    if min(latents.shape[2:]) < 7:
        raise SettingsError(
            "the classifier of styles needs latents of 7 x 7 or more, not "
            f"{latents.shape[2]} x {latents.shape[3]}. Take larger ones, or set "
            "classifier.steps=0."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        model = StyleClassifier(latents.shape[1], count, settings.width)
        _fit_linear(model, latents, styles)
        _train_network(model, latents, styles, settings)
    return model.eval()


def turned(latents: Tensor, way: int) -> Tensor:
    """One of the eight symmetries of a square (of four where the sides differ): a texture seen so
    is of the same style.
    """
    if way & 1:
        latents = latents.flip(3)
    if way & 2:
        latents = latents.flip(2)
    is_square = latents.shape[2] == latents.shape[3]
    return latents.transpose(2, 3) if way & 4 and is_square else latents


def _fit_linear(model: StyleClassifier, latents: Tensor, styles: Tensor) -> None:
    """Multinomial logistic regression, with a penalty, by L-BFGS."""
    views = [turned(latents, way) for way in (0, 1, 2, 4)]
    values = torch.cat([statistics(part) for view in views for part in view.split(_AT_ONCE)])
    wanted = styles.repeat(len(views))
    model.mean.copy_(values.mean(dim=0))
    model.deviation.copy_(values.std(dim=0) + 1e-3)
    values = model.standardised(values)
    optimizer: Any = torch.optim.LBFGS(
        model.linear.parameters(), max_iter=60, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        penalty = 0.5 * _PENALTY * model.linear.weight.square().sum()
        value = F.cross_entropy(model.linear(values), wanted) + penalty
        value.backward()
        return value

    optimizer.step(loss)


def _train_network(
    model: StyleClassifier, latents: Tensor, styles: Tensor, settings: ClassifierSettings
) -> None:
    parameters = [*model.convolutions.parameters(), *model.last.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps
    )
    model.train()
    for step in range(settings.steps):
        chosen = torch.randint(len(latents), (settings.batch_size,))
        seen = turned(latents[chosen], step % 8)
        logits = model.by_convolutions(seen + _NOISE * torch.randn_like(seen))
        optimizer.zero_grad()
        F.cross_entropy(logits, styles[chosen]).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: StyleClassifier, latents: Tensor, styles: Tensor) -> float:
    """Share of the latents that are taken for the style that they have."""
    parts = zip(latents.split(_AT_ONCE), styles.split(_AT_ONCE), strict=True)
    right = sum(int((model(part).argmax(dim=1) == own).sum()) for part, own in parts)
    return right / len(latents)


def refusal(known: float, styles: Sequence[str]) -> str:
    """Why a classifier is no measure; "" of one that is."""
    if known >= LEAST:
        return ""
    return (
        f"val.style_accuracy is not measured: the classifier of styles knows {known:.1%} of the "
        f"held-out latents of {', '.join(styles)}, and a measure needs {LEAST:.0%}. Raise "
        "classifier.steps or the number of latents, or take styles that differ more."
    )


def write_classifier(path: Path, model: StyleClassifier) -> None:
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def read_classifier(path: Path, channels: int, styles: int, width: int) -> StyleClassifier:
    model = StyleClassifier(channels, styles, width)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


class Judge:
    """A classifier in a file, which says the style of latents [B, C, H, W]: int64 [B]."""

    def __init__(self, path: Path, channels: int, styles: int, width: int) -> None:
        self.path, self.shape = path, (channels, styles, width)
        self._model: StyleClassifier | None = None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        if self._model is None:
            self._model = read_classifier(self.path, *self.shape)
        self._model = self._model.to(latents.device)
        return self._model(latents).argmax(dim=1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}
