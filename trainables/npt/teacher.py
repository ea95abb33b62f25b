"""The teacher as a part of `prepare`: trained or read once, what dropping its attention costs, and
what is measured of it for all trials.

Shapes: M layers, d width, q directions.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from data.cache import cached_by, file_states
from data.files import DataError
from data.text.dataset import Prepared as Text
from data.text.dataset import open_split
from data.text.windows import TextWindows
from metrics.npt import nats
from models.npt.layers import (
    Recorded,
    Rule,
    layers_of,
    mlp,
    target,
    with_rules,
    without_attention,
)
from models.npt.llama import freeze, logits_of, make_llama, open_llama
from models.npt.student import LEVELS, teach
from settings.flat import replace
from trainables.api import External, external_file
from trainables.checkpoints.restore import fill, open_checkpoint
from trainables.external import read_tensors, write_tensors
from trainables.nested.training import say, train_within
from trainables.npt.byte_llama import ByteLlama, ByteLlamaSettings
from trainables.npt.settings import NptSettings

_FORMAT = 2
"""Version of what is stored; part of its name."""

_FILE, _CONFIG, _FACTS = "teacher.safetensors", "config.json", "facts.safetensors"

WINDOWS, BATCH = 128, 32
"""Windows that the teacher is measured on at most, and how many of them at once."""

DIRECTIONS = 64
"""Of the largest spread of norm(h) that are stored at most, for `loss.orthogonality.directions`.
"""

_RIDGE = 1e-3
"""Share of the mean square of a that is added to its moments before they are inverted."""


@dataclass(frozen=True)
class Cost:
    """What a student without attention there loses, in nats a token: mean over documents and its
    standard error.
    """

    mean: float
    error: float

    @property
    def is_seen(self) -> bool:
        return self.mean > 2.0 * self.error


@dataclass(frozen=True)
class Teacher:
    """A frozen Llama; small and picklable.

    Attributes:
        external: its weights.
        config: by which it is built.
        facts: file with `directions` [M, d, q] of the largest spread of norm(h), `mean` [M, d] of
            a, the affine map of a to what is missing without it, `weight` [M, d, d] and `bias`
            [M, d], and the quantiles of |a| at `LEVELS` even levels from 0 to 1, `lengths`.
        nats: of a token of the validation documents.
        costs: of each layer without attention, by number, and of `all`.
    """

    external: External
    config: Mapping[str, Any]
    facts: Path
    nats: float
    costs: Mapping[str, Cost]

    @property
    def layers(self) -> int:
        count: int = self.config["num_hidden_layers"]
        return count

    @property
    def size(self) -> tuple[int, int]:
        """d and d_ffn."""
        return self.config["hidden_size"], self.config["intermediate_size"]


def prepare_teacher(settings: NptSettings, text: Text, cache: Path) -> Teacher:
    """Trains the teacher on the training documents, or takes that of `teacher.path`, and measures
    it, once.

    Raises:
        DataError: the tokens are not of its vocabulary.
        TeacherError: the folder is no Llama.
    """
    node = settings.teacher
    given = sorted(Path(node.path).expanduser().glob("*")) if node.path else []
    # by path and time: tokens of other settings lie in another folder
    key: Sequence[Any] = (_FORMAT, asdict(node), asdict(settings.data), text.folder)
    folder, _ = cached_by(
        cache, "npt-teacher", (*key, file_states(given)), lambda to: _store(settings, text, to)
    )
    config = json.loads((folder / _CONFIG).read_text())
    if text.vocabulary > config["vocab_size"]:
        raise DataError(
            f"{node.path}: expected a Llama of {text.vocabulary} tokens or more, as "
            f"data.tokenizer has, found {config['vocab_size']}. Set data.tokenizer to its own."
        )
    external = external_file(folder / _FILE)
    facts, known = cached_by(
        cache,
        "npt-facts",
        (*key, external.fingerprint),
        lambda to: _measure(load(external.file, config), settings, text, to),
    )
    costs = {name: Cost(**cost) for name, cost in known["costs"].items()}
    return Teacher(external, config, facts / _FACTS, known["nats"], costs)


def load(file: Path, config: Mapping[str, Any]) -> nn.Module:
    """The frozen Llama of a file of `prepare_teacher`, in eval mode on the CPU."""
    llama: nn.Module = make_llama(config)
    fill(llama, read_tensors(file), str(file))
    freeze(llama)
    return llama.eval()


def _store(settings: NptSettings, text: Text, folder: Path) -> dict[str, Any]:
    node = settings.teacher
    llama: Any = (
        open_llama(Path(node.path).expanduser()) if node.path else _trained(settings, text, folder)
    )
    write_tensors(folder / _FILE, llama.state_dict())
    config = llama.config.to_dict()
    (folder / _CONFIG).write_text(json.dumps(config, indent=1))
    return {}


def _trained(settings: NptSettings, text: Text, folder: Path) -> nn.Module:
    """A ByteLlama, trained by the one loop."""
    node, data = settings.teacher, settings.data
    tree = replace(
        ByteLlamaSettings(model=node.network, data=data),
        {
            "optimizer.lr": node.lr,
            "train.steps": node.steps,
            "train.batch_size": node.batch_size,
            "train.report_every": max(1, node.steps // 3),
            "train.seed": node.seed,
            "train.tensorboard": False,
            "train.figures": False,
        },
    )
    with torch.random.fork_rng(devices=[]):
        newest = train_within(
            ByteLlama(),
            tree,
            text,
            folder / "training",
            name="teacher",
            column="val.nats_per_token",
            shown="{:.3f} nats a token",
        )
    llama = open_checkpoint(newest).modules["llama"]
    shutil.rmtree(folder / "training")
    return llama


# What is measured of it


@torch.no_grad()
def _measure(llama: nn.Module, settings: NptSettings, text: Text, folder: Path) -> dict[str, Any]:
    count = len(layers_of(llama))
    every = dataclasses.replace(settings.data, validation_windows=0)
    validation = open_split(text, "validation", every)
    rules: dict[str, Mapping[int, Rule]] = {
        **{str(at): {at: without_attention} for at in range(count)},
        "all": dict.fromkeys(range(count), without_attention),
    }
    whole = nats_by_document(llama, validation)
    mean = float(np.mean(list(whole.values())))
    costs = {}
    for name, rule in rules.items():
        without = nats_by_document(with_rules(llama, rule), validation)
        costs[name] = asdict(cost_of(whole, without))
    say(described(mean, {name: Cost(**cost) for name, cost in costs.items()}))
    facts = facts_of(llama, open_split(text, "train", settings.data), DIRECTIONS)
    save_file(facts, folder / _FACTS)
    return {"nats": mean, "costs": costs}


def cost_of(whole: Mapping[str, float], without: Mapping[str, float]) -> Cost:
    """Paired by document."""
    differences = np.array([without[name] - whole[name] for name in whole])
    count = len(differences)
    error = float(np.std(differences, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return Cost(float(differences.mean()), error)


def described(nats_per_token: float, costs: Mapping[str, Cost]) -> str:
    parts = (f"{name} {cost.mean:.3f} ± {cost.error:.3f}" for name, cost in costs.items())
    return (
        f"teacher: {nats_per_token:.3f} nats a token of the validation; without attention in "
        f"layer, more by {', '.join(parts)}"
    )


@torch.no_grad()
def nats_by_document(llama: nn.Module, windows: TextWindows) -> dict[str, float]:
    """Cross entropy of a token in each document, evenly spaced windows of all."""
    sums: dict[str, list[float]] = {}
    for indices, batch in _batches(windows):
        measured = nats(logits_of(llama, batch["tokens"]), batch)
        for index, total, count in zip(indices, *(x.tolist() for x in measured), strict=True):
            so_far = sums.setdefault(windows.units[index], [0.0, 0.0])
            so_far[0] += total
            so_far[1] += count
    return {name: total / count for name, (total, count) in sums.items()}


def facts_of(llama: nn.Module, windows: TextWindows, directions: int) -> dict[str, Tensor]:
    """See `Teacher.facts`; over real tokens of evenly spaced windows."""
    layers = layers_of(llama)
    places = tuple(range(len(layers)))
    moments = [_Moments() for _ in places]
    for _, batch in _batches(windows):
        _, records = teach(llama, batch["tokens"], places)
        for at in places:
            moments[at].add(layers[at], records[at], batch["mask"])
    each = [moment.facts(directions) for moment in moments]
    return {name: torch.stack([one[name] for one in each]).contiguous() for name in each[0]}


class _Moments:
    """Sums over tokens, float64: of (a, 1) and its products, of those with what is missing
    without attention, and of the products of norm(h). And all |a|.
    """

    def __init__(self) -> None:
        self.square = self.product = self.spread = self.normed = torch.zeros(())
        self.lengths: list[Tensor] = []

    def add(self, layer: nn.Module, record: Recorded, mask: Tensor) -> None:
        h, a = record.hidden, record.attention
        missing = target(layer, h, a) - mlp(layer, h)
        parts: Any = layer
        normed: Tensor = parts.post_attention_layernorm(h)
        x, y, z = (v[mask].double() for v in (a, missing, normed))
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        self.square = self.square + x.T @ x
        self.product = self.product + x.T @ y
        self.spread = self.spread + z.T @ z
        self.normed = self.normed + z.sum(dim=0)
        self.lengths.append(a[mask].norm(dim=-1))

    def facts(self, directions: int) -> dict[str, Tensor]:
        count = self.square[-1, -1]
        ridge = _RIDGE * self.square.diagonal()[:-1].mean() * torch.eye(len(self.square))
        ridge[-1, -1] = 0.0
        solved = torch.linalg.solve(self.square + ridge.double(), self.product)
        centre = self.normed / count
        covariance = self.spread / count - centre[:, None] * centre
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(-1)[:, :directions]
        facts = {
            "mean": self.square[-1, :-1] / count,
            "weight": solved[:-1],
            "bias": solved[-1],
            "directions": axes,
            "lengths": torch.from_numpy(
                np.quantile(torch.cat(self.lengths).numpy(), np.linspace(0.0, 1.0, LEVELS))
            ),
        }
        return {name: value.float() for name, value in facts.items()}


def _batches(windows: TextWindows) -> list[tuple[list[int], dict[str, Tensor]]]:
    count = min(WINDOWS, len(windows))
    chosen = np.linspace(0, len(windows) - 1, count).round().astype(int).tolist()
    batches = []
    for start in range(0, count, BATCH):
        indices = chosen[start : start + BATCH]
        samples = [windows[index] for index in indices]
        batch = {name: torch.stack([s[name] for s in samples]) for name in samples[0]}
        batches.append((indices, batch))
    return batches
