"""The run directory: records as they are made, and at the end the summary and the samples, all of it JSON that other programs can read.

A kill loses at most the record that is being written, and a file that is replaced as a whole is there in the old or in the new form. Two
runs never write into one directory at a time (on one machine; on a file system without locks there is only a warning), and records of
different configurations never mix. The form of a record is known here (figures/record.py), and what it means is not. POSIX only.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from specexp.errors import UserError
from specexp.figures.record import Record
from specexp.tracking.environment import MISSING, differing_keys

if TYPE_CHECKING:
    from filelock import BaseFileLock


logger = logging.getLogger(__name__)
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
FAILURE = "failure.json"
SHOWN = 3  # differing keys named in a refusal


def to_json(value: object, indent: int | None = None) -> str:
    """`value` as ASCII JSON, in which NaN and infinities become null because JSON has no number for them."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _parse_records(file: Path) -> tuple[list[Record], int]:
    """The records in the file and the bytes they take, a broken last line without its newline, which a write cut short leaves, left out.
    Raises UserError for any other line that is no record, with the file and the place in it.
    """
    records, good = [], 0
    data = file.read_bytes()
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        content = _parse(line)
        if content is None and good + len(line) == len(data) and not line.endswith(b"\n"):
            break
        if content is None and line.strip():
            raise UserError(f"{file}, line {number} is not a JSON object: {line[:40]!r}; mend or delete that line.")
        try:
            records += [] if content is None else [Record.from_json(content)]
        except ValueError as error:
            raise UserError(f"{file}, record {len(records) + 1} {error}: mend or delete that line.") from error
        good += len(line)
    return records, good


def read_object(path: Path) -> dict:
    """The one object in a JSON file. Raises UserError, with the file's name, where the file holds anything else."""
    value = _parse(path.read_bytes())
    if value is None:
        raise UserError(f"{path} is not a JSON object any more; mend or delete it.")
    return value


