"""From which share of unreachable targets on the pre-flight calls a training hopeless."""

from __future__ import annotations

import pytest
import torch

from data.hdr.dataset import open_split
from settings.flat import replace
from trainables.hdr_patch.system import HdrPatch

SYSTEM = HdrPatch()


@pytest.mark.parametrize(("share", "hopeless"), [(0.9995, True), (0.998, False)])
def test_a_few_targets_near_black_are_no_hope(tmp_path, share, hopeless):
    """Over a base of 0 the cap is set to reach that share of the targets not."""
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, "hdr.cap.alpha": 1.0})
    prepared = SYSTEM.prepare(settings, tmp_path)
    crops = open_split(prepared, "train")
    count = min(len(crops), 64)
    samples = [crops[(index * len(crops) // count, 0)] for index in range(count)]
    needed = torch.cat(
        [
            ((sample["target"] + 1e-6).log() - torch.tensor(1e-6).log())[
                sample["hole"].expand(3, -1, -1) > 0
            ]
            for sample in samples
        ]
    )
    cap = float(needed.double().quantile(1.0 - share))
    assert 0.1 < cap < 40.0
    tree = replace(settings, {"hdr.cap.log_delta_max": cap})
    (finding,) = SYSTEM.preflight(tree, prepared)
    assert "100% of the hole targets" in finding.text
    assert finding.hopeless == hopeless
