"""The W&B mirror: everything arrives offline, nothing is ever asked, and a W&B that fails costs one line."""
import json
import logging
import os
import pty
import shutil
import subprocess
import sys
import textwrap
import types
from dataclasses import replace
from pathlib import Path

import pytest
import sides
from report_runs import write_run

from specexp.errors import UserError
from specexp.report import wandb_report
from specexp.report.__main__ import main
from specexp.report.wandb_report import WandbSweep
from specexp.tracking import NullTracker
from specexp.tracking.wandb import WandbTracker, coloured

wandb = pytest.importorskip("wandb")


def side(text, decode, rounds):
    return sides.side(9, rounds, decode=decode, text=text, score={"passed": True}, finish="eos", nll_sum=1.0, nll_count=9)


RECORDS = [
    replace(sides.record(f"p/{i}", side("fast", 0.8 / (i + 1), [[3, 3], [3, 3]]), side("slow", 0.8, [[0, 0]] * 8)), prompt=f"prompt {i}")
    for i in range(3)
]
SUMMARY = {"speedup": 1.5, "speedup_low": None, "lossless": True}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No key, no settings and no mode from the machine the tests run on."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    wandb.teardown()


def track(tmp_path, records=RECORDS, summary=SUMMARY, group="sweep", **options):
    run_directory = tmp_path / "run"
    run_directory.mkdir(exist_ok=True)
    tracker = WandbTracker(directory=str(tmp_path / "home"), **options)
    tracker.start({"method": {"gamma": 4}, "seed": 1}, run_directory, group)
    tracker.finish(summary, records)
    return sorted((tmp_path / "home" / "wandb").glob("offline-run-*/*.wandb"))


