"""The comparison of rejection with equal evaluations: what each way is given, and who judges."""

from __future__ import annotations

import pytest
import torch

from benchmarks.rivals import diffusion_rejection as bench
from settings.flat import replace
from trainables.diffusion.system import Diffusion
from trainables.system import load_system


@pytest.mark.slow
def test_each_way_is_from_the_same_seeds_and_another_head_judges(
    shared_cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    few = {"train.steps": 2, "train.report_every": 2}
    of_head = {**load_system(bench.HEAD).small, **few}
    heads = bench.trained(tmp_path, "", {**Diffusion.small, **few}, of_head)
    judge = heads.judges["head"]
    assert judge is not heads.rejects
    theirs, ours = (head.state_dict() for head in (heads.rejects, judge))
    assert any(not torch.equal(value, ours[key]) for key, value in theirs.items())
    rows = {row.name.removeprefix("diffusion_rejection/3_steps/"): row
            for row in bench.rows_of(heads, 3, 6)}  # fmt: skip
    for name in bench.NODES:
        more = round(rows[f"{name}/evaluations"].value)
        assert more >= 3
        without, equal = rows["without"], rows[f"{name}/without_{more}_steps"]
        gain = rows[name].value - without.value
        assert rows[f"{name}/gain"].value == pytest.approx(gain, abs=1e-12)
        over = rows[name].value - equal.value
        assert rows[f"{name}/gain_over_more_steps"].value == pytest.approx(over, abs=1e-12)
    none = replace(bench.RejectionSettings(), {"cap": 0})
    images, spent = bench.rejected(heads, 3, 6, none)
    assert spent["rejections"] == 0.0
    torch.testing.assert_close(images, bench.plain(heads, 3, 6), rtol=1e-4, atol=1e-5)
    assert bench.shares_real(heads, bench.real_images(heads)).min() >= 0.0
