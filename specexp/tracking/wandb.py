"""Weights & Biases as a mirror of a run that is already on disk; also what an experiment asks of every tracker, and the tracker that does
nothing.

Everything happens in `finish`. So no W&B process exists while examples are timed, a run that was killed and resumed becomes one W&B run,
and whatever W&B does can cost neither the run nor its exit code. It never asks the user anything, and gives up on a network that does not
answer. This module knows records and summaries and nothing of models.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Self

from specexp.errors import UserError
from specexp.figures.acceptance import spans
from specexp.figures.record import Record, SideRecord
from specexp.figures.speed import example_figures
from specexp.tracking.records import read_object, to_json, write_whole

logger = logging.getLogger(__name__)
MODES = ("auto", "online", "offline", "disabled")
SYNONYMS = {"dryrun": "offline", "run": "online", "shared": "online"}  # of WANDB_MODE
INIT_SECONDS, UPLOAD_SECONDS = 8.0, 12.0
LONGEST_NAME = 128
COLUMNS = ("id", "sample", "prompt", "baseline", "method", "baseline_score", "method_score", "speedup", "coloured")
COLOURS = {"target": "#e8e8e8", "draft": "#cdeccd", "draft0": "#cdeccd", "draft1": "#b4e3d6", "draft2": "#e6edb0", "draft3": "#d9d2f2",
           "bonus": "#cfe8ff", "resample": "#ffd6c9", "": "#ffffff"}  # by where a token came from, as on the report's page


class WandbTracker:
    """`mode` auto: as WANDB_MODE says, else online where W&B finds a key and offline where it finds none; disabled: nothing is logged.

    Runs lie in `directory`/wandb, as W&B's own tools expect, with the files that an upload needs beside them. `group` replaces the sweep's
    name, `name` the run directory's. Raises UserError for an unknown mode.
    """

    job_type = "run"

    def __init__(self, project: str = "specexp", mode: str = "auto", entity: str | None = None, group: str | None = None,
                 name: str | None = None, tags: tuple[str, ...] = (), directory: str = "."):
        if mode not in MODES:
            raise UserError(f"tracker.mode={mode} is not one of {', '.join(MODES)}; tracker=none does without W&B.")
        self.project, self.mode, self.entity, self.group, self.name, self.tags = project, mode, entity, group, name, tuple(tags)
        self.directory = Path(directory).absolute()

    def start(self, config: dict, run_directory: Path, group: str | None = None) -> None:
        """Remembers what the run is; uses neither disk nor network."""
        self._config, self._run_directory = config, Path(run_directory)
        self._group = self.group or group

    def finish(self, summary: dict, records: Sequence) -> None:
        """Logs the configuration, one history row per example, a table of samples and the summary. One line on the terminal says where the
        run is, or why there is none.
        """
        wanted = self._wanted_mode()
        if wanted == "disabled":
            return
        rows = self._rows(records)
        with _Caught() as caught:
            import wandb

            self._log(wandb, wanted, summary, rows)
        if caught.error:
            logger.warning("W&B failed (%s); the run is on disk in %s.", _told(caught.error), self._run_directory)

    def _rows(self, records: Sequence[Record]) -> list:
        """What is logged of the records, made before W&B is started."""
        return [_row(record) for record in records]

    def _log_rows(self, wandb, run, rows: list) -> None:
        _log_samples(wandb, run, rows)
        _log_rounds(wandb, run, [rounds for _, _, rounds in rows])

    def _wanted_mode(self) -> str:
        mode = (os.environ.get("WANDB_MODE") or "online") if self.mode == "auto" else self.mode
        return SYNONYMS.get(mode, mode)

    def _log(self, wandb, wanted: str, summary: dict, rows: list) -> None:
        alone = wandb.run is None  # otherwise a notebook's own run is going on, which keeps W&B's process
        (self.directory / "wandb").mkdir(parents=True, exist_ok=True)
        with _staging_in(self.directory / "wandb"):
            try:
                run, remark = self._begin(wandb, wanted, alone)
                self._log_rows(wandb, run, rows)
                run.summary.update(summary)
                path, url = Path(run.dir).parent, None if run.offline else run.url
                self._remember(path.parent if run.offline else None)
                run.finish()
            finally:
                if alone:
                    wandb.teardown()
        logger.info("W&B: %s", url or f"logged offline{remark}; to upload: wandb sync {path}")

    def _begin(self, wandb, wanted: str, alone: bool) -> tuple:
        """(run, remark): online if wanted and possible, otherwise offline with the reason as the remark."""
        remark = ""
        if wanted == "online" and _has_key(wandb, alone):
            with _Caught() as caught:
                return self._init(wandb, "online"), remark
            remark = f" (online failed: {_told(caught.error)})"
            if alone:
                wandb.teardown()  # without this the failed attempt keeps the run's id
        elif wanted == "online":
            remark = " (no API key: `wandb login` makes one known)"
        return self._init(wandb, "offline" if wanted == "online" else wanted), remark

    def _init(self, wandb, mode: str):
        return wandb.init(
            project=self.project, entity=self.entity, group=self._group, name=(self.name or self._run_directory.name)[:LONGEST_NAME],
            tags=self.tags, config=self._config, dir=str(self.directory), mode=mode, id=self._run_id(), resume="allow",
            reinit="create_new", settings=_settings(wandb), job_type=self.job_type,
        )

    def _run_id(self) -> str:
        """The id of the W&B run: the same for every session of one run directory, so that a run finished twice is one run at W&B."""
        file = self._run_directory / "wandb.json"
        if not file.exists():
            write_whole(file, to_json({"id": uuid.uuid4().hex[:12]}) + "\n")
        return str(read_object(file)["id"])

    def _remember(self, home: Path | None) -> None:
        """Notes where the run lies until it is uploaded, beside its id; nothing is noted once it was online."""
        note = {"id": self._run_id()} | ({} if home is None else {"home": str(home)})
        write_whole(self._run_directory / "wandb.json", to_json(note) + "\n")


class WandbCurve(WandbTracker):
    """The history of a training: `records` are its reports, {"step": .., NAME: ..}, each of which becomes a history row."""

    def _rows(self, records: list[dict]) -> list[tuple[int, dict]]:
        return [(record["step"], {name: value for name, value in record.items() if name != "step"}) for record in records]

    def _log_rows(self, wandb, run, rows: list[tuple[int, dict]]) -> None:
        for step, row in rows:
            run.log(row, step=step)


def _settings(wandb):
    """Settings for W&B: no output, short timeouts, no background statistics, no captured terminal output."""
    return wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=INIT_SECONDS, x_service_wait=INIT_SECONDS,
                          finish_timeout=UPLOAD_SECONDS, finish_timeout_raises=True)


def _has_key(wandb, alone: bool) -> bool:
    """Whether W&B finds credentials (environment, netrc, settings) without asking for them."""
    if not alone:
        return not wandb.run.offline
    try:
        wandb.setup(settings=wandb.Settings(silent=True, mode="online"))
        return wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        logger.warning("W&B: %s", _told(error))
        return False


def _row(record: Record) -> tuple[dict, tuple, dict]:
    """What one record gives: its history row, under example/ so that the summary's names stay those of the whole run; its row of the table
    of samples; and its rounds.
    """
    figures = {key: value for key, value in example_figures(record).items() if value is not None}
    method, baseline = record.method, record.baseline
    text, score = (None, {}) if baseline is None else (baseline.text, baseline.score)
    sample = (record.id, record.sample, record.prompt, text, method.text, to_json(score), to_json(method.score), figures.get("speedup"),
              coloured(method))
    rounds = {"drafted": [counts[0] for counts in method.rounds], "accepted": [counts[1] for counts in method.rounds],
              "entropy": [nats for nats in method.entropies or () if nats is not None]}
    return {f"example/{key}": value for key, value in figures.items()}, sample, rounds


def coloured(side: SideRecord) -> str:
    """The side's text as HTML, escaped, in which the background of each token shows where the token came from."""
    styled = ((f"background:{COLOURS[span.style]}", escape(span.origin), escape(span.text)) for span in spans(side))
    pieces = (f'<span style="{style}" title="{origin}">{text}</span>' for style, origin, text in styled)
    return f'<pre style="white-space:pre-wrap">{"".join(pieces)}</pre>'


