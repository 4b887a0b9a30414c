"""The runs below some directories, as they lie on disk: finished, failed, or not (yet) at their end.

Reads small files only (summary, configuration, overrides); records are read when asked for. Knows the files' names and forms, nothing of
what the figures mean.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from specexp.errors import CommandParser, UserError
from specexp.figures.record import Record
from specexp.tracking.records import FAILURE, read_environment, read_object, read_records

OLD = {"ModelRunner": "full", "StatelessRunner": "none", "SinkRunner": "sink", "StaticRunner": "static", "CompiledRunner": "compiled"}
MARKS = {"summary.json", "records.jsonl", FAILURE, "specexp.log"}  # the last: Hydra's, of a job that wrote nothing else


class Parser(CommandParser):
    """The command line of one of the report's commands. command: "" for the table of runs. text: what its --help begins with."""

    def __init__(self, command: str, text: str | None, epilog: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(f"python -m specexp.report {command}".strip(), description=text, epilog=epilog, formatter_class=layout)


@dataclass(frozen=True)
class Run:
    """`name`: its directory, seen from where it was sought. `overrides`: what its job was given, key -> text. `failure`: a sentence.
    `cache`: the kind of cache that our own models had, None where that is not known."""

    directory: Path
    name: str
    summary: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    failure: str | None = None
    cache: str | None = None

    @property
    def state(self) -> str:
        return "failed" if self.failure else "finished" if self.summary else "unfinished"

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def method(self) -> str:
        """By the summary, else by the configuration, else by what the job was given."""
        named = (self.config.get("method") or {}).get("name")
        return str(self.summary.get("method") or named or self.overrides.get("method") or "?")

    def records(self) -> list[Record]:
        """All records, [] where none was written; raises UserError for a malformed line."""
        return read_records(self.directory) if (self.directory / "records.jsonl").is_file() else []


def find_runs(places: Sequence[Path]) -> list[Run]:
    """Every run at or below the places, by name. Raises UserError for a place that is no directory or holds no run."""
    runs = []
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place} is not a directory; name the directory of a run or of a sweep.")
        found = [_run(directory, place, len(places) > 1) for directory in sorted(_directories(place))]
        if not found:
            raise UserError(f"{place} holds no run; name a directory with summary.json or records.jsonl in it or below it.")
        runs += found
    return runs


def _directories(place: Path) -> Iterator[Path]:
    for directory, below, files in os.walk(place):
        below[:] = [name for name in below if not name.startswith(".") and name != "wandb"]
        if MARKS & set(files):
            yield Path(directory)


def _run(directory: Path, place: Path, several: bool) -> Run:
    inside = directory.relative_to(place)
    name = str(place / inside if several else inside if inside.parts else place.absolute().name)
    summary, failure = (read_object(file) if file.is_file() else {} for file in (directory / "summary.json", directory / FAILURE))
    config = _yaml(directory / "config.yaml") or {}
    overrides = _overrides(directory) if config else _choices(directory) | _overrides(directory)
    kind = read_environment(directory).get("cache")
    return Run(directory, name, summary, config, overrides, str(failure["error"]) if failure.get("error") else None, OLD.get(kind, kind))


def _overrides(directory: Path) -> dict[str, str]:
    """What Hydra gave the job, `+` and `~` left out of the keys; {} of a run that Hydra did not begin."""
    given = _yaml(directory / ".hydra" / "overrides.yaml") or []
    return {key.lstrip("+~"): value for key, _, value in (str(override).partition("=") for override in given)}


def _choices(directory: Path) -> dict[str, str]:
    """The names of what a job would have run, had it got as far as writing its own configuration."""
    composed = _yaml(directory / ".hydra" / "config.yaml") or {}
    groups = {group: composed.get(group) for group in ("method", "model_pair", "dataset")}
    return {group: node["name"] for group, node in groups.items() if isinstance(node, dict) and "name" in node}


def _yaml(file: Path) -> object:
    """None where there is no such file; raises UserError for one that is not YAML. What matches `skipped` is not looked at."""
    import yaml

    if not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8")
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  safe, in C: ten times as fast
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not readable YAML any more; mend it, or take its directory away.") from error
