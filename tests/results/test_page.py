from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from ray_jobs import analyze
from results.directory import read_history, read_sweep
from results.frame import load_reports, load_sweep
from results.headline import headline
from results.importance import MIN_TRIALS, importance
from results.leaderboard import leaderboard, leaderboard_rows
from results.page import render

SECTIONS = (
    "Leaderboard",
    "Learning curves",
    "Parallel coordinates",
    "Loss terms, unweighted",
    "Loss terms, share of the weighted sum",
    "The winner against the documented point",
    "The winner against what is not trained",
    "Importance",
)


def rendered(directory) -> str:
    sweep = read_sweep(directory.path)
    frame = load_sweep(directory.path, all_settings=True)
    return render(sweep, read_history(sweep), frame, load_reports(directory.path))


def drawn_figures(page: str) -> int:
    return page.count("Plotly.newPlot(")


def parts(page: str) -> dict[str, str]:
    found = re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", page, flags=re.DOTALL)
    return dict(found)


def assert_offline(page: str) -> None:
    assert not re.findall(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=", page)


def test_page_has_its_pieces_and_needs_no_network(finished):
    page = rendered(finished)
    assert tuple(parts(page)) == SECTIONS
    assert_offline(page)
    assert len(page) > 1_000_000  # plotly's own script
    assert len(page) < 12_000_000  # once
    assert parts(page)["Learning curves"].count('"name":"trial ') == 5
    for term in ("squared", "absolute"):
        assert f"{term}, trial 2" in parts(page)["Loss terms, unweighted"]
        assert (
            f"{term}, document (trial 0)" in parts(page)["Loss terms, share of the weighted sum"]
        )
    comparison = parts(page)["The winner against the documented point"]
    assert "<td>loss.absolute.enabled</td><td>True</td><td>False</td>" in comparison
    assert "data.samples" not in comparison  # the same in both
    assert "<td>val.snr_db</td><td>dB</td><td>max</td>" in comparison
    assert f"too few complete trials: 2 of the {MIN_TRIALS}" not in page
    assert "too few complete trials" in parts(page)["Importance"]


def test_page_of_an_empty_a_one_trial_and_a_crashed_sweep(sweep):
    assert tuple(parts(rendered(sweep))) == SECTIONS
    sweep.hand_out(0)
    assert drawn_figures(rendered(sweep)) == 0
    sweep.report(0, 10, 0.5)
    sweep.append_report(0, '{"step": 20, "va')
    page = rendered(sweep)
    assert_offline(page)
    assert "Trial 0 is ahead (interrupted)" in page
    assert drawn_figures(page) == 3  # curves, terms, shares; two trials make coordinates
    sweep.end(0, step=10)
    assert "Trial 0 is best" in rendered(sweep)


def test_page_shows_text_as_text(sweep):
    sweep.write_document(system="<script>alert(1)</script>")
    sweep.trial(0, [0.5], state="failed")
    assert "<script>alert" not in rendered(sweep)


def test_values_that_are_not_finite_break_the_curve(sweep):
    sweep.trial(0, [0.5, None, 0.4])
    assert '"y":[0.5,null,0.4]' in parts(rendered(sweep))["Learning curves"]


def test_parallel_coordinates_hold_words_logarithms_and_inactive_keys(finished):
    from results.figures import parallel_coordinates

    sweep = read_sweep(finished.path)
    figure = parallel_coordinates(sweep, load_sweep(finished.path))
    axes = {axis.label: axis for axis in figure.data[0].dimensions}
    rate = axes["optimizer.lr"]
    assert sorted(rate["values"]) == pytest.approx(sorted(np.log10([5e-5, 1.0, 3e-4, 1e-3, 5e-4])))
    assert "1" in rate.ticktext
    start = axes["loss.balancer.alpha"]
    assert start.ticktext[0] == "-"
    assert list(start["values"]).count(start.tickvals[0]) == 2  # trials 2 and 4
    assert all(
        value is None or np.isfinite(value) for axis in axes.values() for value in axis["values"]
    )


def test_leaderboard_ranks_complete_trials_and_always_shows_documented_points(finished):
    sweep, frame = read_sweep(finished.path), load_sweep(finished.path)
    headers, rows = leaderboard_rows(frame, sweep, top=1)
    assert [row[:4] for row in rows] == [
        ["1", "2", "", "complete"],
        ["3", "0", "* document", "complete"],
        ["4", "1", "* before", "complete"],
    ]
    assert rows[0][headers.index("vs document")] == "-0.1"
    _, everything = leaderboard_rows(frame, sweep, top=99)
    assert [row[1] for row in everything] == ["2", "3", "0", "1", "4", "5"]
    assert [row[0] for row in everything[-2:]] == ["-", "-"]
    assert headline(frame, sweep, None).endswith(
        "better than the documented point document by 0.1 (20.0%)."
    )
    assert "stopped because" not in headers  # nothing was
    table = leaderboard(frame, sweep)
    assert table.row_count == 6


def test_leaderboard_shows_markup_as_text(sweep, monkeypatch):
    from rich.console import Console

    sweep.hand_out(0)
    sweep.end(0, state="failed", reason="[red]bad[/red] [/]")
    monkeypatch.setenv("COLUMNS", "300")
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(leaderboard(load_sweep(sweep.path), read_sweep(sweep.path)))
    assert "[red]bad[/red] [/]" in console.export_text()


def many_trials(directory, count, value_of) -> None:
    random = np.random.default_rng(0)
    for trial in range(count):
        rate = float(10 ** random.uniform(-5, -2))
        sampled = {"optimizer.lr": rate, "loss.balancer.kind": "fixed"}
        sampled["optimizer.kind"] = str(random.choice(["adamw", "adam", "sgd"]))
        if random.random() < 0.5:
            sampled["loss.balancer.kind"] = "gradnorm"
            sampled["loss.balancer.alpha"] = random.uniform(2, 10)
        directory.trial(trial, [value_of(sampled)], sampled=sampled)


def importances(directory):
    sweep = read_sweep(directory.path)
    return importance(sweep, read_history(sweep), load_sweep(directory.path))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_importance_finds_the_key_that_decides(sweep, mode):
    sweep.write_document(objective={"metric": "val.mse", "mode": mode})
    sign = 1 if mode == "min" else -1
    many_trials(sweep, 80, lambda s: sign * abs(np.log10(s["optimizer.lr"]) + 3))
    result = importances(sweep)
    assert next(iter(result.shares)) == "optimizer.lr"
    assert result.shares["optimizer.lr"] > 0.5
    assert sum(result.shares.values()) == pytest.approx(1.0)
    assert set(result.shares) == set(sweep.document["space"]["domains"])
    assert result.trials == 80


def test_importance_says_when_it_cannot_tell(sweep):
    many_trials(sweep, MIN_TRIALS - 1, lambda s: s["optimizer.lr"])
    assert importances(sweep).shares == {}
    assert f"{MIN_TRIALS - 1} of the {MIN_TRIALS}" in importances(sweep).note
    # A point outside the space is no evidence about the space.
    sweep.trial(50, [0.0], point="before", outside=["optimizer.lr"], sampled={"optimizer.lr": 1.0})
    assert importances(sweep).trials == MIN_TRIALS - 1
    sweep.trial(51, [0.0])
    assert importances(sweep).shares
    assert "a hint" in importances(sweep).note


def test_importance_of_equal_trials(sweep):
    many_trials(sweep, MIN_TRIALS, lambda s: 1.0)
    assert "have the same" in importances(sweep).note


def test_importance_of_a_diagnostic_is_refused(sweep):
    many_trials(sweep, MIN_TRIALS, lambda s: 1.0)
    read = read_sweep(sweep.path)
    with pytest.raises(ValueError, match=r"val\.diagnostic has no better direction"):
        importance(read, read_history(read), load_sweep(sweep.path), metric="val.diagnostic")


def test_analyze_prints_and_writes(finished, capsys):
    assert analyze.main([str(finished.path), "--top", "2"]) == 0
    printed = capsys.readouterr().out
    assert "* document" in printed
    assert "Sweep finished: 4 complete" in printed
    for name in ("trials.parquet", "reports.parquet", "index.html"):
        assert (finished.path / "analysis" / name).is_file()
        assert name in printed


def test_the_legend_of_points_is_there_where_a_point_is(finished, capsys):
    assert analyze.main([str(finished.path), "--no-page"]) == 0
    assert "* documented point" in capsys.readouterr().out
    frame, found = load_sweep(finished.path), read_sweep(finished.path)
    assert leaderboard(frame, found).caption == "* documented point"
    assert leaderboard(frame[frame["point"] == ""], found).caption is None


def test_no_legend_without_a_point(sweep, capsys):
    sweep.trial(0, [0.4])
    assert analyze.main([str(sweep.path), "--no-page"]) == 0
    said = capsys.readouterr().out
    assert "Trial 0 is best" in said
    assert "* documented point" not in said


def test_deleted_reports_are_said(finished, capsys):
    """Trial 5 failed before its first report, which is nothing that is missing."""
    assert analyze.main([str(finished.path), "--no-page"]) == 0
    assert "No reports of" not in capsys.readouterr().out
    for trial in (1, 3):
        (finished.path / f"reports/{trial:04d}.jsonl").unlink()
    assert analyze.main([str(finished.path), "--no-page"]) == 0
    assert "No reports of trial 1, 3, although the log has their steps" in capsys.readouterr().out
    frame = load_sweep(finished.path).set_index("trial")
    assert frame.loc[[1, 3], "value"].tolist() == [0.6, 0.4]


def test_analyze_exports_the_schedule_of_the_best_or_of_a_named_trial(finished, tmp_path, capsys):
    file = tmp_path / "schedule.yaml"
    command = [str(finished.path), "--no-page", "--export-schedule", str(file)]
    assert analyze.main(command) == 0
    assert "Schedule of trial 2 (trial 2 to step 20)" in capsys.readouterr().out
    assert "schedule of trial 2" in file.read_text()
    assert analyze.main([*command, "--trial", "0"]) == 0
    assert "schedule of trial 0" in file.read_text()
    assert analyze.main([*command, "--trial", "9"]) == 2
    assert "--trial is best or one of 0 .. 5" in capsys.readouterr().err


def test_analyze_without_a_page(finished, capsys):
    assert analyze.main([str(finished.path), "--no-page"]) == 0
    assert not (finished.path / "analysis" / "index.html").exists()


def test_analyze_of_a_bad_directory_is_one_line_and_status_2(tmp_path, capsys):
    assert analyze.main([str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and "not a sweep directory" in captured.err


def test_analyze_reads_what_it_cannot_write(finished, capsys):
    (finished.path / "analysis").write_text("in the way")
    assert analyze.main([str(finished.path)]) == 1
    captured = capsys.readouterr()
    assert "* document" in captured.out
    assert "nothing could be written" in captured.err


def test_analyze_exports_the_loaders():
    assert analyze.load_sweep is load_sweep
    assert analyze.load_reports is load_reports
    with pytest.raises(AttributeError):
        analyze.nothing  # noqa: B018


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ray_jobs import analyze\n"
        "try: analyze.main(['--help'])\n"
        "except SystemExit as end: print(end.code)\n"
        "heavy = {'pandas', 'numpy', 'pyarrow', 'plotly', 'optuna', 'ray', 'torch', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-2:] == ["0", "[]"]


@pytest.mark.slow
def test_analyze_needs_neither_ray_nor_torch(finished):
    code = (
        "import sys; sys.modules['ray'] = sys.modules['torch'] = None\n"
        "from ray_jobs.analyze import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(finished.path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
