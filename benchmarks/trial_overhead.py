"""What a trial costs beside its training: a sweep of trivial trials, ours against Ray's
documented pattern.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measuring.commands import scratch, sweep, timed
from benchmarks.measuring.rows import Row, main, row

PEER = "Tune function that starts TorchTrainer(num_workers=1)"


def measure() -> Iterator[Row]:
    """`each_further`: the slope, start-up taken out. `sweep_of_12`: the whole command."""
    with scratch() as folder:

        def ours(trials: int) -> float:
            return timed(sweep(folder, f"ours-{trials}", "--trials", str(trials)))

        def peer(trials: int) -> float:
            target = str(folder / f"peer-{trials}")
            arguments = ["--trials", str(trials), "--dir", target]
            return timed(["-m", "benchmarks.measuring.documented_pattern", *arguments])

        slope = (ours(100) - ours(20)) / 80
        peer_slope = (peer(6) - peer(2)) / 4
        yield row("trial_overhead/each_further", slope, "s", PEER, peer_slope)
        yield row("trial_overhead/sweep_of_12", ours(12), "s", PEER, peer(12))


if __name__ == "__main__":
    main(measure, __doc__)
