"""A sweep at Weights & Biases: `wandb` makes a W&B Report of it, `sync` names what was logged offline and is not uploaded yet.

`python -m specexp.report wandb DIR` writes the report as JSON into DIR without any network: the sweep's table, and panels over its group of
runs. With --save it is made at W&B as well, which wants a key and the runs uploaded. Needs the extra `wandb-report`.

`python -m specexp.report sync DIR... | xargs wandb sync` uploads the rest. W&B marks what it has uploaded, and that is left out; W&B's
directories may have been moved with the rest of the project's output.

A sweep's own run in Weights & Biases, in the group of its jobs: aggregate table, figures, and the speedup against what was varied.

A mirror of what is on disk, like the jobs' runs; knows rows of figures and files of pictures, nothing of how they were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from specexp.errors import UserError
from specexp.report.columns import short, visible
from specexp.report.formats import markdown
from specexp.report.rows import kind, make_rows, notes
from specexp.report.runs import Parser, Run, find_runs
from specexp.tracking.records import read_object, write_whole
from specexp.tracking.wandb import WandbTracker

FILE = "wandb_report.json"
ABOUT = "Speculative decoding, each run measured against its own interleaved baseline."


def main(arguments: Sequence[str]) -> None:
    parser = Parser("wandb", __doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a sweep's directory")
    parser.add_argument("--save", action="store_true", help="create it at W&B as well")
    options = parser.parse_args(arguments)
    runs = find_runs([options.directory])
    tracker = next((run.config["tracker"] for run in runs if "project" in (run.config.get("tracker") or {})), {})
    group = tracker.get("group") or options.directory.absolute().name
    report = build(runs, tracker.get("project", "specexp"), group, tracker.get("entity") if options.save else None, online=options.save)
    write_whole(options.directory / FILE, serialised(report) + "\n")
    print(options.directory / FILE)
    if options.save:
        print(_saved(report))


def build(runs: Sequence[Run], project: str, group: str, entity: str | None = None, online: bool = False):
    """A wandb_workspaces Report. Offline its runs are of no project (naming one makes the library ask W&B who is asking)."""
    reports, expressions = _library()
    rows = make_rows(runs)
    table = markdown(short(visible(rows)), rows, notes(runs))
    where = {"project": project} | ({"entity": entity} if entity else {}) if online else {}
    runset = reports.Runset(name=group, filters=[expressions.Metric("Group") == group], **where)
    blocks = [reports.H1("Results"), reports.MarkdownBlock(table), reports.H1("Runs"),
              reports.PanelGrid(runsets=[runset], panels=_panels(reports))]
    owner = {} if online and not entity else {"entity": entity or ""}  # not named online: the key's own
    return reports.Report(project=project, title=f"specexp: {group}", description=ABOUT, blocks=blocks, **owner)


def _panels(reports) -> list:
    return [
        reports.BarPlot(title="Speedup", metrics=["speedup"], orientation="h"),
        reports.ScatterPlot(title="Acceptance and speed", x="draft_acceptance_rate", y="speedup"),
        reports.ScatterPlot(title="Speedup against draft length", x=reports.Config("method.gamma"), y="speedup"),
        reports.LinePlot(title="Speedup of each example", y=["example/speedup"]),
    ]


def serialised(report) -> str:
    """What W&B would be sent, as JSON."""
    return report._to_model().model_dump_json(indent=2, by_alias=True, exclude_none=True)


def _library():
    try:
        import wandb_workspaces.expr as expressions
        import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        raise UserError("W&B reports need wandb-workspaces: pip install 'specexp[wandb-report]'.") from error
    return reports, expressions


def _saved(report) -> str:
    import wandb

    try:
        report.save()
    except (wandb.errors.Error, ValueError, OSError) as error:
        way_out = "is there a key (wandb login), is the sweep uploaded (python -m specexp.report sync)?"
        raise UserError(f"W&B did not take the report ({type(error).__name__}: {error}); {way_out}") from error
    return report.url


def sync(arguments: Sequence[str]) -> None:
    """`python -m specexp.report sync DIR... | xargs wandb sync`: the W&B directories of runs that were logged offline, one a line."""
    parser = Parser("sync", sync.__doc__)
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="run or sweep directories")
    parser.add_argument("--wandb", type=Path, metavar="DIR", help="where W&B's runs lie, if not where they were written")
    options = parser.parse_args(arguments)
    for directory in offline_runs(options.directories, options.wandb):
        print(directory)


def offline_runs(places: Sequence[Path], moved: Path | None = None) -> list[Path]:
    """W&B's directories of all runs (and sweeps) below the places that are not uploaded yet. Raises UserError where one is gone."""
    notes = [note for place in places for note in _notes(place)]
    found = [directory for note in dict.fromkeys(notes) for directory in _directories(read_object(note), moved, note)]
    return [directory for directory in found if not list(directory.glob("*.wandb.synced"))]


def _notes(place: Path) -> Iterator[Path]:
    """wandb.json of the sweep itself and of each run."""
    for directory in dict.fromkeys([place, *(run.directory for run in find_runs([place]))]):
        if (directory / "wandb.json").is_file():
            yield directory / "wandb.json"


def _directories(note: dict, moved: Path | None, file: Path) -> list[Path]:
    """Of one run: each session of it has a directory, all with the run's id."""
    if "home" not in note:  # it was online
        return []
    home = moved or Path(str(note["home"]))
    found = sorted(home.glob(f"offline-run-*-{note['id']}"))
    if not found:
        raise UserError(f"{file} names a run {note['id']} that is not in {home}; say where W&B's runs lie with --wandb DIR.")
    return found


CURVES = ("speedup", "predicted_speedup", "output_tps_per_user", "mean_acceptance_length", "draft_acceptance_rate")


class WandbSweep(WandbTracker):
    """`records` of `finish` are the rows of the sweep's table. pictures: PNG files. x: the row's key whose whole numbers are the steps of
    the history (a draft length, say), so that curves can be looked at offline too; None: no curves."""

    job_type = "sweep"
    pictures: Sequence[Path] = ()
    x: str | None = None

    def _rows(self, records: list[dict]) -> list[dict]:
        return records

    def _log_rows(self, wandb, run, rows: list[dict]) -> None:
        for step, row in self._steps(rows).items():
            run.log(row, step=step)
        last = max(self._steps(rows), default=-1) + 1
        keys = list(dict.fromkeys(key for row in rows for key in row))
        table = wandb.Table(columns=keys, data=[[_cell(row.get(key)) for key in keys] for row in rows], allow_mixed_types=True)
        run.log({"sweep": table, **{f"figures/{file.stem}": wandb.Image(str(file)) for file in self.pictures}}, step=last)

    def _steps(self, rows: Sequence[dict]) -> dict[int, dict[str, float]]:
        """Step -> NAME/METHOD -> figure; where a method has several rows at one step, its kinds of run have a curve each."""
        steps: dict[int, dict[str, float]] = {}
        drawn = [row for row in rows if self.x and isinstance(row.get(self.x), int)]
        counts = Counter((row["method"], row[self.x]) for row in drawn)
        several = {method for (method, _), count in counts.items() if count > 1}
        for row in drawn:
            curve = kind(row, drawn, self.x) if row["method"] in several else row["method"]
            figures = {f"{name}/{curve}": row[name] for name in CURVES if isinstance(row.get(name), float)}
            steps.setdefault(row[self.x], {}).update(figures)
        return dict(sorted(steps.items()))


def _cell(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
