"""Whether the figures of a finding are those of its tables.

In a finding every figure of a run is followed by its place, `0.2149 <!-- conditioner:decoded:
val.decoded_field_error -->`: table, arm, column, and where the figure is not the arm's value
`difference`, `share` (of the control's value, in per cent) or `shows`. A whole table stands below
`<!-- the table conditioner -->`, as the command prints it. Figures of other sources are listed in
the section that has them: `<!-- from the document: 15 %; 1.2 GB -->`, `<!-- from python -m
benchmarks.term_overhead: 0.80 s -->`, and `<!-- from by hand: 1.77 -->` below a paragraph or table
that says so itself.

What counts as a figure: a number with ±, per cent or a unit, and one with a decimal point and two
digits or more that are not leading zeros (1.77, 0.043; not 0.5, 300 or 0.01).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.claiming.table import TABLES, Cell, markdown, read_csv

FINDINGS = TABLES.parent

INDEX = "README.md"
"""The page with a row for each claim."""

EARLIER = (
    "The figures of this page precede the rules for arms (benchmarks/README.md): they have no "
    "units and no references, and their arms do not share seeds."
)
"""Stands at the top of a finding that has no table yet."""

UNITS = ("%", "dB", "bpp", "mm", "ms", "s", "min", "h", "MB", "GB", "KiB", "MiB", "GiB")

_BY_HAND = "by hand"
_COMMANDS = "python -m ", "python -c "

_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?"
_FIGURE = re.compile(
    rf"(?<![\w.,:/-])(?P<value>{_NUMBER})(?:\s*±\s*(?P<error>{_NUMBER}))?"
    rf"(?P<unit>\s*(?:{'|'.join(UNITS)})(?!\w))?(?:[*_)]*\s*<!--\s*(?P<place>[^\s:]+:[^>]*?)\s*-->)?"
)
_WHOLE_TABLE = re.compile(r"<!--\s*the table (\S+)\s*-->\n+")
_LISTED = re.compile(r"<!--\s*from (.*?):\s+(.*?)\s*-->", re.DOTALL)
_HEADING = re.compile(r"^#", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)

_PARTS: Mapping[str, Callable[[Cell], tuple[float | None, float | None]]] = {
    "": lambda cell: (cell.value, cell.value_error),
    "difference": lambda cell: (cell.difference, cell.difference_error),
    "share": lambda cell: (_percent(cell, cell.difference), _percent(cell, cell.difference_error)),
    "shows": lambda cell: (cell.paired.shows if cell.paired else None, None),
}
"""What a place may name of a cell -> the figure and its standard error."""


def tables_of(finding: Path, folder: Path = TABLES) -> list[Path]:
    """The stored tables of a finding: `conditioner.csv` and `conditioner_*.csv` are those of
    conditioner.md, and all are those of README.md, which has a row for each claim.
    """
    if finding.name == INDEX:
        return sorted(folder.glob("*.csv"))
    own = f"{finding.stem}_"
    return [path for path in sorted(folder.glob("*.csv")) if f"{path.stem}_".startswith(own)]


def faults_of(findings: Path = FINDINGS) -> list[str]:
    """What is wrong with the figures of the pages of a folder, whose tables are in `tables`: a
    page has a table, and then right figures alone, or says that it has none.
    """
    faults = []
    for page in sorted(findings.glob("*.md")):
        is_earlier = EARLIER in page.read_text(encoding="utf-8")
        if not tables_of(page, findings / TABLES.name):
            told = f"{page.name}: a finding has a table (`claims --store {page.stem}`), or says"
            faults += [] if is_earlier else [f"{told} at its top: {EARLIER}"]
            continue
        if is_earlier:
            faults.append(f"{page.name}: it has a table, and says that it has none: {EARLIER}")
        faults += wrong_figures(page, findings / TABLES.name)
    return faults


def wrong_figures(finding: Path, folder: Path = TABLES) -> list[str]:
    """A line for each figure of a finding that its table contradicts, and for each that has
    neither a place nor a source: page, line, figure, rule and way out.
    """
    text = finding.read_text(encoding="utf-8")
    tables = {path.stem: read_csv(path) for path in tables_of(finding, folder)}
    faults: list[tuple[int, str]] = []

    def look(pattern: re.Pattern[str], judge: Callable[[re.Match[str]], str]) -> None:
        """Judges every match, and leaves spaces in its place."""
        nonlocal text
        for match in list(pattern.finditer(text)):
            line = text.count("\n", 0, match.start()) + 1
            if fault := judge(match):
                faults.append((line, fault))
        text = pattern.sub(lambda match: _blank(match[0]), text)

    look(_CODE, lambda match: "")
    for start, whole, fault in list(_whole_tables(text, tables)):
        if fault:
            faults.append((text.count("\n", 0, start) + 1, fault))
        text = text[:start] + _blank(text[start : start + whole]) + text[start + whole :]
    listed: dict[int, set[str]] = {}  # by section
    look(_LISTED, lambda match: _source(match, listed.setdefault(_section_of(match), set())))
    look(_FIGURE, lambda match: _judged(match, tables, listed.get(_section_of(match), ())))
    return [f"{finding.name}:{line}: {fault}" for line, fault in sorted(faults)]


def _blank(text: str) -> str:
    """As many lines of nothing."""
    return re.sub(r"[^\n]", " ", text)


def _whole_tables(
    text: str, tables: Mapping[str, Sequence[Cell]]
) -> Iterator[tuple[int, int, str]]:
    """Where each whole table begins, its length, and what is wrong with it."""
    for match in _WHOLE_TABLE.finditer(text):
        name = match[1]
        if name not in tables:
            yield match.start(), len(match[0]), _no_table(name, tables)
            continue
        expected = markdown(tables[name])
        if text.startswith(expected, match.end()):
            yield match.start(), len(match[0]) + len(expected), ""
        else:
            end = text.find("\n\n", match.end())
            length = (len(text) if end < 0 else end) - match.start()
            yield (
                match.start(),
                length,
                f"below `the table {name}` stands that table as it is stored, and this differs. "
                f"Put in what `python -m benchmarks.claims --print {name}` prints.",
            )


def _section_of(match: re.Match[str]) -> int:
    """How many headings stand above."""
    return len(_HEADING.findall(match.string, 0, match.start()))


def _says_by_hand(match: re.Match[str]) -> bool:
    """Whether the paragraph or table above a comment, or the one that it stands in, does."""
    above = _COMMENT.sub("", match.string[: match.start()]).rstrip()
    return _BY_HAND in _plain(re.split(r"\n\s*\n", above)[-1])


def _source(match: re.Match[str], listed: set[str]) -> str:
    source, figures = match[1], match[2]
    listed.update(_plain(figure) for figure in figures.split(";"))
    if source == "the document" or source.startswith(_COMMANDS):
        return ""
    if source != _BY_HAND:
        return (
            "a listed figure is from `the document`, from a command (`python -m ...`), or `by "
            f"hand`, not from {source!r}. Name where it can be looked up."
        )
    if _says_by_hand(match):
        return ""
    return (
        f"{_plain(figures)}: what is listed as by hand stands below a paragraph that says so, and "
        "this does not. Say it there, or name a command."
    )


def _judged(
    match: re.Match[str], tables: Mapping[str, Sequence[Cell]], listed: Collection[str]
) -> str:
    figure = _plain(_COMMENT.sub("", match[0]))
    if match["place"] is None:
        is_result = match["error"] or match["unit"] or _reads_as_result(match["value"])
        if figure in listed or not is_result:
            return ""
        return (
            f"{figure}: a figure of a run has its place right after it, and this one has none. "
            "Write `<!-- table:arm:column -->` behind it, or list it in this section with its "
            "source."
        )
    place = re.sub(r"\s+", "", match["place"])
    names = place.split(":")
    if len(names) not in (3, 4) or (len(names) == 4 and names[3] not in _PARTS):
        return (
            f"{figure}: a place is table:arm:column, or one of {', '.join(filter(None, _PARTS))} "
            f"after that, not {place!r}."
        )
    table, arm, column = names[:3]
    if table not in tables:
        return f"{figure}: {_no_table(table, tables)}"
    cell = next((c for c in tables[table] if (c.arm, c.column) == (arm, column)), None)
    if cell is None:
        return f"{figure}: table {table} has no {column} of {arm}: name an arm and a column of it."
    part = names[3] if len(names) == 4 else ""
    value, error = _PARTS[part](cell)
    pairs = [(match["value"], value, bool(part)), (match["error"], error, False)]
    for told, known, is_relative in pairs:
        if told is not None and not _agrees(told, known, is_relative):
            shown = "nothing" if known is None else f"{known:.6g}"
            return (
                f"{figure}: a figure is that of its place to its own digits, and {place} has "
                f"{shown} for {told}. Quote the table."
            )
    return ""


def _reads_as_result(value: str) -> bool:
    """Whether a number without a unit reads as a result: it has a decimal point, and two digits
    that are not leading zeros.
    """
    mantissa = value.lstrip("+-−").partition("e")[0]
    return "." in mantissa and len(re.sub(r"[.,]", "", mantissa).lstrip("0")) >= 2


def _agrees(told: str, known: float | None, is_relative: bool) -> bool:
    """Whether a figure is a number rounded to the figure's digits; one that says how far apart two
    arms are may leave the sign to the words around it.
    """
    if known is None:
        return False
    plain = told.replace(",", "").replace("−", "-")
    digits, _, power = plain.partition("e")
    last = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    if is_relative and plain[0] not in "+-":
        known = abs(known)
    return abs(float(plain) - known) <= last * (0.5 + 1e-6)


def _percent(cell: Cell, number: float | None) -> float | None:
    """A difference, or its error, as a share of the control's value."""
    if number is None or not cell.difference or cell.difference_share is None:
        return cell.difference_share if number == 0.0 else None
    return 100.0 * number * cell.difference_share / cell.difference


def _plain(text: str) -> str:
    return " ".join(text.split())


def _no_table(name: str, tables: Mapping[str, Sequence[Cell]]) -> str:
    known = ", ".join(tables) or "none"
    return f"this finding has no table {name!r}. Tables: {known}; claims --store makes one."