def _log_samples(wandb, run, rows: list) -> None:
    run.define_metric("example/*", summary="none")
    for step, (history, _, _) in enumerate(rows):
        run.log(history, step=step)
    data = [[*sample[:-1], wandb.Html(sample[-1], inject=False)] for _, sample, _ in rows]
    run.log({"samples": wandb.Table(columns=list(COLUMNS), data=data)}, step=len(rows))


def _log_rounds(wandb, run, rounds: list[dict]) -> None:
    """Logs histograms over all rounds: tokens drafted and accepted, and the entropy where a policy read it."""
    pooled = {name: [value for example in rounds for value in example[name]] for name in ("drafted", "accepted", "entropy")}
    run.log({f"rounds/{name}": wandb.Histogram(values) for name, values in pooled.items() if any(values)}, step=len(rounds))


@contextmanager
def _staging_in(directory: Path) -> Iterator[None]:
    """Keeps the files to be uploaded with the runs, unless the user said otherwise; by default W&B keeps them under the home directory."""
    names = {"WANDB_DATA_DIR": str(directory / "data"), "WANDB_CACHE_DIR": str(directory / "cache")}
    added = {name: value for name, value in names.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class _Caught:
    """`with _Caught() as caught:` keeps in `caught.error` what W&B raised; every other exception passes, interrupts above all.

    W&B's own classes do not share a base (those of its helper process derive from Exception alone), so they are recognised by their
    package. Its teardown ends the whole program with the exit code of a helper process that died: that SystemExit is W&B's failure, not
    ours.
    """

    FAMILIES = (SystemExit, ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError, UserError)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if kind is None or not (issubclass(kind, self.FAMILIES) or kind.__module__.partition(".")[0] == "wandb"):
            return False
        self.error = error
        return True


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
