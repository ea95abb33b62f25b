"""What parameters in bf16 cost in quality and save in memory: the demo's VAE of slices at the
learning rate of the preset `bf16_weights`, with parameters in fp32, in bf16 as they are updated
now (`trainables.optimizing.compensated`), and in bf16 rounded after each update, as torch's own
AdamW does it with moments in bf16. Beside them `references/<name>/l1`: what needs no training, on
the same draws.

`l1` is the absolute error of the validation images after so many steps, the mean over draws of
the data, the weights and the batches, each shared by the three sides; `moved` the share of the
weights that are not what they were at first; `bytes` what a parameter takes with its gradient and
all that the optimizer keeps of it. The images are of 64 x 64 pixels in batches of 8, the rate is
constant, and all is computed in the precision of the parameters, without autocast.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from benchmarks.measuring.rows import Row, main, row, standard_error
from settings.files import preset_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trainables.loop import Training

Found = dict[str, float]
"""Of one training: `bytes`, and `l1@STEPS` and `moved@STEPS` for each number of steps."""

DRAWS = 4
STEPS = (100, 200)
BASE = "fp32"
SIDES: Mapping[str, str] = {BASE: "no", "bf16": "bf16", "bf16_rounded": "bf16"}
"""Name -> `model.pure_weights`; the last one has torch's own AdamW."""
COLUMNS = ("bytes", *(f"{what}@{steps}" for steps in STEPS for what in ("l1", "moved")))


def measure() -> Iterator[Row]:
    """The sides take turns, draw by draw."""
    import torch

    torch.set_num_threads(1)
    found: dict[str, list[Found]] = {side: [] for side in SIDES}
    for draw in range(DRAWS):
        for side, trainings in found.items():
            trainings.append(trained(side, draw))
    yield from rows_of(found)
    yield from rows_of_references([references(draw) for draw in range(DRAWS)])


def rows_of(found: Mapping[str, Sequence[Found]]) -> Iterator[Row]:
    """Means over the draws; of errors also what the mean may be off by, and the difference to fp32
    in pairs.
    """
    for side, trainings in found.items():
        for column in COLUMNS:
            name, is_error = f"bf16_weights/{side}/{column}", column.startswith("l1")
            ours, base = ([each[column] for each in which] for which in (trainings, found[BASE]))
            peer = None if side == BASE else statistics.mean(base)
            yield row(
                name,
                statistics.mean(ours),
                "B" if column == "bytes" else "",
                BASE if side != BASE else "",
                peer,
                higher_is_better=column.startswith("moved"),
            )
            if is_error:
                yield row(f"{name}/error", standard_error(ours) or 0.0, "", "", None)
            if is_error and side != BASE:
                pairs = [one - other for one, other in zip(ours, base, strict=True)]
                yield row(f"{name}/difference", statistics.mean(pairs), "", "", None)
                yield row(f"{name}/difference_error", standard_error(pairs) or 0.0, "", "", None)


def rows_of_references(draws: Sequence[Mapping[str, float]]) -> Iterator[Row]:
    """Means over the draws, and their standard errors."""
    for name in draws[0]:
        values = [found[name] for found in draws]
        place = f"bf16_weights/references/{name}/l1"
        yield row(place, statistics.mean(values), "", "", None)
        yield row(f"{place}/error", standard_error(values) or 0.0, "", "", None)


def values_of(side: str, draw: int) -> dict[str, Any]:
    """The settings of a training, above the defaults."""
    preset = preset_file("compression", "bf16_weights").values
    return {
        **preset_file("compression", "document_vae").values,
        "optimizer.lr": preset["optimizer.lr"],
        "optimizer.warmup": 0.0,
        "optimizer.schedule": "constant",
        "model.pure_weights": SIDES[side],
        "metric.efficientnet": False,
        "metric.ms_ssim": False,
        "train.measure_idle_terms": False,
        "train.tensorboard": False,
        "train.figures": False,
        "train.steps": max(STEPS),
        "train.report_every": min(STEPS),
        "train.keep_every": min(STEPS),
        "train.seed": draw,
        "data.seed": draw,
        "data.patients": (8, 2, 2),
    }


def trained(side: str, draw: int, changes: Mapping[str, Any] = MappingProxyType({})) -> Found:
    """What comes of a training, of a smaller one with `changes`."""
    import torch

    from ray_jobs.verb import cache_directory
    from settings.flat import replace
    from trainables.checkpoints import checkpoint
    from trainables.compression.system import Compression
    from trainables.loop import Training
    from trainables.run import LocalRun

    system = Compression()
    settings = replace(system.Settings(), {**values_of(side, draw), **changes})
    prepared = system.prepare(settings, cache_directory())
    with TemporaryDirectory() as folder:
        run = LocalRun(Path(folder))
        training = Training(system, settings, run, prepared)
        if side == "bf16_rounded":
            round_each_update(training)
        model = training.modules["autoencoder"]
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        training.run_to_end()
        found = {"bytes": bytes_of(training)}
        training.close()
        reports = {report["step"]: report for report in run.history}
        for path in checkpoint.available(run.directory / "checkpoints"):
            stored = checkpoint.load(path, system.name)
            now = {name: stored.tensors[f"module.autoencoder.{name}"] for name in before}
            moved = [(value != now[name]).flatten() for name, value in before.items()]
            found[f"moved@{stored.step}"] = float(torch.cat(moved).float().mean())
            found[f"l1@{stored.step}"] = float(reports[stored.step]["val.l1"] or 0.0)
    return found


def references(draw: int, changes: Mapping[str, Any] = MappingProxyType({})) -> dict[str, float]:
    """The L1 of what needs no training; `untrained` is the network with a linear map beside it
    (`model.vae.shortcut=lapped`), which begins as that map.
    """
    from ray_jobs.verb import cache_directory
    from settings.flat import replace
    from trainables.compression.system import Compression
    from trainables.reporting.references import measure_references

    system = Compression()
    settings = replace(system.Settings(), {**values_of(BASE, draw), **changes})
    lapped = replace(settings, {"model.vae.shortcut": "lapped"})
    prepared = system.prepare(settings, cache_directory())
    found = measure_references(system, settings, prepared, document=lapped)
    return {name: float(values["val.l1"] or 0.0) for name, values in found.items()}


def round_each_update(training: Training[Any, Any]) -> None:
    """Gives a training that has not begun torch's own AdamW."""
    import torch

    (update,) = training.updates
    groups = [dict(group) for group in update.optimizer.param_groups]
    rule = torch.optim.AdamW(groups)
    update.optimizer = training.accelerator.prepare_optimizer(rule)


def bytes_of(training: Training[Any, Any]) -> float:
    """Of parameters, their gradients and the optimizer's state, for each parameter."""
    (update,) = training.updates
    state: Mapping[Tensor, Mapping[str, Tensor]] = update.optimizer.state
    total = 2 * sum(p.numel() * p.element_size() for p in update.parameters)
    for parameter in update.parameters:
        kept = [value for value in state[parameter].values() if value.ndim]
        total += sum(value.numel() * value.element_size() for value in kept)
    return total / sum(p.numel() for p in update.parameters)


if __name__ == "__main__":
    main(measure, __doc__)
