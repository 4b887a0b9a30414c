"""Runs and sweeps that an earlier version wrote (tests/old_runs) stay readable: every command reads them and tells the figures of that time.

The run that was killed is gone on with, or refused in a sentence where the keys of a configuration have moved since. Either way nothing of
what it wrote is lost.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from specexp.report.__main__ import main

OLD = Path(__file__).parents[1] / "old_runs"
pytestmark = pytest.mark.skipif(not OLD.is_dir(), reason="needs the checkout: a source distribution leaves the old runs out")

RUNS = {file.parent.relative_to(OLD).as_posix(): file.parent for file in sorted(OLD.rglob("records.jsonl")) if file.stat().st_size}
FINISHED = {name: directory for name, directory in RUNS.items() if (directory / "summary.json").is_file()}
SINGLE = [name for name in FINISHED if "/" not in name]
TREES = ["tree", "best_first_tree"]
HEADLINES = ("speedup", "e2e_speedup", "pass_at_1", "rouge1", "tpot", "ttft", "mean_acceptance_length", "draft_acceptance_rate", "equal_texts", "perplexity")
HALF = ["tracker=none", "threads=1", "dataset.limit=2", "max_new_tokens=160"]


def summary(name):
    return json.loads((OLD / name / "summary.json").read_text())


@pytest.fixture
def told(capfd, monkeypatch):
    """told(*arguments) -> what `python -m specexp.report` prints."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        main([str(argument) for argument in arguments])
        return capfd.readouterr().out

    return call


def test_the_old_runs_are_all_there():
    assert len(SINGLE) == 11 and len(FINISHED) == 17 and set(RUNS) - set(FINISHED) == {"half"}


def test_the_table_has_the_figures_of_every_old_run(told):
    rows = {row["run"]: row for row in json.loads(told(OLD, "--format", "json"))["results"] if "run" in row}
    assert {name for name, row in rows.items() if row["state"] == "finished"} == set(FINISHED)
    for name in FINISHED:
        assert {key: rows[name].get(key) for key in summary(name)} == summary(name), name
    assert [row["state"] for row in rows.values() if row["run"] == "half"] == ["unfinished"]
    assert [row["state"] for name, row in rows.items() if "max_length=64" in name] == ["failed"]


@pytest.mark.parametrize("sweep", ["sweep_gamma", "sweep_methods", "sweep_sink"])
def test_a_sweep_is_summed_up_as_it_was_then(told, sweep):
    then = json.loads((OLD / sweep / "sweep.json").read_text())
    now = json.loads(told(OLD / sweep, "--format", "json"))
    figures = lambda found: sorted([row.get(key) for key in HEADLINES] for row in found["results"] if row["state"] == "finished" and "run" in row)
    assert repr(figures(now)) == repr(figures(then)) and len(figures(now)) > 0
    assert now["summary"]["best_speedup"] == then["summary"]["best_speedup"]


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_every_form_of_the_table_has_every_old_run(told, form):
    text = told(OLD, "--format", form)
    for name in FINISHED:
        speedup = summary(name)["speedup"]
        assert (repr(speedup) if form == "csv" else f"{speedup:.2f}") in text, name


def test_the_page_has_every_old_run(told, tmp_path):
    told(OLD, "--out", tmp_path)
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert all(name.rpartition("/")[2] in page for name in RUNS)
    assert {file.name for file in tmp_path.iterdir()} >= {"sweep.csv", "sweep.json", "sweep.md", "sweep.tex"}


@pytest.mark.parametrize("name", RUNS)
def test_explain_finds_the_figures_of_that_time_in_the_records(told, name):
    assert told("explain", OLD / name)
    found = json.loads(told("explain", OLD / name, "--json"))
    if name in FINISHED:
        of_then = {key: value for key, value in summary(name).items() if key in found and key not in ("speedup_low", "speedup_high")}
        assert {"speedup", "tpot", "baseline_tpot"} <= set(of_then)
        assert {key: found[key] for key in of_then} == {key: value if value is None else pytest.approx(value) for key, value in of_then.items()}


