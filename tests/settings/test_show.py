"""What `--show` prints."""

from __future__ import annotations

import io
import re

from rich.console import Console

from settings.flat import leaves
from settings.resolve import resolve
from settings.show import COLUMNS, plain, print_settings, rows, show, value_text


def test_every_key_has_a_row_with_value_range_unit_origin_and_help(toy, presets):
    resolved = resolve(toy, "toy", preset="document", overrides=["seed=7"], presets_root=presets)
    by_key = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows(resolved, toy)}
    assert list(by_key) == list(leaves(toy))
    assert by_key["loss.kl.weight"]["value"] == "1e-05"
    assert by_key["loss.kl.weight"]["origin"] == "preset document"
    assert by_key["seed"]["origin"] == "override"
    assert by_key["model.norm"]["range"] == "group | none | no"
    assert by_key["loss.kl.ramp_steps"]["unit"] == "steps"
    assert all(row["help"] for row in by_key.values())


def test_values_are_spelt_as_overrides():
    assert value_text(True) == "true"
    assert value_text((1, 2)) == "[1, 2]"
    assert value_text(0.1) == "0.1"
    assert value_text("no") == "no"


def test_a_pipe_gets_one_plain_line_a_key(toy):
    stream = io.StringIO()
    resolved = resolve(toy, "toy", overrides=["root=" + "x" * 200])
    print_settings(resolved, toy, stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(leaves(toy)) + 1
    assert lines[0].split() == list(COLUMNS)
    assert "\x1b" not in stream.getvalue()
    assert "x" * 200 in stream.getvalue()
    assert plain(resolved, toy) + "\n" == stream.getvalue()


def test_a_narrow_terminal_never_cuts_keys_and_values(toy):
    stream = io.StringIO()
    resolved = resolve(toy, "toy", overrides=["loss.kl.weight=0.00012345678"])
    console = Console(file=stream, width=100, force_terminal=True, color_system=None)
    console.print(show(resolved, toy))
    for key in leaves(toy):
        assert key in stream.getvalue()
    assert "0.00012345678" in stream.getvalue()


def printed(toy, resolved, width, monkeypatch):
    """What a terminal of so many columns shows."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    print_settings(resolved, toy, stream)
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()


def test_a_terminal_gets_lines_of_its_width_and_words_that_are_whole(toy, monkeypatch):
    resolved = resolve(toy, "toy", overrides=["seed=7"])
    for width in (60, 80, 100, 200):
        lines = printed(toy, resolved, width, monkeypatch)
        assert max(map(len, lines)) <= width
        words = {word.strip("(;)") for line in lines for word in line.split()}
        for leaf in leaves(toy).values():
            assert words >= set(leaf.help.split()), "none is cut in two"
    wide, thin = (printed(toy, resolved, width, monkeypatch) for width in (200, 80))
    assert wide[0].split() == list(COLUMNS) and len(wide) == len(leaves(toy)) + 1
    assert "seed=7" in thin and thin[thin.index("seed=7") + 1].strip() == (
        "master seed (any; override)"
    )


def test_a_key_with_a_long_range_makes_no_other_line_longer(toy):
    resolved = resolve(toy, "toy", overrides=["root=" + "x" * 200])
    lines = plain(resolved, toy).splitlines()
    assert [line for line in lines if len(line) > 150] == [next(x for x in lines if "xxx" in x)]
    plainly = plain(resolve(toy, "toy", overrides=["root=x"]), toy).splitlines()
    assert [line for line in lines if "xxx" not in line] == [
        line for line in plainly if not line.startswith("root ")
    ]


def test_text_that_looks_like_markup_is_printed_as_it_is(toy):
    stream = io.StringIO()
    resolved = resolve(toy, "toy", overrides=["root=[bold]x[/bold]"])
    Console(file=stream, width=300).print(show(resolved, toy))
    assert "[bold]x[/bold]" in stream.getvalue()
