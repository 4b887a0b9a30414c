"""The terminal's table: what is there is shown, what is not is left out, and lossy is said in words."""
import io
import re
from pathlib import Path

import pytest
from report_runs import records
from rich.console import Console

from specexp.report import compare, explain, papers, table
from specexp.report.table import build_table, plain_console, render, show

SUMMARY = {
    "num_examples": 64, "num_tokens": 8123,
    "pass_at_1": 0.7344, "baseline_pass_at_1": 0.7188, "pass_at_1_raw": 0.5, "baseline_pass_at_1_raw": 0.5,
    "perplexity": 1.234, "baseline_perplexity": 1.235, "equal_texts": 1.0, "lossless": True, "cache_exact": True,
    "speedup": 1.834, "speedup_low": 1.71, "speedup_high": 1.957, "speedup_geomean": 1.79, "e2e_speedup": 1.65, "predicted_speedup": 1.99,
    "efficiency": 0.92, "ttft": 0.0123, "baseline_ttft": 0.0119, "tpot": 0.0031, "baseline_tpot": 0.0057, "output_tps_per_user": 322.6,
    "baseline_output_tps_per_user": 175.4, "output_tps": 301.0, "baseline_output_tps": 166.0, "mean_acceptance_length": 3.21,
    "draft_acceptance_rate": 0.553, "alpha": 0.78, "block_efficiency": 3.1, "baseline_block_efficiency": 1.0, "cost_ratio_c": 0.07,
    "verify_ratio_v": 1.38, "overhead_ms_per_round": 0.21, "kv_bytes_target": 6_291_456, "baseline_kv_bytes_target": 6_291_456,
    "kv_bytes_draft": 262_144, "baseline_kv_bytes_draft": 0, "peak_mem_allocated": None,
}


