"""Sweeps: lists of jobs, failures that stop nothing, the aggregate at the end, going on after a kill, launchers, a search with held-out prompts."""

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from report_runs import write_failed, write_run

import specexp
from hydra_plugins.specexp_jobs.sweeper import rows
from specexp.cli import jobs as entry
from specexp.datasets import Example
from specexp.errors import UserError
from specexp.experiment.supply import part_of
from specexp.report import sweep as callback
from specexp.report.sweep import SweepReport
from specexp.tracking.records import RunDirectory, write_failure

BRIEF = ["tracker=none", "threads=1", "warmup=1", "dataset.limit=2", "max_new_tokens=8"]


def jobs(lines, *given):
    return [" ".join(row) for row in rows(lines, OverridesParser.create().parse_overrides(list(given)))]


def test_lines_of_jobs_become_jobs_and_the_command_line_wins():
    lines = ["method=autoregressive", "method=speculative method.gamma=4,5", "method=tree method.depth=3 method.branching=[2,1]"]
    assert jobs(lines) == ["method=autoregressive", "method=speculative method.gamma=4", "method=speculative method.gamma=5",
                           "method=tree method.depth=3 method.branching=[2,1]"]
    assert jobs(lines[1:2], "method.gamma=8", "seed=1,2") == ["method=speculative method.gamma=8 seed=1", "method=speculative method.gamma=8 seed=2"]


def test_parts_are_disjoint_halves_whatever_the_order():
    examples = [Example(f"p/{i}", "x") for i in range(9)]
    train, test = ({e.id for e in part_of(examples, part)} for part in ("train", "test"))
    assert train | test == {e.id for e in examples} and not train & test and (len(train), len(test)) == (4, 5)
    assert {e.id for e in part_of(examples[::-1], "train")} == train and part_of(examples, "all") == examples
    for wrong, count in (("validation", 9), ("train", 1)):
        with pytest.raises(UserError, match=f"part={wrong}"):
            part_of(examples[:count], wrong)


