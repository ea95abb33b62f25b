"""A warning is one line on stderr."""

from __future__ import annotations

from settings.warning import warn


def test_a_warning_is_one_line_on_stderr(capsys):
    warn("the first line\nand the second")
    warn("another")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "warning: the first line and the second\nwarning: another\n"