@pytest.mark.parametrize("name", FINISHED)
def test_compare_finds_the_scores_of_that_time_in_the_records(told, name):
    text = told("compare", OLD / name)
    if "pass_at_1" in summary(name):
        a, b = (100 * summary(name)[key] for key in ("pass_at_1", "baseline_pass_at_1"))
        assert re.search(rf"passed\s*│\s*{a:.1f} %\s*│\s*{b:.1f} %", text)
    if "rouge1" in summary(name):
        assert re.search(rf"rouge1\s*│\s*{summary(name)['rouge1']:.4f}", text)


def test_compare_reads_two_old_runs(told):
    assert "2 examples" in told("compare", OLD / "speculative", OLD / "tree")
    assert "2 examples" in told("compare", OLD / "endpoint", OLD / "hf_generate")


@pytest.mark.parametrize("name", SINGLE)
def test_tree_shows_what_was_drafted_or_says_that_nothing_was(told, name):
    if name in TREES:
        assert re.search(r"MicroEval/0: \d+ nodes, \d+ accepted", told("tree", OLD / name))
    else:
        with pytest.raises(SystemExit, match=f"{name} holds no token tree"):
            told("tree", OLD / name)


def test_ablation_has_a_line_for_each_prompt_of_each_old_run(told):
    lines = told("ablation", *(OLD / name for name in SINGLE)).splitlines()
    assert len(lines) == 1 + sum(summary(name)["num_samples"] for name in SINGLE)


def test_a_run_that_was_killed_is_gone_on_with_or_refused_and_nothing_is_lost(command_line, tmp_path):
    directory = tmp_path / "half"
    shutil.copytree(OLD / "half", directory)
    written = {file.name: file.read_bytes() for file in (OLD / "half").iterdir() if file.is_file() and file.name != "specexp.log"}
    code, error = command_line(*HALF, "hydra.run.dir=half", brief=False)
    assert (directory / "records.jsonl").read_bytes().startswith(written["records.jsonl"])
    assert (directory / "specexp.log").read_bytes().startswith((OLD / "half" / "specexp.log").read_bytes())
    if code == 0:
        records = [json.loads(line) for line in (directory / "records.jsonl").read_text().splitlines()]
        assert [record["id"] for record in records] == ["MicroEval/0", "MicroEval/1"]
        assert json.loads((directory / "summary.json").read_text())["num_samples"] == 2
    else:
        refusal = [line for line in error.splitlines() if line.startswith("specexp: ")]
        assert code == 1 or isinstance(code, str)
        assert len(refusal) == 1 and "was written by an older version" in refusal[0] and "hydra.run.dir=DIR" in refusal[0]
        assert {name: (directory / name).read_bytes() for name in written} == written
        assert "Traceback" not in error and not (directory / "summary.json").exists()


@pytest.mark.slow
def test_a_finished_sweep_keeps_its_figures_under_the_same_command(command_line, told, tmp_path):
    shutil.copytree(OLD / "sweep_gamma", tmp_path / "sweep")
    records = {file.parent.name: file.read_bytes() for file in (OLD / "sweep_gamma").rglob("records.jsonl")}
    code, error = command_line("-m", "tracker=none", "threads=1", "max_new_tokens=24", "dataset.limit=2", "method.gamma=1,2", "hydra.sweep.dir=sweep", brief=False)
    assert code == 0 or "was written by an older version" in error
    assert not list((tmp_path / "sweep").rglob("failure.json"))
    assert {file.parent.name: file.read_bytes() for file in (tmp_path / "sweep").rglob("records.jsonl")} == records
    rows = {row["run"]: row for row in json.loads(told(tmp_path / "sweep", "--format", "json"))["results"] if "run" in row}
    for name in records:
        assert rows[name]["speedup"] == summary(f"sweep_gamma/{name}")["speedup"]