def inspect(file, *flags):
    command = [wandb.util.get_core_path(), "leet", "inspect", "-no-observability", *flags, "-json", "-run-file", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_everything_arrives_offline(tmp_path):
    [file] = track(tmp_path, mode="offline", tags=("a", "b"), name="γ=4")
    whole = json.loads(inspect(file, "-summary"))
    assert whole["config"] == {"method": {"gamma": 4}, "seed": 1}
    assert (whole["project"], whole["name"], whole["tags"], whole["state"]) == ("specexp", "γ=4", ["a", "b"], "finished")
    assert {key: whole["summary"].get(key) for key in SUMMARY} == SUMMARY
    assert whole["summary"]["samples"]["nrows"] == 3
    lines = [json.loads(line) for line in inspect(file).splitlines()]
    assert next(line["run"]["run_group"] for line in lines if "run" in line) == "sweep"
    rows = [line["history"]["item"] for line in lines if "history" in line]
    assert [row["example/speedup"] for row in rows[:3]] == pytest.approx([1.0, 2.0, 3.0])
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["example/mean_acceptance_length"] == 4.0


def test_the_table_of_samples_lies_with_the_run(tmp_path):
    [file] = track(tmp_path, mode="offline")
    [table] = file.parent.glob("files/media/table/samples*.json")
    found = json.loads(table.read_text())
    assert found["columns"] == ["id", "sample", "prompt", "baseline", "method", "baseline_score", "method_score", "speedup", "coloured"]
    assert found["data"][1][:8] == ["p/1", 0, "prompt 1", "slow", "fast", '{"passed": true}', '{"passed": true}', pytest.approx(2.0)]
    artifact = next(line["artifact"] for line in map(json.loads, inspect(file).splitlines()) if "artifact" in line)
    for staged in artifact["manifest"]["contents"]:
        assert Path(staged["local_path"]).is_relative_to(tmp_path / "home" / "wandb") and Path(staged["local_path"]).exists()
    pages = [Path(staged["local_path"]).read_text() for staged in artifact["manifest"]["contents"] if staged["path"].endswith(".html")]
    assert sorted(pages) == sorted({coloured(record.method) for record in RECORDS})


def test_texts_are_coloured_and_escaped():
    method = sides.side(3, text="<b>&", ends=[1, 2, 4], origins=["target", "draft", "resample"])
    html = coloured(method)
    assert "&lt;</span>" in html and "<b>" not in html and html.count("background:") == 3 and 'title="resample">&gt;&amp;</span>' in html


def test_rounds_are_histograms(tmp_path):
    [file] = track(tmp_path, mode="offline")
    last = [json.loads(line)["history"]["item"] for line in inspect(file).splitlines() if "history" in json.loads(line)][-1]
    accepted = last["rounds/accepted"] if isinstance(last.get("rounds/accepted"), dict) else json.loads(inspect(file, "-summary"))["summary"]["rounds/accepted"]
    assert accepted["_type"] == "histogram" and sum(accepted["values"]) == 6


def test_a_sweep_has_a_run_of_its_own_with_table_figures_and_curves(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.figure")
    matplotlib.Figure(figsize=(1, 1)).savefig(tmp_path / "gamma.png")
    tracker = WandbSweep(directory=str(tmp_path / "home"), mode="offline")
    tracker.pictures, tracker.x = [tmp_path / "gamma.png"], "method.gamma"
    tracker.start({}, tmp_path, "sweep")
    rows = [{"method": "speculative", "label": f"γ={g}", "method.gamma": g, "speedup": s, "lossless": True} for g, s in ((4, 2.0), (2, 1.5))]
    tracker.finish({"jobs": 2}, [*rows, {"method": "csd", "label": "csd"}])
    [file] = (tmp_path / "home" / "wandb").glob("offline-run-*/*.wandb")
    lines = [json.loads(line) for line in inspect(file).splitlines()]
    run = next(line["run"] for line in lines if "run" in line)
    assert (run["run_group"], run["job_type"]) == ("sweep", "sweep")
    history = [line["history"]["item"] for line in lines if "history" in line]
    assert [(row["_step"], row.get("speedup/speculative")) for row in history] == [(2, 1.5), (4, 2.0), (5, None)]
    [table] = file.parent.glob("files/media/table/sweep*.json")
    assert json.loads(table.read_text())["data"][2][:2] == ["csd", "csd"] and list(file.parent.glob("files/media/images/figures/gamma*.png"))


def test_what_was_logged_offline_is_listed_for_upload(tmp_path, capsys):
    runs = [write_run(tmp_path / "sweep" / name) for name in "ab"]
    for run in runs:
        tracker = WandbTracker(directory=str(tmp_path / "home"), mode="offline")
        tracker.start({}, run, "sweep")
        tracker.finish(SUMMARY, RECORDS)
    main(["sync", str(tmp_path / "sweep")])
    listed = capsys.readouterr().out.split()
    assert sorted(listed) == sorted(map(str, (tmp_path / "home" / "wandb").glob("offline-run-*")))
    shutil.move(tmp_path / "home", tmp_path / "moved")
    with pytest.raises(SystemExit, match="--wandb DIR"):
        main(["sync", str(tmp_path / "sweep")])
    uploaded = next((tmp_path / "moved" / "wandb").glob("*/*.wandb"))
    uploaded.with_suffix(".wandb.synced").write_text("")
    main(["sync", str(tmp_path / "sweep"), "--wandb", str(tmp_path / "moved" / "wandb")])
    assert len(capsys.readouterr().out.split()) == 1


def test_a_report_for_wandb_is_built_without_a_network(tmp_path, capsys):
    pytest.importorskip("wandb_workspaces")
    write_run(tmp_path / "sweep" / "a", settings={"tracker": {"project": "mine", "group": None}})
    main(["wandb", str(tmp_path / "sweep")])
    report = json.loads((tmp_path / "sweep" / "wandb_report.json").read_text())
    text = json.dumps(report)
    assert "specexp: sweep" in text and "baseline" in text and "draft_acceptance_rate" in text and report["project"]["name"] == "mine"


def test_a_report_that_wandb_does_not_make_or_take_is_told(monkeypatch):
    def save():
        raise ValueError("nobody is logged in")

    with pytest.raises(UserError, match=r"W&B did not take the report \(ValueError: nobody is logged in\); is there a key"):
        wandb_report._saved(types.SimpleNamespace(save=save))
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match="W&B reports need wandb-workspaces"):
        wandb_report.build([], "p", "g")


def test_auto_without_a_key_is_offline_with_one_line(tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    [file] = track(tmp_path)
    assert capfd.readouterr() == ("", "")
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("specexp")]
    assert f"wandb sync {file.parent}" in line and "no API key" in line


def test_the_environments_mode_holds_for_auto_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert track(tmp_path) == [] and not (tmp_path / "home").exists()
    assert len(track(tmp_path, mode="offline")) == 1
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert len(track(tmp_path)) == 2


def test_a_server_that_does_not_answer_falls_back_to_offline(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("specexp.tracking.wandb.INIT_SECONDS", 2.0)
    [file] = track(tmp_path)
    assert json.loads(inspect(file, "-summary"))["summary"]["speedup"] == 1.5
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("specexp")]
    assert "(online failed: CommError" in line and f"wandb sync {file.parent}" in line


def test_a_malformed_key_falls_back_to_offline(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert len(track(tmp_path, mode="online")) == 1
    assert "WANDB_API_KEY invalid" in caplog.text


@pytest.mark.parametrize(("failure", "stage"), [
    (wandb.errors.UsageError("broken"), "init"), (OSError("broken"), "init"), (ValueError("broken"), "Table"),
    (RuntimeError("broken"), "teardown"),
])
def test_a_broken_wandb_costs_one_line(tmp_path, monkeypatch, caplog, failure, stage):
    def broken(*_, **__):
        raise failure

    real = getattr(wandb, stage)
    monkeypatch.setattr(wandb, stage, broken)
    track(tmp_path, mode="offline")
    monkeypatch.setattr(wandb, stage, real)
    wandb.teardown()
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING and record.name.startswith("specexp")]
    assert line.startswith("W&B failed") and "broken" in line and str(tmp_path / "run") in line


def test_a_helper_process_that_dies_costs_one_line(tmp_path, monkeypatch, caplog):
    def killing(*arguments, **options):
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        for child in children.read_text().split():
            if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), 9)
        return real(*arguments, **options)

    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("needs Linux's list of child processes")
    real = wandb.Table
    monkeypatch.setattr(wandb, "Table", killing)
    track(tmp_path, mode="offline")
    assert "W&B failed" in caplog.text


