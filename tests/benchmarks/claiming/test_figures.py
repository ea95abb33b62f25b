"""The figures of the findings, and made-up findings whose faults are found."""

from __future__ import annotations

import pytest

from benchmarks.claiming.figures import EARLIER, FINDINGS, faults_of, tables_of, wrong_figures
from benchmarks.claiming.table import TABLES, Cell, markdown, write_csv

PAGES = sorted(FINDINGS.glob("*.md"))


def test_figures_are_those_of_the_tables_or_the_page_says_that_it_has_none():
    assert faults_of() == []


def test_a_page_has_a_table_or_says_that_it_has_none(tmp_path):
    (tmp_path / "tables").mkdir()
    for name, text in {"bare": "", "says": EARLIER, "own": "", "both": EARLIER}.items():
        (tmp_path / f"{name}.md").write_text(f"# {name}\n\n{text}\n\nan error of 0.4321\n")
    for name in ("own", "both"):
        write_csv(tmp_path / "tables" / f"{name}.csv", ROWS)
    bare, says_none, wrong, wrong_too = sorted(faults_of(tmp_path))
    assert bare.startswith("bare.md: a finding has a table (`claims --store bare`), or says")
    assert says_none.startswith("both.md: it has a table, and says that it has none")
    assert wrong.startswith("both.md:5: 0.4321: a figure")
    assert wrong_too.startswith("own.md:5: 0.4321: a figure")


def test_every_table_belongs_to_a_finding():
    owned = {path for finding in PAGES for path in tables_of(finding)}
    assert owned == set(TABLES.glob("*.csv"))


ROWS = [
    Cell("plain", "", "val.e", False, 4, 4, 0.4),
    Cell("mine", "plain", "val.e", False, 4, 4, 0.3149, 0.0123, None, 4, -0.0851, 0.0044, None,
         -0.21275),
    Cell("mine", "plain", "val.psnr_db", False, 1, 2, 26.054, None, 0.2, 1, 0.5, None, 0.1, 0.02),
    Cell("mean", "", "val.e", True, 4, 4, 8765.4),
]  # fmt: skip


@pytest.fixture
def faults(tmp_path):
    """The faults of a page `own.md` whose table `own` has `ROWS`."""

    def find(text):
        write_csv(tmp_path / "own.csv", ROWS)
        (tmp_path / "own.md").write_text(f"# Own\n\n{text}\n")
        return wrong_figures(tmp_path / "own.md", tmp_path)

    return find