def _parse(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def write_whole(path: Path, text: str) -> None:
    """Replaces `path` by `text` so that a reader, or a kill, finds either the old file or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):  # the directory itself may be missing, or no directory
            draft.unlink()
        raise UserError(f"cannot write {path} ({error.strerror}); make room or choose another directory with hydra.run.dir=DIR.") from error


def remove_drafts(directory: Path) -> None:
    """Removes what a kill left of `write_whole`; for a directory in which nobody else is writing."""
    for draft in directory.glob(".*.tmp"):
        draft.unlink()


def read_records(path: Path | str) -> list[Record]:
    """The records of a run, finished, killed or still going, read without a lock and without repairs; `path` is the run directory."""
    file = Path(path) / "records.jsonl"
    if not file.is_file():
        raise UserError(f"{path} holds no records.jsonl; name the directory of a run.")
    return _parse_records(file)[0]


def write_failure(path: Path | str, error: str, trace: str | None = None) -> None:
    """Notes in a run directory why its job could not run, until a later job there gets going. A finished run stays finished, whatever came
    of a later attempt. trace: the traceback of a defect."""
    if Path(path).is_dir() and not (Path(path) / "summary.json").is_file():
        write_whole(Path(path) / FAILURE, to_json({"error": error, "trace": trace}, indent=2) + "\n")


def read_environment(path: Path | str) -> dict:
    """The content of environment.json, {} where a run has not written any yet; `path` is the run directory."""
    file = Path(path) / "environment.json"
    return read_object(file) if file.is_file() else {}


class RunDirectory:
    """`with RunDirectory(path, config) as run:` owns the directory until the block ends.

    `config`: the resolved configuration as YAML text. Keys in `exclude` (dotted; each covers what is below it) may differ from those
    of the records already there. Entering raises UserError when the directory cannot be written, is in use, or holds records of another
    configuration or a malformed line; a last line cut short by a kill is removed.
    """

    def __init__(self, path: Path | str, config: str, exclude: Collection[str] = ()):
        self.path = Path(path)
        self._config, self._exclude = config, exclude
        self._existing: list[Record] = []
        self._stream: BinaryIO | None = None
        self._lock: BaseFileLock | None = None

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path / ".lock")
            self._existing = self._resume()
            self._stream = (self.path / "records.jsonl").open("ab", buffering=0)
            (self.path / FAILURE).unlink(missing_ok=True)
        except OSError as error:
            self.close()
            raise self._unwritable(error) from error
        except UserError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up the directory; it may be called twice."""
        if self._stream:
            self._stream.close()
        if self._lock is not None:
            self._lock.release()
        self._stream = self._lock = None

    def existing(self) -> list[Record]:
        """The records that were there when the directory was entered, in file order."""
        return list(self._existing)

    def append(self, record: Record) -> None:
        """Adds one record; when this returns, a kill of the process cannot lose it."""
        left = memoryview(f"{to_json(record.to_json())}\n".encode())
        try:
            while left:
                left = left[self._stream.write(left):]
        except OSError as error:
            raise self._unwritable(error) from error

    def write_summary(self, summary: dict) -> None:
        """Replaces summary.json as a whole. Raises TypeError for a value that is not a scalar, since the file is flat."""
        if nested := [key for key, value in summary.items() if isinstance(value, (dict, list, tuple))]:
            raise TypeError(f"summary.json is flat, but {nested[0]} is not a scalar")
        write_whole(self.path / "summary.json", to_json(summary, indent=2) + "\n")
        (self.path / FAILURE).unlink(missing_ok=True)  # of a second job that found the directory in use

    def write_environment(self, environment: dict) -> None:
        """Writes environment.json. What an earlier session of this run wrote moves into `earlier_sessions`, so that records made on two
        machines can be recognised.
        """
        file, before = self.path / "environment.json", read_environment(self.path)
        earlier = [*before.pop("earlier_sessions", []), before] if before else []
        write_whole(file, to_json(environment | ({"earlier_sessions": earlier} if earlier else {}), indent=2) + "\n")

    def write_samples(self, method: Iterable[dict], baseline: Iterable[dict]) -> None:
        """Writes samples.jsonl and baseline_samples.jsonl, a line per sample (HumanEval's {task_id, completion}); a side without samples
        has no file.
        """
        for name, lines in (("samples.jsonl", method), ("baseline_samples.jsonl", baseline)):
            if text := "".join(to_json(line) + "\n" for line in lines):
                write_whole(self.path / name, text)

    def _resume(self) -> list[Record]:
        """The records already there, if they are of this configuration; afterwards the file ends in a complete line."""
        file, config = self.path / "records.jsonl", self.path / "config.yaml"
        remove_drafts(self.path)
        records, good = _parse_records(file) if file.exists() else ([], 0)
        if records:
            self._refuse_other(config)
        else:
            write_whole(config, self._config)
        if file.exists():
            _mend(file, good)
        return records

    def _refuse_other(self, config: Path) -> None:
        if not config.is_file():
            raise UserError(f"{self.path} holds records but no config.yaml to compare with; choose another hydra.run.dir=DIR.")
        try:
            differences = list(differing_keys(config.read_text(encoding="utf-8"), self._config, self._exclude))
        except ValueError as error:
            raise UserError(f"{config} is not readable YAML any more; choose another directory with hydra.run.dir=DIR.") from error
        if any(key == "method._target_" and old == MISSING for key, old, _ in differences):
            raise UserError(
                f"{self.path} was written by an older version, whose configurations had another form; `specexp report {self.path}` reads "
                "it, and a new run needs another hydra.run.dir=DIR."
            )
        if named := "; ".join(f"{key} was {old!r}, now {new!r}" for key, old, new in differences[:SHOWN]):
            raise UserError(
                f"{self.path} holds records of another configuration ({named}); repeat that one or choose another hydra.run.dir=DIR."
            )

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"cannot write to the run directory {self.path} ({error.strerror}); choose another with hydra.run.dir=DIR.")


def _locked(path: Path) -> BaseFileLock | None:
    """A lock that is held until it is released or the process ends, however it ends. None where the file system has no locks."""
    from filelock import Timeout, UnixFileLock  # takes longer to load than a report takes to read its records

    lock = UnixFileLock(path, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        owner = path.read_text(errors="replace").strip()
        raise UserError(f"{path.parent} is in use by process {owner or '?'}; wait for it or choose another hydra.run.dir=DIR.") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s is on a file system without locks: nothing keeps a second run out of it.", path.parent)
        return None
    path.write_text(f"{os.getpid()}\n")
    return lock


def _mend(file: Path, good: int) -> None:
    """Cuts `file` to its first `good` bytes and lets it end in a newline."""
    with file.open("r+b") as stream:
        stream.truncate(good)
        if good and stream.seek(good - 1) is not None and stream.read(1) != b"\n":
            stream.write(b"\n")
