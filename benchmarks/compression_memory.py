"""What the autoencoders' savings of memory save in a training step: activations recomputed in the
backward pass, no critic, and parameters kept in bf16.

The document's networks on smaller images: its VAE of slices in two of 96 pixels, that of volumes
in one of 48 x 48 x 48. `peak_memory` is measured, in a process for each measurement: on a CPU what
that process grew by, on a GPU the most that tensors took; `step` is its time. Where a CPU has no
arithmetic in bf16 it takes copies in fp32, so there nothing is measured of bf16.

What autograd keeps is counted instead, and the same on every device: `for_backward` is the most
that is kept for a backward pass, in bytes a pixel more; `documented_size` is all of it with
parameters, gradients, the optimizer's state and the moving average, at the preset's image and
batch size.

What parameters in bf16 cost in quality stands beside it (`benchmarks.measuring.bf16_weights`,
which runs by itself as well).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import bf16_weights
from benchmarks.measuring.rows import Row, main, row
from settings.files import preset_file

if TYPE_CHECKING:
    from torch import Tensor

Step = dict[str, Any]
"""What was found out about one side."""

REPEATS = 3

PRESETS = {"vae_2d": "paper_vae", "vae_3d": "paper_vae_3d"}
MEASURED: Mapping[str, Mapping[str, Any]] = {
    "vae_2d": {"data.image_size": 96, "train.batch_size": 2},
    "vae_3d": {"data.volume_size": (48, 48, 48)},
}
COUNTED: Mapping[str, Mapping[str, Any]] = {
    "vae_2d": {"data.image_size": 48},
    "vae_3d": {"data.volume_size": (24, 24, 24)},
}
"""Network -> what is changed in its preset."""

_FP32 = {"train.precision": "no", "model.checkpointing": False}
_BF16 = {**_FP32, "train.precision": "bf16"}
SIDES: Mapping[str, Mapping[str, Any]] = {
    "fp32": _FP32,
    "checkpointing": {**_FP32, "model.checkpointing": True},
    "no_critic": {**_FP32, "discriminator.enabled": False, "loss.adversarial.enabled": False},
    "bf16": _BF16,
    "pure_weights": {**_BF16, "model.pure_weights": "bf16"},
}
"""Name -> what is changed in the network; `bf16` is autocast, and parameters in fp32."""

COMPARED: Mapping[str, tuple[str, str]] = {
    "checkpointing": ("fp32", "; the document says about 50 % less"),
    "no_critic": ("fp32", "; the document says 15 GB less, in 3-D"),
    "bf16": ("fp32", ""),
    "pure_weights": ("bf16", "; the document says about 50 % less"),
}
"""Side -> the one that it is compared with, and what the source document says of its memory."""

BYTES: Mapping[str, int] = {"no": 16, "bf16": 14, "fp16": 8}
"""`model.pure_weights` -> what a parameter takes with its gradient and what the optimizer keeps of
it: Adam's two moments, and of bf16 the bits that rounding leaves off.
"""


class Held:
    """Counts the bytes that autograd keeps for the backward pass, each piece of memory once,
    parameters and their views not at all, by
    `torch.autograd.graph.saved_tensors_hooks(held.pack, held.unpack)`.

    What `torch.utils.checkpoint` keeps and recomputes is not seen.
    """

    def __init__(self) -> None:
        self.peak_bytes = self._bytes = 0
        self._users: Counter[int] = Counter()

    def pack(self, tensor: Tensor) -> _Kept | Tensor:
        whole = tensor if tensor._base is None else tensor._base
        return tensor if whole.is_leaf and whole.requires_grad else _Kept(self, tensor)

    @staticmethod
    def unpack(kept: _Kept | Tensor) -> Tensor:
        return kept.tensor if isinstance(kept, _Kept) else kept

    def count(self, tensor: Tensor, by: int) -> None:
        """One user more, or one less."""
        storage = tensor.untyped_storage()
        before = self._users[storage.data_ptr()]
        self._users[storage.data_ptr()] += by
        if 0 in (before, before + by):
            self._bytes += by * storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._bytes)


class _Kept:
    """A tensor while autograd needs it."""

    def __init__(self, held: Held, tensor: Tensor) -> None:
        # detached: a graph that holds its own output would never be freed
        self.held, self.tensor = held, tensor.detach()
        held.count(self.tensor, 1)

    def __del__(self) -> None:
        self.held.count(self.tensor, -1)


def measure() -> Iterator[Row]:
    """Medians; the sides of a network take turns. `spread` is how far the repeats of one side lie
    apart at most, in parts of their median.
    """
    import torch

    everywhere = torch.cuda.is_available()
    measured = [side for side in SIDES if everywhere or SIDES[side]["train.precision"] == "no"]
    spread = 0.0
    for network in PRESETS:
        found: dict[str, list[Step]] = {side: [] for side in measured}
        for _ in range(REPEATS):
            for side, steps in found.items():
                steps.append(_alone(profiled, values_of(network, side, MEASURED)))
        yield from _rows(network, "peak_memory", "peak_mb", "MB", found)
        yield from _rows(network, "step", "step_seconds", "s", found)
        for steps in found.values():
            peaks = [step["peak_mb"] for step in steps]
            spread = max(spread, (max(peaks) - min(peaks)) / statistics.median(peaks))
    yield row("compression_memory/spread", spread, "", "", None)
    for network in PRESETS:
        yield from counted(network)
    yield from bf16_weights.measure()


def counted(network: str) -> Iterator[Row]:
    """The rows of what autograd keeps. Of two batches, for what is kept but once, as the copies of
    the weights that autocast makes, does not grow with them.
    """
    found: dict[str, list[Step]] = {}
    for side in SIDES:
        if side == "checkpointing":  # what it keeps and recomputes autograd does not see
            continue
        values = values_of(network, side, COUNTED)
        one, two = (_alone(held, {**values, "train.batch_size": size}) for size in (1, 2))
        pixels = pixels_of({**values, "train.batch_size": 1})
        per_pixel = (two["backward_bytes"] - one["backward_bytes"]) / pixels
        more = pixels_of(values_of(network, side, {})) - pixels
        total = one["fixed_bytes"] + one["backward_bytes"] + per_pixel * more
        found[side] = [{"per_pixel": per_pixel, "gigabytes": total / 1e9}]
    yield from _rows(network, "for_backward", "per_pixel", "B", found)
    yield from _rows(network, "documented_size", "gigabytes", "GB", found)


def _rows(
    network: str, what: str, column: str, unit: str, found: Mapping[str, list[Step]]
) -> Iterator[Row]:
    for side, (base, claim) in COMPARED.items():
        if side in found:
            ours, peer = (
                statistics.median(step[column] for step in found[which]) for which in (side, base)
            )
            told = claim if what in ("peak_memory", "documented_size") else ""
            name = f"compression_memory/{network}/{side}/{what}"
            yield row(name, ours, unit, f"{base}{told}", peer)


def values_of(network: str, side: str, size: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of a training, above the defaults; the documented size where none is given."""
    preset = preset_file("compression", PRESETS[network]).values
    return {**preset, **size.get(network, {}), **SIDES[side]}