@pytest.fixture
def no_card_held(monkeypatch, tmp_path):
    monkeypatch.setattr(entry, "_held", [])
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_process_takes_a_card_of_its_own(no_card_held, monkeypatch, tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).write_text("")
    taken = []
    for _ in range(2):
        monkeypatch.setattr(entry, "_held", [])
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        taken.append(entry.take_card(tmp_path))
        assert entry.take_card(tmp_path) == taken[-1] == os.environ["CUDA_VISIBLE_DEVICES"]
    assert taken == ["0", "1"]
    monkeypatch.setattr(entry, "_held", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(UserError, match=r"all 2 cards.*hydra\.launcher\.n_jobs=2"):
        entry.take_card(tmp_path)


def test_one_card_or_none_is_shared(no_card_held, monkeypatch, tmp_path):
    assert entry.take_card(tmp_path) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert entry.take_card(tmp_path) is None and os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_failure_is_forgotten_when_its_job_gets_going(tmp_path):
    write_failure(tmp_path, "out of memory.")
    assert json.loads((tmp_path / "failure.json").read_text())["error"] == "out of memory."
    with RunDirectory(tmp_path, "a: 1"):
        assert not (tmp_path / "failure.json").exists()
    write_failure(tmp_path / "nothing", "no directory, no file")


def test_a_finished_run_stays_finished_when_a_later_attempt_is_refused(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    write_failure(tmp_path, "holds records of another configuration.")
    assert not (tmp_path / "failure.json").exists()


@pytest.fixture
def sweep(tmp_path):
    """(callback begun, the sweep's directory, its configuration)"""
    sweeper = {"params": {"method.gamma": "2,4"}}
    hydra = {"sweep": {"dir": str(tmp_path)}, "sweeper": sweeper, "overrides": {"task": ["seed=1,2", "dataset.limit=9"]}}
    begun = SweepReport()
    begun.on_multirun_start(OmegaConf.create({"hydra": hydra}))
    yield begun, tmp_path, OmegaConf.create({"hydra": hydra})
    callback.atexit.unregister(begun._conclude)


def test_progress_counts_what_lies_on_disk(sweep):
    begun, place, _ = sweep
    assert begun._progress(*callback._done(place, begun._began)) == "0 of 4 jobs done"
    write_run(place / "a")
    write_failed(place / "b")
    assert begun._progress(*callback._done(place, begun._began)).startswith("2 of 4 jobs done, 1 of them failed, about")


@pytest.mark.parametrize(("sweeper", "count"), [({"params": None}, 2), ({"n_trials": 7}, 7), ({"jobs": ["a=1,2", "b=3"]}, 6), ({"params": {"x": "glob(*)"}}, None)])
def test_the_number_of_jobs_is_known_beforehand_where_it_can_be(sweeper, count):
    assert callback._count(OmegaConf.create({"hydra": {"sweeper": sweeper, "overrides": {"task": ["seed=1,2"]}}})) == count


def test_a_launchers_worker_hands_a_refusal_to_the_command(monkeypatch):
    """It has copies of the command's names, and of the process's number."""
    monkeypatch.setattr(entry, "sweep_directory", lambda: "sweep")
    monkeypatch.setattr(entry, "command", os.getpid() + 1)
    monkeypatch.setattr(entry, "refused", [])

    def work(build):
        raise UserError("not so.")

    with pytest.raises(UserError, match="not so"):
        entry.attempted(work, "interrupted")
    assert not entry.refused


def test_a_defect_leaves_its_trace_with_the_job_and_its_row_in_the_table(sweep, capsys, monkeypatch):
    begun, place, config = sweep
    write_run(place / "a")
    (place / "b" / ".hydra").mkdir(parents=True)
    (place / "b" / "specexp.log").write_text("")
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = RuntimeError("CUDA out of memory\nmore")
    monkeypatch.setattr(callback.HydraConfig, "get", lambda: OmegaConf.create({"mode": callback.RunMode.MULTIRUN}))
    begun.on_job_end(OmegaConf.create({"hydra": {"runtime": {"output_dir": str(place / "b")}}}), failed)
    note = json.loads((place / "b" / "failure.json").read_text())
    assert note["error"] == "RuntimeError: CUDA out of memory" and "more" in note["trace"]
    begun.on_multirun_end(config)
    shown = capsys.readouterr()
    assert "b failed: RuntimeError: CUDA out of memory" in shown.out and "more" in shown.err
    assert {"sweep.md", "sweep.tex", "sweep.csv", "sweep.json", "sweep.html"} <= {file.name for file in place.iterdir()}


def test_a_search_ends_in_the_command_that_tests_it(sweep, capsys):
    begun, place, _ = sweep
    begun._command = ["part=train", "method.gamma=range(1,9)", "dataset.limit=9", "hydra.sweeper.n_trials=3"]
    write_run(place / "a")
    (place / "optimization_results.yaml").write_text("name: optuna\nbest_params: {method.gamma: 6}\nbest_value: 2.5\n")
    begun._conclude()
    assert capsys.readouterr().out.splitlines()[-1].endswith("python -m specexp dataset.limit=9 method.gamma=6 part=test")


@pytest.mark.parametrize(("mode", "told"), [("offline", True), ("disabled", False)])
def test_a_sweep_is_tracked_as_its_jobs_were(sweep, capsys, tmp_path, mode, told):
    wandb = pytest.importorskip("wandb")
    begun, place, _ = sweep
    node = {"_target_": "specexp.tracking.wandb.WandbTracker", "project": "p", "mode": mode, "name": "job", "directory": str(tmp_path / "home")}
    for gamma in (2, 4):
        write_run(place / f"g{gamma}", gamma, settings={"tracker": node})
    begun._conclude()
    wandb.teardown()
    assert ("to upload all of it" in capsys.readouterr().err) is told
    assert len(list((tmp_path / "home").glob("wandb/offline-run-*"))) == told


def test_a_sweep_of_which_nothing_is_left_says_so(sweep, capsys):
    sweep[0]._conclude()
    assert "sweep: no report" in capsys.readouterr().err


def command(*arguments):
    return [sys.executable, "-m", "specexp", *arguments]


def environment(**more):
    root = str(Path(specexp.__file__).parent.parent)
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


def started(*arguments, cwd, **options):
    return subprocess.run(command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300, **options)


def summaries(directory):
    return {file.parent.name: file.stat().st_mtime_ns for file in directory.rglob("summary.json")}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_without_redoing_jobs(tmp_path):
    arguments = ["-m", "method.gamma=2,4,6,8", "hydra.sweep.dir=sweep", *BRIEF]
    killed = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waited = time.monotonic() + 120
    while len(summaries(tmp_path)) < 2 and time.monotonic() < waited:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = summaries(tmp_path)
    assert 2 <= len(before) < 4
    ended = started(*arguments, cwd=tmp_path)
    after = summaries(tmp_path)
    assert ended.returncode == 0 and len(after) == 4 and {name: after[name] for name in before} == before
    assert all("method.gamma=" in name for name in after) and (tmp_path / "sweep" / "sweep.tex").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["parallel", "submitit_local"])
def test_launchers_run_a_sweep_and_one_bad_job_stops_none(tmp_path, launcher):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher" if launcher == "parallel" else "hydra_plugins.hydra_submitit_launcher")
    few = [] if launcher == "parallel" else ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"]
    ended = started("-m", f"hydra/launcher={launcher}", *few, "method.gamma=2,4,-1,8", "hydra.sweep.dir=sweep", *BRIEF, cwd=tmp_path)
    assert len(summaries(tmp_path)) == 3 and ended.returncode == 1
    assert "gamma=-1 is negative" in (tmp_path / "sweep" / "sweep.md").read_text()
    assert ended.stderr.rstrip().splitlines()[-1].startswith(("specexp: ", "/", "sweep: ")) and "gamma=-1 is negative" in ended.stderr


CHATTER = re.compile(r"alembic|absl|Using default tokenizer|Loading weights|A new study|it/s|Warning")


@pytest.mark.slow
def test_libraries_say_nothing_of_themselves(tmp_path):
    """Of a search over a scored data set, in its output and in the logs of its jobs; and of a report on it."""
    pytest.importorskip("optuna")
    searched = started("-m", "hydra/sweeper=tune", "method.gamma=range(1,2)", "hydra.sweeper.n_trials=1", "dataset=microsum", "hydra.sweep.dir=sweep", *BRIEF, cwd=tmp_path)
    logs = "".join(file.read_text() for file in (tmp_path / "sweep").rglob("*.log"))
    told = started("report", "sweep", "--out", "made", cwd=tmp_path)
    for text in (searched.stdout, searched.stderr, logs, told.stdout, told.stderr):
        assert not CHATTER.findall(text), text
    assert searched.returncode == told.returncode == 0 and "Study name" in searched.stdout


def test_the_logs_leave_out_what_libraries_say_of_themselves(command_line, tmp_path, monkeypatch):
    def run(config, directory, sweep, build):
        for name in ("absl", "alembic.runtime.plugins", "specexp"):
            logging.getLogger(name).info("said by %s", name)
            logging.getLogger(name).warning("warned by %s", name)

    monkeypatch.setattr("specexp.experiment.job.run", run)
    assert command_line("hydra.run.dir=run")[0] == 0
    said = re.findall(r"(said|warned) by (\w+)", (tmp_path / "run" / "specexp.log").read_text())
    assert said == [("warned", "absl"), ("warned", "alembic"), ("said", "specexp"), ("warned", "specexp")]


@pytest.mark.slow
def test_a_search_looks_at_one_half_and_is_tested_on_the_other(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    brief = [setting for setting in BRIEF if "limit" not in setting]
    ended = started("-m", "hydra/sweeper=tune", "hydra.sweeper.n_trials=3", "part=train", "method.gamma=range(1,5)", "dataset.limit=4",
                    "hydra.sweep.dir=sweep", *brief, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    [told] = re.findall(r"python -m specexp (.*part=test)", ended.stdout)
    assert re.search(r"method\.gamma=[1-5] ", told)
    tested = started(*shlex.split(told), "hydra.run.dir=tested", cwd=tmp_path)
    assert tested.returncode == 0
    seen, unseen = ({json.loads(line)["id"] for file in place.rglob("records.jsonl") for line in file.open()} for place in (tmp_path / "sweep", tmp_path / "tested"))
    assert len(seen) == len(unseen) == 2 and not seen & unseen
