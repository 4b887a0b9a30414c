"""`python -m specexp.report sync DIR... | xargs wandb sync`: the W&B directories of runs that were logged offline, one a line.

W&B marks what it has uploaded, and that is left out; W&B's directories may have been moved with the rest of the project's output.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from specexp.errors import UserError
from specexp.report.runs import find_runs
from specexp.tracking.jsonl import read_object


def main(arguments: Sequence[str]) -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m specexp.report sync", description=__doc__, formatter_class=layout)
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
