"""Whether a diffusion whose noisy images are turned in training (ScoreAug) makes turned images,
with and without omega, which tells it of the turn (001-M8): the share of its images that a
classifier of turns takes for turned, by a quarter or along a diagonal.

The classifier is trained on turned and plain slices of the patients that the diffusion trains on,
and counts only if it knows at least 95 % of those of other patients, those of validation and test
together. What it sees of images that are made is measured as well: `turned_by_hand` is its share
of the images of `plain` after a turn. Of two laws that it could not tell apart, an image along its
own axes and one upside down, nothing is said: the heads of the data are nearly the same both ways.

The network is the DiT of the strategies' findings: at equal error, a step of it costs a third of
one of the UNet.

    python -m benchmarks.rivals.score_aug_leakage --json
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring.rows import Row, main, standard_error

if TYPE_CHECKING:
    from trainables.diffusion.prepared import Prepared

DRAWS = (4, 5, 6, 7)
IMAGES, STEPS = 64, 10
LEAST_ACCURACY = 0.95

NETWORK: Mapping[str, Any] = {
    "model.kind": "dit", "optimizer.lr": 8.2e-3, "train.steps": 400, "train.test": False,
}  # fmt: skip
"""Changes to the preset `right` in every arm; the rate is the best of five for this network."""

_ON = {"score_aug.enabled": True}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "omega": _ON,
    "no_omega": {**_ON, "score_aug.omega": False, "score_aug.allow_leakage": True},
}
"""Name -> further changes."""


def measure() -> Iterator[Row]:
    """Shares in percent, mean over the draws; the peer is their standard error."""
    from benchmarks.measuring.diffusion_images import begun, images_of, trained

    torch.set_num_threads(1)
    names = ("accuracy", "real", "turned_by_hand", *ARMS)
    shares: dict[str, list[float]] = {name: [] for name in names}
    classifiers = {}
    for draw in DRAWS:
        _, prepared = begun("right", NETWORK, draw)
        classifiers[draw] = _classifier(_slices(prepared, "train"))
        accuracy, real = _accuracy(classifiers[draw], prepared)
        if accuracy < LEAST_ACCURACY:
            raise SystemExit(
                f"draw {draw}: the classifier knows {accuracy:.1%} of the slices of other "
                f"patients, and says nothing below {LEAST_ACCURACY:.0%}."
            )
        shares["accuracy"].append(accuracy)
        shares["real"].append(real)
    for draw, classifier in classifiers.items():
        seeds = list(range(1000 * draw, 1000 * draw + IMAGES))
        for name, changes in ARMS.items():
            with tempfile.TemporaryDirectory() as folder:
                network = trained("right", {**NETWORK, **changes}, draw, Path(folder))
            made = images_of(network, seeds, STEPS)
            shares[name].append(_share_turned(classifier, made))
            if name == "plain":
                shares["turned_by_hand"].append(_share_turned(classifier, turned_images(made)))
    for name, values in shares.items():
        percent = [100.0 * value for value in values]
        mean, error = statistics.mean(percent), standard_error(percent)
        yield Row(f"score_aug_leakage/{name}", mean, "%", "its standard error", error, None)


def _accuracy(classifier: nn.Module, prepared: Prepared) -> tuple[float, float]:
    """(share of the slices of other patients that it knows, turned and plain in equal parts; share
    of the plain ones that it takes for turned).
    """
    others = torch.cat([_slices(prepared, split) for split in ("validation", "test")])
    real, hits = (_share_turned(classifier, each) for each in (others, turned_images(others)))
    return 0.5 * (hits + 1.0 - real), real


def _slices(prepared: Prepared, split: str) -> Tensor:
    """The images of a split as they are, [N, 1, H, W]."""
    from data.mri.dataset import open_split

    samples: Any = open_split(prepared.data, split)
    places = range(len(samples))
    keys = [(at, 0) for at in places] if split == "train" else list(places)
    return torch.stack([samples[key]["image"] for key in keys]).float()


def turned_images(images: Tensor) -> Tensor:
    """A quarter turn, or a flip along a diagonal, in turn."""
    ways = [torch.rot90(images, turns, (2, 3)) for turns in (1, 3)]
    ways += [way.flip(3) for way in ways]
    return torch.stack([ways[at % 4][at] for at in range(len(images))])


def _classifier(images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, width in ((1, 16), (16, 32), (32, 32), (32, 32)):
        layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(400):
        chosen = images[torch.randint(len(images), (32,))]
        chosen = chosen + 0.05 * torch.rand(32, 1, 1, 1) * torch.randn_like(chosen)
        flips = [axis for axis in (2, 3) if torch.rand(()) < 0.5]
        chosen = chosen.flip(flips)  # those keep the axes
        is_turned = torch.rand(32) < 0.5
        given = torch.where(is_turned.view(-1, 1, 1, 1), turned_images(chosen), chosen)
        loss = F.binary_cross_entropy_with_logits(network(given)[:, 0], is_turned.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def _share_turned(classifier: nn.Module, images: Tensor) -> float:
    return (classifier(images)[:, 0] > 0.0).double().mean().item()


if __name__ == "__main__":
    main(measure, __doc__)