def test_an_interrupt_is_not_swallowed(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "Table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        track(tmp_path, mode="offline")


def test_without_the_package_the_run_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    track(tmp_path)
    assert "W&B failed (ModuleNotFoundError" in caplog.text


def test_a_directory_that_cannot_be_written_costs_one_line(tmp_path, caplog):
    (tmp_path / "home").write_text("")
    track(tmp_path, mode="offline")
    assert "W&B failed" in caplog.text


def test_a_run_finished_twice_is_one_run(tmp_path):
    files = track(tmp_path, RECORDS[:1], mode="offline") and track(tmp_path, mode="offline")
    assert len(files) == 2 and len({file.name for file in files}) == 1


def test_no_process_of_wandb_is_left_to_disturb_the_next_timing(tmp_path):
    """In a process of its own: what other tests started, and killed, is none of its business."""
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("needs Linux's list of child processes")
    script = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from specexp.tracking.wandb import WandbTracker
        tracker = WandbTracker(mode="offline", directory=sys.argv[1])
        tracker.start({}, Path(sys.argv[1]))
        tracker.finish({"speedup": 1.0}, [])
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        print([name for child in children if "wandb" in (name := Path(f"/proc/{child}/comm").read_text())])
    """)
    shown = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_it_never_asks_even_on_a_terminal(tmp_path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from specexp.tracking.wandb import WandbTracker
        assert sys.stdin.isatty() and sys.stderr.isatty()
        tracker = WandbTracker(mode="online", directory=sys.argv[1])
        tracker.start({}, Path(sys.argv[1]))
        tracker.finish({"speedup": 1.0}, [])
    """)
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        try:
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_an_unknown_mode_is_refused_at_once():
    with pytest.raises(UserError, match=r"tracker\.mode=sometimes"):
        WandbTracker(mode="sometimes")


def test_no_baseline_and_no_records_are_fine(tmp_path, caplog):
    bare = list(map(sides.alone, RECORDS))
    assert len(track(tmp_path, bare, mode="offline")) == 1
    assert len(track(tmp_path, [], mode="offline")) == 2
    assert "failed" not in caplog.text


def test_none_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    NullTracker().start({}, tmp_path)
    NullTracker().finish(SUMMARY, RECORDS)
    assert not list(tmp_path.iterdir())


def test_a_notebooks_own_run_is_left_alone(tmp_path):
    own = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True, console="off", x_disable_stats=True))
    [file] = track(tmp_path)
    own.log({"mine": 1})
    own.finish()
    [theirs] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert json.loads(inspect(theirs, "-summary"))["summary"]["mine"] == 1
    assert json.loads(inspect(file, "-summary"))["summary"]["speedup"] == 1.5
