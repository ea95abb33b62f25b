"""What training the demo of `npt` by the one loop costs against a bare torch loop of the same
networks, terms and batches: CPU seconds of a step on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measuring.rows import Row, main

BLOCKS, STEPS = 24, 2


def measure() -> Iterator[Row]:
    from benchmarks.measuring.bare import against_bare
    from trainables.npt.system import Npt

    yield against_bare("npt_loop/step", Npt(), STEPS, BLOCKS)


if __name__ == "__main__":
    main(measure, __doc__)
