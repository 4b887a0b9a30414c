"""What a refusal leaves behind: nothing that was not there before."""

import os
import subprocess
import sys

import pytest

from specexp.cli import credentials


def tree(place):
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in place.rglob("*")}


REFUSED = [
    ("max_new_tokens=0",),  # by the check of the configuration
    ("dataset=prompts", "dataset.path=nowhere.txt"),  # when the data are read
    ("max_new_tokens=100000",),  # when the models are known
    ("hydra.job_logging.handlers.console.class=no.Such",),  # by Hydra, in the directory that it has made
    ("-m", "method=speculativ,tree"),  # by Hydra, once a sweep's directory is made
    ("-m", "hydra.launcher._target_=no.Such", "seed=1"),
]


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_a_refused_command_leaves_nothing(command_line, tmp_path, overrides):
    for where in ((), ("hydra.run.dir=a/b", "hydra.sweep.dir=a/b")):
        code, errors = command_line(*overrides, *where)
        assert code == 1 and errors.startswith("specexp: ") and errors.count("\n") == 1
        assert tree(tmp_path) == {}


def test_what_was_there_before_is_left_as_it_was(command_line, tmp_path):
    """An empty directory of the user's, one with other files, and a run's, in which Hydra has written by then."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text("- method=tree\n")
    (tmp_path / "run" / "records.jsonl").write_text("{}\n")
    before = tree(tmp_path)
    for place in ("empty", "run"):
        assert command_line("seed=-1", f"hydra.run.dir={place}")[0] == 1
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before and not [name for name in after if name.startswith("empty/")]
    assert command_line("seed=-1", "hydra.run.dir=other")[0] == 1 and (tmp_path / "other" / "mine.txt").read_text() == "mine"


def test_what_another_process_writes_or_what_has_a_record_is_kept(command_line, tmp_path, monkeypatch):
    for name, content in ((".lock", "1\n"), ("records.jsonl", "{}\n"), ("notes.txt", "")):
        place = tmp_path / name.strip(".")

        def run(config, directory, sweep, build, name=name, content=content):
            (directory / name).write_text(content)
            raise credentials.UserError("in use.")

        monkeypatch.setattr("specexp.experiment.job.run", run)
        assert command_line(f"hydra.run.dir={place}") == (1, "specexp: in use.\n")
        assert (place / name).read_text() == content and (place / ".hydra" / "config.yaml").exists()


@pytest.mark.slow
def test_a_console_and_a_server_take_nothing_away(tmp_path):
    """They write nothing into the directory in which they are started, and so remove nothing of it."""
    done = subprocess.run(
        [sys.executable, "-m", "specexp", "serve", "max_new_tokens=0"], cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and "max_new_tokens=0" in done.stderr and tree(tmp_path) == {}
