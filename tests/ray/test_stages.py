"""A progressive training with Ray is the one without."""

from __future__ import annotations

import json

import pandas as pd


def test_three_ways_to_train_in_stages_agree(place, kit):
    common = (kit.TOY, "train.tensorboard=false", "data.noise=0.3", "train.steps=10")
    common += ("--stages", "data.samples=32,64")
    ways = {
        "plain": ("--no-ray", "train.batch_size=8"),
        "in_process": ("train.batch_size=8",),
        "group": ("--workers", 2, "train.batch_size=4"),
    }
    curves, records = {}, {}
    for name, options in ways.items():
        ran = place.run(*common, "--dir", place / name, *options, verb="train")
        assert ran.status == 0, ran.text
        paths = [place / name / f"stage-{number}/reports.jsonl" for number in (1, 2)]
        curves[name] = pd.concat([pd.read_json(path, lines=True) for path in paths])
        stages = json.loads((place / name / "stages.json").read_text())["stages"]
        records[name] = [(stage["step"], stage["finished"]) for stage in stages]
    columns = [name for name in curves["plain"] if name.startswith(("step", "val."))]
    assert curves["plain"]["step"].tolist() == [5, 10, 5, 10]
    assert records == {name: [(10, True), (10, True)] for name in ways}
    pd.testing.assert_frame_equal(curves["plain"][columns], curves["in_process"][columns])
    pd.testing.assert_frame_equal(curves["plain"][columns], curves["group"][columns], rtol=1e-5)