def pixels_of(values: Mapping[str, Any]) -> int:
    """Of a batch."""
    dims = values.get("model.spatial_dims", 2)
    space = values["data.volume_size"] if dims == 3 else (values["data.image_size"],) * 2
    return math.prod(space) * values["train.batch_size"]


def _alone(measured: Callable[[dict[str, Any]], Step], values: dict[str, Any]) -> Step:
    """The measures of a process that does nothing else."""
    from multiprocessing import get_context

    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (values,))


def profiled(values: dict[str, Any]) -> Step:
    import torch

    from settings.flat import replace
    from trainables.compression.system import Compression

    torch.set_num_threads(1)
    system = Compression()
    return system.profile_step(replace(system.Settings(), values), steps=1)


def held(values: dict[str, Any]) -> Step:
    """`backward_bytes`, what is kept for a backward pass at most, and `fixed_bytes`: parameters,
    gradients, what the optimizer keeps and the moving average, which is in fp32.
    """
    from torch.autograd.graph import saved_tensors_hooks

    counts = Held()
    with saved_tensors_hooks(counts.pack, counts.unpack):
        step = profiled(values)
    size = BYTES[values.get("model.pure_weights", "no")]
    fixed = size * step["parameters"] + BYTES["no"] * step["critic_parameters"]
    if values.get("train.ema_decay", 0.0) > 0.0:
        fixed += 4 * (step["parameters"] + step["critic_parameters"])
    return {"backward_bytes": counts.peak_bytes, "fixed_bytes": fixed}


if __name__ == "__main__":
    main(measure, __doc__)
