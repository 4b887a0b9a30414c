"""What Hydra calls along a sweep: progress after each job, a note in the directory of a job that failed, and at the end the aggregate.

The aggregate (see tables.py) goes into the sweep's directory. Hydra does not announce the end of a sweep in which
a job failed, or that was interrupted: then it is written when the process ends, and the report command can write it at any time. Jobs may
run in other processes or on other machines: what is counted are the files they leave.
"""

from __future__ import annotations

import atexit
import shlex
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.specexp_jobs.sweeper import rows
from specexp.errors import UserError
from specexp.tracking.records import FAILURE, read_object, write_failure

STEPS = ("method.gamma", "cache.max_length", "method.max_nodes", "method.depth")  # the first that varies is the axis of W&B's curves
TUNED = "optimization_results.yaml"  # Optuna's, in the sweep's directory


class SweepReport(Callback):
    """A callback of hydra.callbacks; does nothing in single runs."""

    def __init__(self) -> None:
        self._directory = Path()
        self._jobs: int | None = None
        self._began, self._done_before = 0.0, 0
        self._command: list[str] = []

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        _quieten_search(config)
        self._directory = Path(config.hydra.sweep.dir).absolute()
        self._began, self._jobs, self._command = time.time(), _count(config), _given(config)
        self._done_before = _done(self._directory, self._began)[0]
        atexit.register(self._conclude)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: object) -> None:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            return
        if job_return.status == JobStatus.FAILED:
            self._note_failure(Path(config.hydra.runtime.output_dir), job_return)
        done, failed = _done(self._directory, self._began)
        print(f"sweep: {self._progress(done, failed)}", file=sys.stderr)

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        self._conclude()

    def _note_failure(self, directory: Path, job_return: JobReturn) -> None:
        error = job_return._return_value  # the property would raise it
        trace = "".join(traceback.format_exception(error))
        write_failure(directory, str(error) if isinstance(error, UserError) else _first_line(error), trace)
        if not isinstance(error, UserError):
            print(trace, file=sys.stderr)  # Hydra shows the first one only, at the end

    def _progress(self, done: int, failed: int) -> str:
        text = f"{done} of {self._jobs or '?'} jobs done" + (f", {failed} of them failed" if failed else "")
        new, left = done - self._done_before, (self._jobs or 0) - done
        return f"{text}, about {(time.time() - self._began) / new / 60 * left:.0f} min left" if new > 0 and left > 0 else text

    def _conclude(self) -> None:
        """Once, at whichever end comes first."""
        from specexp.report.rows import make_rows, notes
        from specexp.report.runs import find_runs
        from specexp.report.tables import text, write

        atexit.unregister(self._conclude)
        if not self._directory.is_dir():  # the sweep was refused before its first job
            return
        try:
            runs = find_runs([self._directory])
            rows = make_rows(runs)
            write(runs, rows, self._directory)
            print(text(rows, notes(runs)))
            print(f"{self._directory / 'sweep.html'}", file=sys.stderr)
            self._tell_held_out()
            self._track(runs, rows)
        except UserError as error:  # no job got as far as a directory, say
            print(f"sweep: no report ({error})", file=sys.stderr)

    def _track(self, runs: list, rows: list[dict]) -> None:
        """The sweep's own W&B run, as its jobs were tracked."""
        from specexp.report.wandb_report import WandbSweep, WandbTracker

        trackers = [run.config["tracker"] for run in runs if run.config.get("tracker")]
        ours = f"{WandbTracker.__module__}.{WandbTracker.__qualname__}"
        settings = next((node for node in trackers if node.get("_target_") == ours), None)
        if settings is None:
            return
        from specexp.report.rows import SETTING, renamed

        tracker = WandbSweep(**{key: value for key, value in settings.items() if not key.startswith("_") and key != "name"})
        tracker.pictures = sorted((self._directory / "figures").glob("*.png"))
        tracker.x = next((key for key in STEPS if len({row.get(SETTING + key) for row in rows} - {None}) > 1), None)
        tracker.start({"sweep": self._command}, self._directory, self._directory.name)
        fast = [row for row in rows if row.get("speedup") and row["state"] == "finished"]
        best = max(fast, key=lambda row: row["speedup"], default={})
        states = [run.state for run in runs]
        summary = {"jobs": len(runs), "failed": states.count("failed")}
        tracker.finish(summary | {f"best_{key}": best.get(key) for key in ("label", "speedup")}, [renamed(row) for row in rows])
        note = self._directory / "wandb.json"
        if note.is_file() and "home" in read_object(note):
            command = f"python -m specexp.report sync {shlex.quote(str(self._directory))} | xargs wandb sync"
            print(f"W&B: the sweep was logged offline; to upload all of it: {command}", file=sys.stderr)

    def _tell_held_out(self) -> None:
        """After a search: the command that tests what it found on the prompts it has not seen."""
        file = self._directory / TUNED
        if not file.is_file():
            return
        best = OmegaConf.load(file).get("best_params") or {}
        kept = [given for given in self._command if given.partition("=")[0] not in {*best, "part"} and not given.startswith("hydra")]
        command = shlex.join(["python", "-m", "specexp", *kept, *(f"{key}={value}" for key, value in best.items()), "part=test"])
        print(f"found on one part of the prompts; to test it on the other: {command}")


def _done(directory: Path, began: float) -> tuple[int, int]:
    """(jobs that are at their end, those of them that failed since `began`)."""
    finished = {file.parent for file in directory.rglob("summary.json")}
    failed = {file.parent for file in directory.rglob(FAILURE) if file.stat().st_mtime >= began - 1}
    return len(finished | failed), len(failed)


def _quieten_search(config: DictConfig) -> None:
    """Optuna announces every study and trial by a handler of its own, beside what Hydra says of them."""
    if "n_trials" in config.hydra.sweeper and find_spec("optuna") is not None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)


def _given(config: DictConfig) -> list[str]:
    """The overrides of the whole sweep; an interpolation in one is resolved in its jobs, as it may lead to what the sweep varies."""
    return OmegaConf.to_container(config.hydra.overrides.task, resolve=False)


def _count(config: DictConfig) -> int | None:
    """How many jobs the sweep will have, where its sweeper lets that be known beforehand. Jobs with the same overrides are one, since they
    share a directory."""
    sweeper = config.hydra.sweeper
    if "n_trials" in sweeper:
        return sweeper.n_trials
    params = OmegaConf.to_container(sweeper.params, resolve=False) if sweeper.get("params") else {}
    given = [*(f"{key}={value}" for key, value in params.items()), *_given(config)]
    try:
        overrides = OverridesParser.create().parse_overrides(given)
        jobs = rows(sweeper.jobs, overrides) if "jobs" in sweeper else BasicSweeper.split_arguments(overrides, None)[0]
        return len({tuple(sorted(job)) for job in jobs})
    except (HydraException, AssertionError):  # a sweep over glob(*): its choices are another's to look up
        return None


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
