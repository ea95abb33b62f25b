"""Counts in messages."""

from __future__ import annotations

import pytest

from settings.words import counted, worded


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2, ("image",), "2 images"),
        (1, ("image has", "images have"), "1 image has"),
        (1234567, ("image has", "images have"), "1234567 images have"),
    ],
)
def test_a_count_of_one_has_words_of_its_own(count, words, said):
    assert counted(count, *words) == said
    assert f"{count} {worded(count, *words)}" == said
