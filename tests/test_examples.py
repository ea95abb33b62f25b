"""How many examples a property has follows the profile: 5 in the fast tier, 30 in `make test`, as
many as are asked for where somebody looks for more.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

NUMBER = re.compile(r"@(?:hypothesis_)?settings\([^\n]*max_examples=([^\n]*)\)$", re.MULTILINE)


def fixed_numbers(text: str) -> list[str]:
    """What a file gives as a number of examples without asking the profile."""
    return [given for given in NUMBER.findall(text) if "default.max_examples" not in given]


def test_no_property_has_a_number_of_examples_of_its_own():
    files = {path: path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")}
    fixed = {path.name: fixed_numbers(text) for path, text in files.items()}
    assert sum(bool(NUMBER.search(text)) for text in files.values()) > 10
    assert not {name: given for name, given in fixed.items() if given}


@pytest.mark.parametrize(
    ("given", "fixed"),
    [
        ("max_examples=25", ["25"]),
        ("deadline=None, max_examples=40", ["40"]),
        ("max_examples=min(15, settings.default.max_examples)", []),
        ("max_examples=2 * settings.default.max_examples", []),
    ],
)
def test_a_number_that_is_fixed_is_seen(given, fixed):
    assert fixed_numbers(f"    @settings({given})\ndef test(): ...\n") == fixed