def shown(summary, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    render(summary, console, "speculative on microeval")
    return console.file.getvalue()


def line(text, label):
    [found] = [row for row in text.splitlines() if row.replace("│", "   ").strip().startswith(f"{label}  ")]
    return [cell.strip() for cell in found.replace("|", "│").strip("│").split("│")]


def test_both_sides_stand_side_by_side():
    text = shown(SUMMARY)
    assert line(text, "pass@1") == ["pass@1", "71.9 %", "73.4 %"]
    assert line(text, "speedup")[1:] == ["", "1.83x"]
    assert line(text, "95 % interval")[2] == "1.71 to 1.96"
    assert line(text, "time per output token") == ["time per output token", "5.70 ms", "3.10 ms"]
    assert line(text, "KV cache, target") == ["KV cache, target", "6.0 MiB", "6.0 MiB"]
    assert line(text, "lossless")[2] == "yes"
    assert "64 examples, 8123 tokens" in text and "LOSSY" not in text


def test_only_rows_that_exist():
    text = shown(SUMMARY)
    assert "ROUGE" not in text and "peak memory" not in text
    bare = shown({"rouge1": 0.31, "tpot": 0.003})
    assert line(bare, "ROUGE-1") == ["ROUGE-1", "0.3100"]
    assert "pass@1" not in bare and "baseline" not in bare and "memory" not in bare
    assert shown({})


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_the_terminal_without_cutting(width):
    text = shown(SUMMARY, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


@pytest.mark.parametrize("color", [{"no_color": True}, {"force_terminal": True, "color_system": "truecolor"}])
def test_lossy_is_said_in_words(color):
    text = shown(SUMMARY | {"lossless": False, "cache_exact": False}, **color)
    assert "LOSSY: this method changes" in text and "CACHE NOT EXACT" in text and "NO" in text


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(SUMMARY | {"lossless": False}, force_terminal=True)
    assert "\x1b[31m" not in text and "\x1b[32m" not in text and "\x1b[1;3" not in text


def test_further_baselines_have_their_column_and_their_speedup():
    text = shown(SUMMARY | {"baseline_captured_tpot": 0.004, "speedup_vs_captured": 1.29})
    assert line(text, "time per output token")[1:] == ["5.70 ms", "4.00 ms", "3.10 ms"]
    assert line(text, "over captured")[3] == "1.29x"
    assert max(map(len, text.splitlines())) <= 80


def test_every_k_that_was_asked_for_has_its_row():
    text = shown(SUMMARY | {"pass_at_10": 0.9, "baseline_pass_at_10": 0.88})
    assert line(text, "pass@10") == ["pass@10", "88.0 %", "90.0 %"]


def test_a_missing_interval_leaves_no_row_and_a_sentence_says_why():
    text = shown(SUMMARY | {"speedup_low": None, "speedup_high": None, "num_examples": 4})
    assert not [row for row in text.splitlines() if "│" in row and "interval" in row]
    assert "The speedup has no 95 % interval: that takes 5 prompts, and there are 4." in text
    assert "no 95 % interval" not in shown(SUMMARY) and "no 95 % interval" not in shown(SUMMARY | {"speedup": None, "speedup_low": None})


def test_the_table_can_be_built_without_a_title():
    assert build_table(SUMMARY).row_count > 20


def test_the_run_is_named_and_found(capsys, tmp_path):
    show(SUMMARY | {"method": "speculative", "model_pair": "tiny", "dataset": "microeval"}, tmp_path / ("long" * 30))
    text = capsys.readouterr().out
    assert "speculative, tiny, microeval" in text
    assert text.splitlines()[-1] == str(tmp_path / ("long" * 30))


def test_stand_ins_are_said_in_words():
    assert "STAND-INS" in shown(SUMMARY | {"weights": "standin"}) and "STAND-INS" not in shown(SUMMARY | {"weights": "real"})


def test_where_model_written_code_ran_is_said_and_less_than_bubblewrap_is_warned_of():
    sealed, open_ = shown(SUMMARY | {"sandbox": "bubblewrap"}), shown(SUMMARY | {"sandbox": "limits"})
    assert "code judged in bubblewrap" in sealed and "NOT SEALED OFF" not in sealed
    assert "code judged in limits" in open_ and "NOT SEALED OFF" in open_ and "level limits" in open_.replace("\n", " ")
    assert "judged" not in shown(SUMMARY)


def test_repeats_that_are_other_texts_are_told():
    assert "REPEATS DIFFER: of 3 of the texts" in shown(SUMMARY | {"unequal_repeats": 2, "baseline_unequal_repeats": 1}) and "REPEATS" not in shown(SUMMARY)


ODD = ("my[/model]", "[bold]x", "[link=x]y", "{task.x}", ":smile:", "[red", "a]b", "\\[x]")


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_shown_as_it_is(name, capsys, tmp_path, monkeypatch):
    """In titles, columns, rows, paths and progress bars, whatever rich would make of it."""
    for console in (plain_console(), Console()):
        monkeypatch.setattr(console, "file", io.StringIO())
        render(SUMMARY | {f"baseline_{name}_tpot": 0.1, f"speedup_vs_{name}": 1.2, "sandbox": name}, console, f"one, {name}")
        assert console.file.getvalue().count(name) >= 4
    show(SUMMARY | {"method": name, "model_pair": name, "dataset": name}, tmp_path)
    assert capsys.readouterr().out.count(name) == 3
    plain_console().print(f"a directory {name}")
    papers.show([{"cache": name, "perplexity": 1.0, "mean_nll": 1.0, "accuracy": 1.0, "tokens": 1, "kv_bytes": 1}], name, tmp_path)
    assert capsys.readouterr().out.count(name) == 3
    compare._show([compare.Compared(name, "1", "2", "x", None, name)], (name, name), 1)
    assert capsys.readouterr().out.count(name) == 5
    explain._show(explain.explained([], None, None) | {"missing": [name]}, tmp_path)
    assert capsys.readouterr().out.count(name) == 1
    plain_console().print(explain.drawn({"parents": [-1], "path": [], "texts": {"nodes": [name], "own": [name]}}, name))
    assert capsys.readouterr().out.replace("\\\\", "\\").count(name) == 3


@pytest.mark.parametrize("name", ODD)
def test_a_progress_bar_shows_a_name_as_it_is(name, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(table, "plain_console", lambda **_: Console(file=written, force_terminal=True, width=120, color_system=None))
    assert list(table.watched(iter(records(2, 2)), 2, 0, name)) == records(2, 2)
    assert name in written.getvalue()


def test_every_console_of_the_package_shows_texts_as_they_are():
    """No file makes a console of its own, or reads markup."""
    package = Path(table.__file__).parents[1]
    found = [file.name for file in package.rglob("*.py") for text in [file.read_text(encoding="utf-8")] if re.search(r"\bConsole\(|from_markup|rich\.print", text)]
    assert found == ["table.py"]
