"""What a demo's training gains over what needs none."""

from __future__ import annotations

import pytest

from benchmarks.rivals.demos import DEMOS, Demo, measured, rows_of
from trainables.system import load_system

LOWER, HIGHER = Demo("any", "val.error"), Demo("any", "val.psnr_db", "dB", higher_is_better=True)


def draws_of(**values):
    """{name: one value a draw} -> the same values on validation, and 10 more on test."""
    count = len(next(iter(values.values())))
    return [
        {
            "validation": {name: of[draw] for name, of in values.items()},
            "test": {name: of[draw] + 10.0 for name, of in values.items()},
        }
        for draw in range(count)
    ]


@pytest.mark.parametrize(("demo", "best", "gain"), [(LOWER, "mean", 1.5), (HIGHER, "ridge", -3.5)])
def test_the_gain_is_over_the_best_reference_in_pairs(demo, best, gain):
    draws = draws_of(trained=[1.0, 2.0], mean=[2.0, 4.0], ridge=[5.0, 5.0])
    rows = {found.name: found for found in rows_of("x", demo, "g", draws)}
    found = rows["demos/x/g/validation/gain"]
    assert found.value == pytest.approx(gain)
    # Two draws: the standard error is half of what the pairs differ by.
    assert found.peer_value == pytest.approx(0.5)
    assert rows["demos/x/g/validation/gain_share"].peer == best
    of_best = {"mean": 3.0, "ridge": 5.0}[best]
    assert rows["demos/x/g/validation/gain_share"].value == pytest.approx(100 * gain / of_best)
    assert rows["demos/x/g/test/mean"].peer_value == pytest.approx(13.0)
    assert rows["demos/x/g/test/mean"].value == pytest.approx(11.5)


def test_what_stands_apart_is_shown_and_not_gained_over():
    demo = Demo("any", "val.psnr_db", "dB", higher_is_better=True, apart="webp_")
    draws = draws_of(trained=[5.0, 7.0], mean=[2.0, 2.0], webp_half=[9.0, 9.0])
    rows = {found.name: found for found in rows_of("x", demo, "g", draws)}
    assert rows["demos/x/g/validation/webp_half"].peer_value == pytest.approx(9.0)
    assert rows["demos/x/g/validation/gain"].value == pytest.approx(4.0)
    assert rows["demos/x/g/test/gain_share"].peer == "mean"


def test_a_trained_rival_is_one_of_those_that_the_gain_is_over():
    demo = Demo("any", "val.error", rivals={"linear": {"model.width": 1}})
    rows = draws_of(trained=[1.0, 2.0], linear=[1.5, 2.5], mean=[2.0, 4.0])
    found = {row.name: row for row in rows_of("x", demo, "g", rows)}
    assert found["demos/x/g/validation/linear"].peer_value == pytest.approx(2.0)
    assert found["demos/x/g/validation/gain"].value == pytest.approx(0.5)


@pytest.mark.slow
def test_the_demo_of_compression_is_ahead_of_all_but_the_codec(
    tmp_path, monkeypatch, shared_cache
):
    """A fifth of its steps, on fewer patients. The mean image has no rounded latent, and so no
    value. The linear map that is trained alone is another network: ahead of the untrained one, and
    not the demo's value.
    """
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(shared_cache))
    changes = {
        "train.steps": 40,
        "train.report_every": 40,
        "metric.ms_ssim": False,
        "data.patients": (8, 2, 2),
    }
    values = measured("compression", DEMOS["compression"], 0, tmp_path, changes)
    untrained = {"untrained", "downsampled", "principal_components", "cell_components"}
    for split in ("validation", "test"):
        found = values[split]
        codecs = {who for who in found if who.startswith("webp_")}
        assert set(found) == {"trained", "linear", *untrained, *codecs}
        assert all(found["trained"] > found[who] + 0.1 for who in untrained), found
        assert found["trained"] < max(found[who] for who in codecs)
        assert found["linear"] > found["untrained"] + 0.1
        assert found["linear"] != found["trained"]


@pytest.mark.slow
def test_a_demo_is_trained_and_measured_with_its_references(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE", str(tmp_path / "cache"))
    system, demo = load_system("conditioner"), DEMOS["conditioner"]
    short = {**system.small, "train.steps": 2, "train.report_every": 2}
    values = [measured("conditioner", demo, draw, tmp_path / f"{draw}", short) for draw in (0, 1)]
    names = {"trained", "untrained", "mean", "nearest", "ridge"}
    for draw in values:
        assert set(draw) == {"validation", "test"}
        assert set(draw["validation"]) == set(draw["test"]) == names
    means = [draw[split]["mean"] for draw in values for split in draw]
    assert len(set(means)) == 4, "every draw and every split has samples of its own"
