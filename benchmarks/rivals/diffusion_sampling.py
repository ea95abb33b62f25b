"""What an image of the sampler costs against MONAI's `DiffusionInferer` with its RFlowScheduler:
the same layers and weights, Euler steps, the same number of them; and how far apart the images
are that both make of one noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.measuring.rows import Row, main

COUNTS = (10, 50)
"""Steps; both divide MONAI's 1,000, where its steps sum to 1 (`rivals.flow_solvers`)."""

IMAGES, BLOCKS = 4, 9
WEIGHTS_STD = 0.02
"""Of the weights, so that a velocity is not 0, as before the first step of a training."""

Sampler = Callable[[], Any]


def measure() -> Iterator[Row]:
    """CPU milliseconds of an image on one thread: medians over batches in turn; the ratio is the
    median over pairs.
    """
    import torch

    from benchmarks.measuring.steps import in_turn

    torch.set_num_threads(1)
    peer = "MONAI DiffusionInferer, RFlowScheduler"
    for steps in COUNTS:
        samplers = samplers_of({}, steps)
        off = float((samplers["ours"]() - samplers["monai"]()).abs().max())
        yield Row(f"diffusion_sampling/{steps}_steps/difference", off, "", "", None, None)
        times = in_turn({side: _timed(made) for side, made in samplers.items()}, BLOCKS)
        pairs = zip(times["monai"], times["ours"], strict=True)
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        ours, theirs = (1000 * statistics.median(times[side]) for side in samplers)
        yield Row(f"diffusion_sampling/{steps}_steps/image", ours, "ms", peer, theirs, ratio)


def samplers_of(changes: Mapping[str, Any], steps: int) -> dict[str, Sampler]:
    """Ours, as `generate` calls it, and MONAI's, of the demo's network: each returns images of the
    space [IMAGES, 1, *s], of one noise.

    Args:
        changes: of the demo's settings.
    """
    import torch

    from benchmarks.measuring.steps import prepared_settings
    from benchmarks.rivals.monai_flow import network_like, sampled, scheduler_like
    from models.diffusion.strategies.sampling import last
    from models.draws import draw_normal
    from settings.flat import replace
    from trainables.diffusion import use
    from trainables.system import load_system

    system = load_system("diffusion")
    settings, prepared = prepared_settings(system, changes)
    sampling = replace(settings.sampling, {"steps": steps})
    torch.manual_seed(0)
    modules = system.build(settings, prepared).modules
    ours = modules["network"].eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=WEIGHTS_STD)
    theirs = network_like(settings, ours.state_dict()).eval()
    scheduler, seeds = scheduler_like(settings), torch.arange(IMAGES)

    def by_us() -> Any:
        return last(use.sampled(settings, modules, {}, seeds, sampling)).x

    def by_monai() -> Any:
        noise = draw_normal(seeds, "noise", (1, *settings.sides))
        return sampled(theirs, scheduler, noise, steps)

    return {"ours": by_us, "monai": by_monai}


def _timed(made: Sampler) -> Callable[[], float]:
    """A function that makes images and returns the seconds of one; warmed up."""

    from benchmarks.measuring.steps import undisturbed_clock

    clock = undisturbed_clock()

    def run() -> float:
        began = clock()
        made()
        return (clock() - began) / IMAGES

    run()
    return run


if __name__ == "__main__":
    main(measure, __doc__)
