"""The picture of a sweep: every trial is in it, where its values say."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.sweep_picture import BOTTOM, DOCUMENT, OTHER, SPANS, TOP, WINNER, Curve, picture

CURVES = (
    Curve("document", DOCUMENT, [(10, 8.0), (90, 8.0)], False),
    Curve("", OTHER, [(10, 2.0)], True),
    Curve("trial 1 (best)", WINNER, [(10, 1.5), (90, 1.0)], False),
)


@pytest.fixture(scope="module")
def drawn():
    return ElementTree.fromstring(picture("<title>", CURVES, (10, 30, 90)))


def elements(root, tag):
    return root.findall(f"{{http://www.w3.org/2000/svg}}{tag}")


def test_values_lie_on_a_logarithmic_axis(drawn):
    ends = {
        line.get("stroke"): tuple(map(float, line.get("points").split()[-1].split(",")))
        for line in elements(drawn, "polyline")[:3]
    }
    assert {x for colour, (x, _) in ends.items() if colour != OTHER} == {SPANS[0][1]}
    # 8 to 2 is two octaves, 2 to 1 is one
    assert ends[OTHER][1] - ends[DOCUMENT][1] == pytest.approx(
        2 * (ends[WINNER][1] - ends[OTHER][1]), abs=0.2
    )
    assert all(TOP <= y <= BOTTOM for _, y in ends.values())


def test_the_second_panel_leaves_out_what_is_beyond_the_sampled_trials(drawn):
    colours = [line.get("stroke") for line in elements(drawn, "polyline")]
    assert colours == [DOCUMENT, OTHER, WINNER, OTHER, WINNER]


def test_stopped_trials_end_in_a_circle_and_names_have_their_last_value(drawn):
    assert [circle.get("stroke") for circle in elements(drawn, "circle")] == [OTHER, OTHER]
    texts = [text.text for text in elements(drawn, "text")]
    assert texts.count("document 8") == 1
    assert texts.count("trial 1 (best) 1") == 2
    assert texts.count("rung") == 4  # the last step is no rung
    assert "<title>" in texts