@pytest.mark.parametrize(
    "text",
    [
        "an error of 0.3149 <!-- own:mine:val.e -->",
        "an error of 0.315 <!-- own:mine:val.e --> and **0.31** <!-- own:mine:val.e -->",
        "0.31<!-- own:mine:val.e -->; 0.315 ± 0.012 <!-- own:mine:val.e -->",
        "better by 0.085 ± 0.004 <!-- own:mine:val.e:difference -->",
        "-0.0851 <!-- own:mine:val.e:difference -->, −0.09 <!-- own:mine:val.e:difference -->",
        "21 % <!-- own:mine:val.e:share --> lower: -21.3 ± 1.1 % <!-- own:mine:val.e:share -->",
        "8.5e-02 <!-- own:mine:val.e:difference --> of 8,765 <!-- own:mean:val.e -->",
        "below 0.0088 <!-- own:mine:val.e:shows --> nothing shows",
        "26.1 dB <!-- own:mine:val.psnr_db -->",
        "26.05 dB\n<!-- own:mine:val.psnr_db -->",
        "three seeds, 300 steps of 32, 10:1, filters 8, 16, 2026-11-23 and 000-M13",
        "a weight of 0.5, rates of 0.01 and 1e-4, and 8,765 of them",
        "it comes to 1.77 and 0.043\n<!-- from python -m benchmarks.frame: 1.77; 0.043 -->",
        "it comes to 1.77 by\nhand, as\n\n<!-- from by hand: 1.77 -->\n\nsays",
        "| a | by hand |\n|---|---|\n| b | 1.77 |\n\n<!-- from the document: 3 % -->\n"
        "<!-- from by hand: 1.77 -->",
        "`--share 20 %` and\n\n```bash\nrun 15 ms # 3 ± 1\n```\n",
        "it says 15 % and 1.2 GB; ours takes 0.80 s\n<!-- from the document: 15 %; 1.2 GB -->\n"
        "<!-- from python -m benchmarks.term_overhead --json: 0.80 s -->",
        "<!-- the table own -->\n\n" + markdown(ROWS) + "\n\nThat is all.",
    ],
)
def test_a_right_page_passes(faults, text):
    assert faults(text) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.32 <!-- own:mine:val.e -->", "own.md:3: 0.32: a figure is that of its place to its"),
        ("0.3150 <!-- own:mine:val.e -->", "has 0.3149 for 0.3150. Quote the table"),
        ("0.315 ± 0.02 <!-- own:mine:val.e -->", "has 0.0123 for 0.02"),
        ("26.1 ± 0.2 dB <!-- own:mine:val.psnr_db -->", "has nothing for 0.2"),
        ("+0.0851 <!-- own:mine:val.e:difference -->", "has -0.0851 for +0.0851"),
        ("22 % <!-- own:mine:val.e:share -->", "has -21.275 for 22"),
        ("an error of 0.31 ± 0.01", "0.31 ± 0.01: a figure of a run has its place right after it"),
        ("it comes to 1.77", "own.md:3: 1.77: a figure of a run has its place"),
        ("| claim | 0.043 |", "0.043: a figure of a run"),
        ("1.2e-05 in all", "1.2e-05: a figure of a run"),
        ("it comes to 1.77\n\n<!-- from by hand: 1.77 -->", "1.77: what is listed as by hand"),
        ("by hand, once\n\nit is 1.77\n<!-- from by hand: 1.77 -->", "paragraph that says so"),
        ("1.77\n\n## B\n\n<!-- from python -m a: 1.77 -->", "list it in this section"),
        ("it gains 13.6 % of", "13.6 %: a figure of a run has its place"),
        ("| claim | it gains 0.5 dB |", "0.5 dB: a figure of a run"),
        ("0.31 ± 0.01 in the text <!-- own:mine:val.e -->", "0.31 ± 0.01: a figure of a run"),
        ("16 % <!-- from the document: 15 % -->", "16 %: a figure of a run has its place"),
        ("0.31 <!-- other:mine:val.e -->", "this finding has no table 'other'. Tables: own"),
        ("0.31 <!-- own:his:val.e -->", "table own has no val.e of his"),
        ("0.31 <!-- own:mine:val.e:mean -->", "a place is table:arm:column"),
        ("0.31 <!-- own:val.e -->", "a place is table:arm:column"),
        ("0.80 s <!-- from memory: 0.80 s -->", "not from 'memory'. Name where"),
        ("<!-- the table gone -->\n\n| a |", "this finding has no table 'gone'"),
    ],
)
def test_a_wrong_figure_is_found(faults, text, says):
    (fault,) = faults(text)
    assert says in fault


def test_a_whole_table_that_differs_is_found_and_judged_as_one(faults):
    changed = markdown(ROWS).replace("0.3149", "0.3148")
    first, second = faults(f"<!-- the table own -->\n\n{changed}\n\nand 3 % more")
    assert "stands that table as it is stored, and this differs" in first
    assert "3 %: a figure of a run" in second


def test_faults_have_their_lines_in_order(faults):
    found = faults("first 3 %\n\n```\n5 %\n```\n\n0.4 <!-- own:mine:val.e -->\nthen 7 ms")
    assert [fault.split(": ")[0] for fault in found] == ["own.md:3", "own.md:9", "own.md:10"]


def test_tables_belong_to_the_page_whose_name_they_begin_with(tmp_path):
    for name in ("own", "own_flips", "owner", "other"):
        write_csv(tmp_path / f"{name}.csv", ROWS)
    assert [path.stem for path in tables_of(tmp_path / "own.md", tmp_path)] == ["own", "own_flips"]
    assert len(tables_of(tmp_path / "README.md", tmp_path)) == 4
